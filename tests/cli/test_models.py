"""Models that flags choose."""

from __future__ import annotations

import json

import pytest
import torch
from helpers.changed_models import no_rope
from helpers.checkpoint_files import edit_config
from helpers.quantized import SHAPE
from helpers.reference import save_random

from llama_jp.checkpoint.load import load_model
from llama_jp.cli import COMMANDS, main, make_parser, models
from llama_jp.cli.models import open_assistant, open_model
from llama_jp.linear.fused import FusedSlice
from llama_jp.model import Llama
from llama_jp.speed import automatic, draft_memory
from llama_jp.speed.kept_plans import plan_file
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


def test_a_second_start_does_not_measure_the_deviation_again(folder, capsys):
    words = ("--model", str(folder), "--dtype", "float32", "--optimize", "exact")
    open_model(parse(*words))
    open_model(parse(*words))
    assert "with the kept choices of this machine; each product is bit-identical" in capsys.readouterr().err


@torch.no_grad()
def test_optimize_auto(folder, capsys, monkeypatch):
    """Guards against other bits than as loaded, a wait that does not pay, and a word about it."""
    ids = torch.arange(3, 13)[None]
    plain, tokenizer = open_model(parse("--model", str(folder), "--dtype", "float32"))
    open_model(parse("--model", str(folder), "--dtype", "float32", "--optimize", "auto"))
    assert not list(plan_file().parent.glob("*")) and capsys.readouterr().err == "", "a small model is as loaded"

    monkeypatch.setattr(automatic, "READ_BANDWIDTH", 1.0)  # a machine on which each step takes hours
    model, _ = open_model(parse("--model", str(folder), "--dtype", "float32", "--optimize", "auto"))
    assert any(isinstance(module, FusedSlice) for module in model.modules())
    assert torch.equal(model(ids), plain(ids))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("--optimize auto: exact, measured now and kept for later starts")

    args = parse("--model", str(folder), "--dtype", "float32")
    assert args.optimize == "large" and parse("--optimize", "none").optimize == "none"
    monkeypatch.setattr(models, "LARGE", 10)
    asked = []
    monkeypatch.setattr(models, "pays", lambda model, rows, tokens: asked.append((rows, tokens)))
    open_model(args)
    open_model(parse("--model", str(folder), "--max-new-tokens", "7", "--assistant-model", "self:int8"))
    open_model(parse("--model", str(folder), "--optimize", "none"))
    assert asked == [(1, 256), (6, 7)]
    assert make_parser(["chat"]).parse_args(["chat"]).optimize == "auto"


def test_kept_times_decide_whether_a_second_start_optimises(folder, monkeypatch):
    """Guards against a guess where this machine has measured."""
    monkeypatch.setattr(automatic, "READ_BANDWIDTH", 1.0)
    model, _ = open_model(parse("--model", str(folder), "--dtype", "float32"))
    monkeypatch.setattr(automatic.Plan, "is_kept", lambda self: True)
    for saved, packing, decision in ((5.0, 1.0, True), (1.0, 5.0, False)):
        monkeypatch.setattr(automatic.Plan, "kept_times", lambda self, tokens, s=saved, p=packing: (s, p))
        assert (automatic.pays(model, 1, 256) is not None) is decision


def test_auto_leaves_a_model_alone_whose_bits_it_cannot_keep(folder, capsys, monkeypatch):
    monkeypatch.setattr(models, "pays", lambda *_: "it would pay")

    def refuse(*_, **__):
        raise RuntimeError("level 'exact' changes the logits")

    monkeypatch.setattr(models, "optimize", refuse)
    open_model(parse("--model", str(folder), "--optimize", "auto"))
    assert capsys.readouterr().err == "--optimize auto: as loaded, because level 'exact' changes the logits\n"


def test_a_self_draft_states_its_memory_first(folder, capsys):
    """Guards against gigabytes that are used before anything says so, and against a folder that is not one."""
    words = ["generate", "犬", "--model", str(folder), "--max-new-tokens", "6", "--dtype", "float32"]
    assert main(words) == 0
    plain = capsys.readouterr().out
    assert main([*words, "--assistant-model", "self:int8"]) == 0
    out, err = capsys.readouterr()
    assert out == plain and err.startswith("self:int8 takes 0.00 GB of memory beside the model; ")
    assert "draft tokens accepted" in err
    assert main([*words, "--assistant-model", "self:int5"]) == 1
    assert "self:int5 is neither self, self:int8, self:int4, nor self: with a quantised" in capsys.readouterr().err
    assert main([*words, "--assistant-model", "self:int4"]) == 1
    assert "no group size of int4 divides the inputs of every layer (32, 48); use 8 bits" in capsys.readouterr().err


