"""flexeval with this model and with its own HuggingFaceLM. flexeval is no part of an extra."""

from __future__ import annotations

import pytest
import torch

from llama_jp.checkpoint.hub import demo_folder

pytest.importorskip("flexeval", reason="flexeval is not installed: pip install flexeval")
from flexeval.core.language_model.hf_lm import HuggingFaceLM

from llama_jp.evaluation.flexeval_adapter import LlamaJpLanguageModel

TEXT = "クマが海辺に行って、アザラシと友達になりました。"


@pytest.fixture(scope="module")
def models():
    options = {"torch_dtype": "float32", "device_map": None}
    theirs = HuggingFaceLM(str(demo_folder()), model_kwargs=options)
    return LlamaJpLanguageModel("demo", dtype="float32", device="cpu"), theirs


@pytest.mark.parametrize(
    "options",
    [{}, {"stop_sequences": ["。"]}, {"stop_sequences": "、れんが"}, {"do_sample": True, "temperature": 0.8}],
)
def test_answers_are_those_of_flexevals_own_model(models, options):
    outputs = []
    for model in models:
        model.set_random_seed(0)
        outputs.append(model.complete_text([TEXT[:10], TEXT[:3]], max_new_tokens=20, **options))
    assert outputs[0] == outputs[1]


def test_log_probs_are_those_of_flexevals_own_model(models):
    """Also of a text beyond the context, with both strides. Batches have other padding, so rounding differs."""
    for arguments in (([TEXT, TEXT[:9]], None), (["アザラシ", "犬が"], ["クマが海辺に行って、", "猫"])):
        ours, theirs = (model.compute_log_probs(*arguments) for model in models)
        assert ours == pytest.approx(theirs, rel=1e-6)
    for stride in (None, 300):
        ours, theirs = (model.compute_log_probs([TEXT * 80], stride=stride) for model in models)
        assert ours == pytest.approx(theirs, rel=1e-6)


def test_a_conversation_is_encoded_as_in_training(models):
    ours = models[0]
    chat = [{"role": "user", "content": "犬の話を書いて"}]
    prompt = ours.tokenizer.chat(chat)
    output = ours.generate_chat_response(chat, max_new_tokens=8)
    assert output == ours.answer([prompt], max_new_tokens=8)[0] and output.text
    response = {"role": "assistant", "content": "犬です。"}
    whole = ours.tokenizer.chat([*chat, response], add_generation_prompt=False)
    with torch.no_grad():
        log_probs = ours.model(torch.tensor([whole]))[0, :-1].log_softmax(-1)
    expected = log_probs.gather(-1, torch.tensor(whole[1:])[:, None])[len(prompt) - 1 :].sum()
    assert ours.compute_chat_log_probs(chat, response) == pytest.approx(float(expected), rel=1e-5)
