"""The mistakes in pasted ids: every kind, with the demo's tokenizer and with Llama 2's."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from helpers.tokenizer_files import real_data

from llama_jp.text.prompt_forms import card_prompt, forms_of_prompt
from llama_jp.text.prompt_mistakes import KINDS, META, find_mistakes
from llama_jp.text.template import DEFAULT_SYSTEM_PROMPT, instruct_prompt
from llama_jp.text.tokenizer import Tokenizer

SYSTEM = DEFAULT_SYSTEM_PROMPT
MESSAGE = "誠実なクマが海辺に行く話を書いてください。"
PAGES = [Path(__file__).parents[2] / "docs" / name for name in ("prompts.md", "prompts.ja.md")]


@pytest.fixture(scope="module", params=["demo", "llama2"])
def tokenizer(request):
    return Tokenizer.from_pretrained("demo" if request.param == "demo" else real_data("llama2-tokenizer"))


def text_of(message=MESSAGE, system=SYSTEM, first="[INST] ", block="<<SYS>>\n{}\n<</SYS>>\n\n", last=" [/INST] "):
    return first + block.format(system) + message + last


def in_parts(tokenizer, *texts):
    return [1] + [i for text in texts for i in tokenizer.encode(text, bos=False)]


def tags_as_tokens(tokenizer):
    """The ids after `tokenizer.add_tokens(["[INST]", "<<SYS>>", "<</SYS>>", "[/INST]"])`."""
    V = tokenizer.vocab_size
    texts = (f"\n{SYSTEM}\n", f"\n\n{MESSAGE} ")
    first, second = (tokenizer.encode(text, bos=False) for text in texts)
    return [1, V, V + 1, *first, V + 2, *second, V + 3]


# Ids by tokenizer and trained ids, and the mistakes in them. "…" is decoded with the message unknown.
IDS = {
    "nothing": (lambda t, right: right, []),
    # whole sequences
    "reversed": (lambda t, right: right[::-1], ["reversed ids"]),
    "one too high": (lambda t, right: [i + 1 for i in right], ["shifted ids"]),
    "one too low": (lambda t, right: [i - 1 for i in right], ["shifted ids"]),
    "three too high": (lambda t, right: [i + 3 for i in right], ["shifted ids"]),
    "another tokenizer": (lambda t, right: [i + 40000 for i in right], ["wrong vocabulary"]),
    "tags as tokens": (lambda t, right: tags_as_tokens(t), ["tags as tokens"]),
    "no byte fallback": (
        lambda t, right: [0 if i in t.vocabulary.byte_values else i for i in right],
        ["unknown tokens"],
    ),
    "two turns": (lambda t, right: instruct_prompt(t, MESSAGE, history=[("犬", "海")]), ["several turns"]),
    # before and after the text
    "doubled BOS": (lambda t, right: [1, *right], ["doubled BOS"]),
    "three times BOS": (lambda t, right: [1, 1, *right], ["doubled BOS"]),
    "missing BOS": (lambda t, right: right[1:], ["missing BOS"]),
    "BOS and EOS swapped": (lambda t, right: [2, *right[1:]], ["EOS for BOS"]),
    "padding in front, <unk>": (lambda t, right: [0, 0, 0, *right], ["padding in front"]),
    "padding in front, </s>": (lambda t, right: [2, 2, *right], ["padding in front"]),
    "padding at the end": (lambda t, right: [*right, 2, 2, 2], ["padding at the end"]),
    "EOS appended": (lambda t, right: [*right, 2], ["EOS appended"]),
    "cut from the left": (lambda t, right: right[3:], ["truncated in front"]),
    "cut from the left, far": (lambda t, right: right[20:], ["truncated in front"]),
    "cut from the right": (lambda t, right: right[:-8], ["truncated at the end"]),
    "cut from the right, far": (lambda t, right: right[:20], ["truncated at the end"]),
    "the first tokens": (lambda t, right: right[:2], ["truncated at the end"]),
    "the first tokens, whole string": (
        lambda t, right: forms_of_prompt(t, MESSAGE)[3].ids[: 3 if t.vocab_size == 32000 else 5],
        ["whole string", "truncated at the end"],
    ),
    "the first tokens, transformers 5": (
        lambda t, right: forms_of_prompt(t, MESSAGE)[1].ids[:2],
        ["truncated at the end", "transformers 5"],
    ),
    "with an answer": (lambda t, right: t.encode(card_prompt(MESSAGE) + "承知しました。"), ["answer included"]),
    # how the text was cut
    "transformers 5": (lambda t, right: forms_of_prompt(t, MESSAGE)[1].ids, ["transformers 5"]),
    "whole string": (lambda t, right: forms_of_prompt(t, MESSAGE)[3].ids, ["whole string"]),
    "whole string after BOS": (lambda t, right: [1, *forms_of_prompt(t, MESSAGE)[3].ids], ["whole string"]),
    "three parts": (
        lambda t, right: in_parts(t, card_prompt(MESSAGE).split(MESSAGE)[0], MESSAGE, " [/INST] "),
        ["parts encoded one by one"],
    ),
    "six parts": (
        lambda t, right: in_parts(t, "[INST] ", "<<SYS>>\n", SYSTEM, "\n<</SYS>>\n\n", MESSAGE, " [/INST] "),
        ["parts encoded one by one"],
    ),
    "bytes": (lambda t, right: message_in_bytes(t, right), ["another segmentation"]),
}

# Strings, which are encoded as they should be, and the mistakes in them.
TEXTS = {
    "no template": (MESSAGE, ["no template"]),
    "ChatML": (f"<|im_start|>user\n{MESSAGE}<|im_end|>\n<|im_start|>assistant\n", ["another template"]),
    "Alpaca": (f"### Instruction:\n{MESSAGE}\n\n### Response:\n", ["another template"]),
    "Alpaca in Japanese": (f"### 指示:\n{MESSAGE}\n\n### 応答:\n", ["another template"]),
    "dialogue": (f"ユーザー: {MESSAGE}\nシステム: ", ["another template"]),
    "HTML": (card_prompt(MESSAGE).replace("<", "&lt;").replace(">", "&gt;"), ["HTML escapes"]),
    r"\n": (card_prompt(MESSAGE).replace("\n", r"\n"), [r"\n as two characters"]),
    "CR LF": (card_prompt(MESSAGE).replace("\n", "\r\n"), ["line ends CR LF"]),
    "space after <s>": (" " + card_prompt(MESSAGE), ["space after <s>"]),
    "no space after [INST]": (text_of(first="[INST]"), ["no space after [INST]"]),
    "two spaces after [INST]": (text_of(first="[INST]  "), ["extra space after [INST]"]),
    "no system block": (text_of(block=""), ["no system block"]),
    "Meta's system prompt": (
        text_of(system=META + " Always answer as helpfully as possible."),
        ["Meta's system prompt"],
    ),
    "another system prompt": (text_of(system="短く答えてください。"), ["another system prompt"]),
    "no line end after <<SYS>>": (text_of(block="<<SYS>>{}\n<</SYS>>\n\n"), ["no line end after <<SYS>>"]),
    "no line end before <</SYS>>": (text_of(block="<<SYS>>\n{}<</SYS>>\n\n"), ["no line end before <</SYS>>"]),
    "spaces for line ends": (
        text_of(block="<<SYS>> {} <</SYS>>\n\n"),
        ["no line end after <<SYS>>", "no line end before <</SYS>>"],
    ),
    "an empty line": (text_of(block="<<SYS>>\n\n{}\n\n<</SYS>>\n\n"), ["space around the system prompt"]),
    "one line end": (text_of(block="<<SYS>>\n{}\n<</SYS>>\n"), ["one line end after <</SYS>>"]),
    "no line end": (text_of(block="<<SYS>>\n{}\n<</SYS>>"), ["no line end after <</SYS>>"]),
    "space before the message": (text_of(" " + MESSAGE), ["space before the message"]),
    "no space before [/INST]": (text_of(last="[/INST] "), ["no space before [/INST]"]),
    "two spaces before [/INST]": (text_of(last="  [/INST] "), ["extra space before [/INST]"]),
    "stripped": (text_of().strip(), ["no space at the end"]),
    "a line end at the end": (text_of(last=" [/INST]\n"), ["line end at the end"]),
    "two spaces at the end": (text_of(last=" [/INST]  "), ["extra space at the end"]),
    "bytes as text": (text_of(MESSAGE.replace("誠", "<0xE8><0xAA><0xA0>")), ["bytes as text"]),
    "Latin-1": (text_of("クマ".encode().decode("latin-1")), ["mojibake"]),
    "Windows-1252": (text_of("食べ物".encode().decode("cp1252", "ignore")), []),  # bytes were lost: nothing certain
    "Shift-JIS": (text_of("海辺".encode().decode("cp932")), ["mojibake"]),
    # as seen in public
    "a scrap on prompts": (
        f"[INST]<<SYS>>\n{SYSTEM}\n<</SYS>>\n{MESSAGE} [/INST]",
        ["no space after [INST]", "one line end after <</SYS>>", "no space at the end"],
    ),
    "a benchmark": (
        f"[INST] <<SYS>>\n{SYSTEM}\n<</SYS>>\n{MESSAGE} [/INST]",
        ["one line end after <</SYS>>", "no space at the end"],
    ),
}

# The right message, the message in the ids, and the mistakes, which only the right message brings to light.
MESSAGES = {
    "NFKC": ("㈱ＡＢＣ　の話", unicodedata.normalize("NFKC", "㈱ＡＢＣ　の話"), ["message in NFKC"]),
    "NFD": ("ガギグ", unicodedata.normalize("NFD", "ガギグ"), ["message in NFD"]),
    "half-width digits": ("犬が１０匹", "犬が10匹", ["half-width digits"]),
    "full-width digits": ("犬が10匹", "犬が１０匹", ["full-width digits"]),
    "lower case": ("PyTorchとは", "pytorchとは", ["message in lower case"]),
    "spaces lost": ("犬 と 猫", "犬と猫", ["spaces lost"]),
    "stripped": (" 犬 \n", "犬", ["message stripped"]),
    "line ends": ("犬\n猫", "犬\r\n猫", ["line ends CR LF"]),
    "another": ("犬", "猫", ["another message"]),
    "spaces kept": (" 犬 ", " 犬 ", []),
    "pieces joined": ("誠実", "<0xE8><0xAA><0xA0>実", ["bytes as text"]),
    "typed bytes": ("<0xE8>とは", "<0xE8>とは", []),
}


def message_in_bytes(tokenizer, right):
    """The right text, cut in another way: the message as bytes."""
    before, after = card_prompt(MESSAGE).split(MESSAGE)
    token = {byte: i for i, byte in tokenizer.vocabulary.byte_values.items()}
    start, stop = len(tokenizer.encode(before)), len(tokenizer.encode(after[1:], bos=False))
    return right[:start] + [token[byte] for byte in MESSAGE.encode()] + right[-stop:]


def kinds(diagnosis):
    return [mistake.kind for mistake in diagnosis.mistakes]


@pytest.mark.parametrize("with_message", [False, True])
@pytest.mark.parametrize("name", IDS)
def test_mistakes_in_ids(tokenizer, name, with_message):
    make, expected = IDS[name]
    right = tokenizer.encode(card_prompt(MESSAGE))
    ids = make(tokenizer, right)
    if name == "no byte fallback" and ids == right:
        pytest.skip("the demo's vocabulary has every character of the text")
    diagnosis = find_mistakes(tokenizer, [max(i, 0) for i in ids], MESSAGE if with_message else None)
    assert kinds(diagnosis) == expected
    if with_message:
        assert diagnosis.trained == right


@pytest.mark.parametrize("name", TEXTS)
def test_mistakes_in_texts(tokenizer, name):
    text, expected = TEXTS[name]
    assert kinds(find_mistakes(tokenizer, tokenizer.encode(text))) == expected


@pytest.mark.parametrize("name", MESSAGES)
def test_mistakes_in_the_message(tokenizer, name):
    right, seen, expected = MESSAGES[name]
    diagnosis = find_mistakes(tokenizer, tokenizer.encode(card_prompt(seen)), right)
    assert kinds(diagnosis) == expected and diagnosis.trained == tokenizer.encode(card_prompt(right))


AROUND = {  # ids of a text, with BOS, and one mistake more
    "doubled BOS": lambda ids: [1, *ids],
    "missing BOS": lambda ids: ids[1:],
    "EOS appended": lambda ids: [*ids, 2],
    "padding in front": lambda ids: [0, 0, *ids],
    "padding at the end": lambda ids: [*ids, 0, 0],
    "reversed ids": lambda ids: ids[::-1],
    "shifted ids": lambda ids: [i + 1 for i in ids],
}


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", TEXTS)
def test_mistakes_together(tokenizer, name, around):
    """Guards against a mistake that hides another one."""
    text, expected = TEXTS[name]
    if around in ("reversed ids", "shifted ids") and "[INST]" not in text:
        pytest.skip("without a tag, nothing shows the right order")
    ids = AROUND[around](tokenizer.encode(text))
    assert sorted(kinds(find_mistakes(tokenizer, ids))) == sorted([around, *expected])


def test_a_broken_character(tokenizer):
    """Guards against a lost byte, of which only U+FFFD remains in the text."""
    ids = tokenizer.encode(card_prompt("檸が好き"))
    del ids[[i for i, token in enumerate(ids) if token in tokenizer.vocabulary.byte_values][-2]]
    assert kinds(find_mistakes(tokenizer, ids)) == ["broken character"]


def test_every_kind_has_a_test_and_stands_in_the_docs():
    """Guards against a kind that is never found, or never explained."""
    tested = {kind for *_, found in [*IDS.values(), *TEXTS.values(), *MESSAGES.values()] for kind in found}
    assert {*KINDS} - tested - {"broken character"} == set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert [kind for kind in KINDS if f"`{kind}`" not in text] == []