def test_the_bits_of_a_self_draft_follow_the_memory(tmp_path, capsys, monkeypatch):
    """Guards against a copy that does not fit beside weights that are packed, and against a silent choice."""
    model = load_model(save_random(tmp_path, 4, **SHAPE), dtype="bfloat16", device="cpu")
    tokenizer = Tokenizer.from_pretrained("demo")
    weights = sum(parameter.nbytes for parameter in model.parameters())
    int8, int4 = draft_memory(model, 8), draft_memory(model, 4)

    def chosen(free: int | None, *flags: str) -> str:
        monkeypatch.setattr(models, "available_memory", lambda device: free)
        open_assistant(parse("--assistant-model", "self", *flags), tokenizer, model)
        return capsys.readouterr().err

    assert chosen(None, "--optimize", "none").startswith("self:int8 takes")
    assert chosen(int8, "--optimize", "none").startswith("self:int8 takes")
    assert chosen(int8 + weights, "--optimize", "exact").startswith("self:int8 takes")
    first, second = chosen(int8 + weights - 1, "--optimize", "exact").splitlines()
    assert first == (
        "self: int4, because int8 would take 0.00 GB, and 0.00 GB are free, of which --optimize may take 0.00"
    ) and second.startswith("self:int4 takes 0.00 GB")
    with pytest.raises(ValueError, match=r"beside the model: 0\.00 GB \(int8\), 0\.00 GB \(int4\); 0\.00 GB are"):
        chosen(int4 - 1, "--optimize", "none")
    with pytest.raises(ValueError, match=r"beside the model: 0\.00 GB \(int8\); 0\.00 GB are free, of which"):
        model.float()  # int4 needs bfloat16
        chosen(int8 - 1, "--optimize", "none")


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


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_its_model_alike(command, capsys):
    """Guards against a form of --model that one command takes and another one does not mention."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "module:function" in text and "short name" in text or "one of demo, 7b" in text


@pytest.mark.parametrize(
    "words",
    ["tokenize 犬", "info", "bench --prompt 2 --batch 1 --steps 1 --runs 1", "generate 犬 --max-new-tokens 1", "chat"],
)
def test_every_command_takes_a_function(words, capsys, monkeypatch):
    """Guards against a function that is looked up as a folder."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr("sys.stdin.read", lambda *_: "", raising=False)
    monkeypatch.setattr("builtins.input", lambda *_: (_ for _ in ()).throw(EOFError))
    assert main([*words.split(), "--model", "helpers.changed_models:make"]) == 0, capsys.readouterr().err


def test_a_window_that_a_longer_context_exceeds_is_refused(folder, tmp_path):
    """Guards against a window that was harmless because it was as long as the context, and then no longer is."""
    model = Llama.from_pretrained(folder, dtype="float32")
    model.save_pretrained(tmp_path)
    for window, factor in ((512, 2), (1000, 2), (1024, 2.5)):
        edit_config(tmp_path, sliding_window=window)
        words = ("--model", str(tmp_path), "--rope-scaling", f"linear:{factor}")
        with pytest.raises(ValueError, match=rf"sliding_window {window} .* at least the context of 1,\d+ tokens"):
            open_model(parse(*words))
    edit_config(tmp_path, sliding_window=1024)
    assert open_model(parse("--model", str(tmp_path), "--rope-scaling", "linear:2"))[0].config.context_length == 1024


def test_bench_and_parity_take_a_changed_model_with_trust(folder, tmp_path, capsys):
    """Guards against commands that refuse a changed model and have no flag to trust it."""
    changed = str(tmp_path / "changed")
    Llama.from_pretrained(folder, rope=no_rope, dtype="float32").save_pretrained(changed)
    bench = ["bench", changed, "--prompt", "2", "--batch", "1", "--steps", "1", "--runs", "1", "--json"]
    parity = ["parity", "--model", changed, "--against", changed, "--tokens", "4", "--json"]
    for words, refused in ((bench, 1), (parity, 2)):
        assert main(words) == refused
        assert "holds a changed model (rope helpers.changed_models:no_rope)" in capsys.readouterr().err
        assert main([*words, "--trust-parts"]) == 0
        json.loads(capsys.readouterr().out)
