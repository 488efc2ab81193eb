"""Models that flags choose."""

from __future__ import annotations

import pytest
import torch
from helpers.changed_models import no_rope

from llama_jp.cli import make_parser
from llama_jp.cli.models import open_assistant, open_model
from llama_jp.model import Llama
from llama_jp.text.tokenizer import Tokenizer


def parse(*words: str):
    return make_parser(["generate"]).parse_args(["generate", "犬", *words])


def test_flags_reach_the_model(base_folder):
    model, tokenizer = open_model(
        parse("--model", str(base_folder), "--dtype", "float16", "--attention", "eager", "--rope-scaling", "linear:2")
    )
    assert model.embed_tokens.weight.dtype.itemsize == 2
    assert model.config.rope_scaling == {"rope_type": "linear", "factor": 2.0}
    assert tokenizer.vocab_size == model.config.vocab_size


def test_the_model_of_a_function_has_the_tokenizer_of_its_folder():
    """Guards against another tokenizer, and against a flag that the function's model would silently not follow."""
    model, tokenizer = open_model(parse("--model", "helpers.changed_models:make"))
    assert tokenizer.vocab_size == model.config.vocab_size and model.embed_tokens.weight.dtype == torch.float32
    with pytest.raises(ValueError, match="has its own attention"):
        open_model(parse("--model", "helpers.changed_models:make", "--attention", "eager"))


def test_a_changed_model_needs_trust(folder, tmp_path):
    """Guards against a changed model that answers as a plain one, and against --rope-scaling in place of its rope."""
    changed = str(tmp_path / "changed")
    Llama.from_pretrained(folder, rope=no_rope, dtype="float32").save_pretrained(changed)
    with pytest.raises(ValueError, match="holds a changed model .*--trust-parts"):
        open_model(parse("--model", changed))
    model, _ = open_model(parse("--model", changed, "--trust-parts"))
    assert model.rope is no_rope
    with pytest.raises(ValueError, match="a rope of its own"):
        open_model(parse("--model", changed, "--trust-parts", "--rope-scaling", "linear:2"))
    tokenizer = Tokenizer.from_pretrained(folder)
    assert open_assistant(parse("--assistant-model", changed, "--trust-parts"), tokenizer).rope is no_rope


def test_the_numerical_deviation_of_optimize_is_reported(folder, capsys):
    open_model(parse("--model", str(folder), "--dtype", "float32", "--optimize", "exact"))
    assert "numerical deviation on 128 tokens of prose: none" in capsys.readouterr().err


def test_the_assistant_model_is_optional(folder):
    tokenizer = Tokenizer.from_pretrained(folder)
    assert open_assistant(parse(), tokenizer) is None
    assert isinstance(open_assistant(parse("--assistant-model", str(folder)), tokenizer), Llama)
    with pytest.raises(ValueError, match=r"^--num-assistant-tokens needs --assistant-model$"):
        open_assistant(parse("--num-assistant-tokens", "2"), tokenizer)


def test_a_draft_model_with_another_tokenizer_is_refused(folder):
    """Guards against ids that mean other pieces to the draft model: every draft token would be rejected, in silence."""
    with pytest.raises(
        ValueError, match=r"^the draft model demo has another tokenizer than .*: id \d+ is .* there and"
    ):
        open_assistant(parse("--assistant-model", "demo"), Tokenizer.from_pretrained(folder))


def test_two_ways_to_draft_exclude_each_other(folder):
    words = ("--assistant-model", str(folder), "--prompt-lookup-num-tokens", "2")
    with pytest.raises(ValueError, match="both draft; remove one of them"):
        open_assistant(parse(*words), Tokenizer.from_pretrained(folder))


def test_int8_activations_need_int8_weights(folder):
    """Guards against a flag that does nothing on a float checkpoint."""
    with pytest.raises(ValueError, match=r"^--optimize int8 needs int8 weights, but this model has float weights"):
        open_model(parse("--model", str(folder), "--optimize", "int8"))
