"""One prompt in five forms."""

from __future__ import annotations

import pytest
from helpers.tokenizer_files import llama_folder, llama_model, real_data, write

from llama_jp.text.prompt_forms import forms_of_prompt
from llama_jp.text.prompt_mistakes import find_mistakes
from llama_jp.text.template import instruct_prompt
from llama_jp.text.tokenizer import Tokenizer

MESSAGE = "誠実な犬は"


def test_the_forms_of_llama_2():
    """Guards against a form that is another one's; the ids are those of ELYZA's training and of the other tools."""
    tokenizer = Tokenizer.from_pretrained(real_data("llama2-tokenizer"))
    trained, transformers5, doubled, whole, llama_cpp = (form.ids for form in forms_of_prompt(tokenizer, MESSAGE))
    assert trained == instruct_prompt(tokenizer, MESSAGE) and trained[:4] == [1, 518, 25580, 29962]
    assert trained[-1] == 29871
    assert transformers5 == [1, 29961, *trained[2:]]
    assert doubled == [1, *trained]
    assert whole == [529, 29879, 24566, *trained[2:]]
    assert llama_cpp == trained[:-1]


def test_transformers_gives_the_second_form():
    """Guards against a form that transformers 5 does not have."""
    transformers = pytest.importorskip("transformers", minversion="5")
    folder = real_data("llama2-tokenizer")
    text = "<s>[INST] <<SYS>>\nあなたは誠実で優秀な日本人のアシスタントです。\n<</SYS>>\n\n誠実な犬は [/INST] "
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert forms_of_prompt(Tokenizer.from_pretrained(folder), MESSAGE)[1].ids == theirs.encode(
        text, add_special_tokens=False
    )
    assert theirs.encode(text)[:2] == [1, 1], "the third form: BOS is added to the one in the text"


CHATML = """\
{{ begin }}{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


@pytest.mark.parametrize(("begin", "third"), [("", "added BOS"), ("<s>", "doubled BOS")])
def test_the_forms_of_another_template(tmp_path, begin, third):
    """Guards against ELYZA's prompt for a checkpoint with a template of its own."""
    transformers = pytest.importorskip("transformers", minversion="5")
    template = CHATML.replace("{{ begin }}", begin)
    folder = write(llama_folder(tmp_path), chat_template_jinja=template)
    write(folder, added_tokens_json={"<|im_start|>": 560, "<|im_end|>": 561})
    named = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "<|im_start|>"}
    write(folder, special_tokens_map_json=named)
    tokenizer = Tokenizer.from_pretrained(folder)
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    turn = [{"role": "user", "content": MESSAGE}]
    forms = {form.name: form.ids for form in forms_of_prompt(tokenizer, MESSAGE)}
    assert [*forms] == ["as trained", "transformers 5", third, "special as text", "no answer begun"]
    text = tokenizer.chat_text(turn)
    assert text == reference.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    assert forms["as trained"] == reference.apply_chat_template(turn, add_generation_prompt=True).input_ids
    assert forms[third] == reference(text).input_ids == [1, *forms["as trained"]]
    assert forms["special as text"] == reference(text, add_special_tokens=False, split_special_tokens=True).input_ids
    assert forms["no answer begun"] == reference.apply_chat_template(turn).input_ids
    later = transformers.LlamaTokenizer.from_pretrained(folder)
    assert forms["transformers 5"] == later.apply_chat_template(turn, add_generation_prompt=True).input_ids
    with pytest.raises(
        ValueError, match=r"chat_template\.jinja: the chat template is not ELYZA's, and only mistakes in ids"
    ):
        find_mistakes(tokenizer, forms["as trained"])


def test_what_cannot_be_explained(tmp_path):
    """Guards against ELYZA's prompt from a tokenizer without BOS."""
    without_bos = Tokenizer.from_pretrained(write(tmp_path / "no", tokenizer_model=llama_model(bos_id=-1)))
    with pytest.raises(ValueError, match="no BOS"):
        forms_of_prompt(without_bos, "犬")
