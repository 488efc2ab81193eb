"""Written GGUF files: bytes as gguf-py makes them, the same model when read back, and llama.cpp's answers."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from helpers.changed_models import make_changed
from helpers.checkpoint_files import edit_config, edit_tensors
from helpers.gguf_files import write_gguf
from helpers.reference import CONTEXT, ROPES, SMALL, save_random
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp import Llama, Tokenizer, save_gguf
from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.load import load_model
from llama_jp.quantization import quantize

IDS = torch.arange(2, 42).view(2, 20)
SHAPE = SMALL | {"vocab_size": 600, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                 "num_attention_heads": 8, "num_key_value_heads": 2}  # fmt: skip
SHAPES = [
    {"attention_bias": True, "mlp_bias": True},
    {"tie_word_embeddings": True, "head_dim": 16},
    {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model with both tokenizer files, a chat template and an embedding with more rows than the vocabulary."""
    folder = llama_folder(tmp_path_factory.mktemp("export") / "model")
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0]['content'] }}")
    return save_random(folder, seed=8, dtype=torch.bfloat16, **SHAPE)


def equal_states(one: Llama, other: Llama) -> bool:
    state, expected = one.state_dict(), other.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.BF16, Type.Q8_0, Type.Q4_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("changes", SHAPES, ids=str)
def test_tensors_have_the_bytes_of_gguf_py(tmp_path, kind, changes):
    """Guards against another order of rows, another rounding, and quantised norms, on which llama.cpp aborts."""
    source = llama_folder(tmp_path / "model")
    save_random(source, seed=9, dtype=torch.float32, **(SHAPE | changes))
    save_gguf(source, tmp_path / "ours.gguf", kind.name.lower())
    write_gguf(source, tmp_path / "theirs.gguf", kind)
    ours, theirs = (gguf.GGUFReader(tmp_path / name).tensors for name in ("ours.gguf", "theirs.gguf"))
    assert {t.name: (t.tensor_type, t.data.tobytes()) for t in ours} == {
        t.name: (t.tensor_type, t.data.tobytes())
        for t in theirs
        if t.name != "output.weight" or "tie" not in str(changes)
    }


@pytest.mark.parametrize("name, dtype", [("f32", None), ("bf16", None), ("auto", torch.bfloat16)])
def test_a_file_read_back_is_the_same_model(folder, tmp_path, name, dtype):
    """Guards against a lost setting, a changed weight, and a default type that loses numbers."""
    save_gguf(folder, tmp_path / "model.gguf", name)
    original, back = load_model(folder, "float32"), load_model(tmp_path / "model.gguf", "float32")
    assert equal_states(back, original)
    assert dtype is None or load_model(tmp_path / "model.gguf", "stored").embed_tokens.weight.dtype == dtype
    ours, theirs = read_config(tmp_path / "model.gguf"), read_config(folder)
    for field in (
        "rms_norm_eps",
        "rope_theta",
        "max_position_embeddings",
        "vocab_size",
        "head_dim",
        "intermediate_size",
    ):
        assert getattr(ours, field) == getattr(theirs, field), field
    tokenizers = Tokenizer.from_pretrained(tmp_path / "model.gguf"), Tokenizer.from_pretrained(folder)
    for text in ("吾輩は猫である。\n", "  𠮷野家 </s>"):
        assert len({tuple(tokenizer.encode(text, parse_special=True)) for tokenizer in tokenizers}) == 1
    messages = [{"role": "user", "content": "犬"}]
    assert tokenizers[0].chat(messages) == tokenizers[1].chat(messages)


@pytest.mark.parametrize("rope_type", [*ROPES, "llama3 of the list"])
def test_rope_scaling(tmp_path, rope_type):
    """Guards against a scaling that is lost without a word, as llama.cpp's converter loses the dynamic one."""
    rope = {"rope_type": rope_type, "rope_theta": 500.0} | ROPES.get(rope_type, {})
    if rope_type == "llama3 of the list":
        rope |= {"rope_type": "llama3"} | ROPES["llama3"] | {"original_max_position_embeddings": 8192}
    if rope_type == "longrope":
        rope |= {"short_factor": [1.5, 1.0, 2.0, 9.25], "attention_factor": 1.0}
        rope["long_factor"] = rope["short_factor"]
    source = llama_folder(tmp_path / "model")
    save_random(source, 10, torch.float32, **(SHAPE | {"max_position_embeddings": CONTEXT, "rope_parameters": rope}))
    file = tmp_path / "model.gguf"
    if rope_type == "dynamic":
        with pytest.raises(ValueError, match="a GGUF file cannot hold the rope_scaling 'dynamic'"):
            save_gguf(source, file)
        return
    save_gguf(source, file)
    original, back = load_model(source, "float32"), load_model(file, "float32")
    with torch.no_grad():
        logits, expected = back(IDS), original(IDS)
    if rope_type == "llama3":  # settings that no published model has: the file has their divisors, rounded once
        assert back.config.rope_scaling["rope_type"] == "longrope"
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)  # measured: 6e-6
    else:
        assert torch.equal(logits, expected)


def test_two_lists_or_another_yarn_are_refused(tmp_path):
    """Guards against a file with one list of two, and against a factor that llama.cpp multiplies with another one."""
    source = llama_folder(tmp_path / "model")
    save_random(source, 10, torch.float32, **SHAPE)
    lists = {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    yarn = {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.5}
    for scaling, name in ((lists, "'longrope'"), (yarn, "'yarn' with attention_factor")):
        edit_config(source, rope_parameters=scaling | {"original_max_position_embeddings": 16})
        with pytest.raises(ValueError, match=f"cannot hold the rope_scaling {name}"):
            save_gguf(source, tmp_path / "model.gguf")


def test_every_kind_of_source(folder, tmp_path):
    """Guards against a source whose weights are joined, packed or merged on the way, and against a model in memory."""
    save_gguf(folder, tmp_path / "q8.gguf", "q8_0")
    quantize(folder, tmp_path / "int8", bits=8)
    for number, source in enumerate((tmp_path / "q8.gguf", tmp_path / "int8", load_model(folder, "float16"))):
        save_gguf(source, tmp_path / f"{number}.gguf", "f32")
        expected = source if isinstance(source, Llama) else load_model(source, "float32")
        ids = IDS.clamp(max=500)
        with torch.no_grad():
            logits = load_model(tmp_path / f"{number}.gguf", "float32", "cpu")(ids)
            assert torch.equal(logits, expected.float()(ids))


def test_an_adapter_is_merged(folder, tmp_path):
    """Guards against an adapter that is dropped without a word."""
    from helpers.adapters import train

    adapter = train(folder, tmp_path / "adapter", target_modules=["q_proj"], r=2)
    save_gguf(folder, tmp_path / "merged.gguf", "f32", adapter=adapter)
    merged = load_model(folder, "stored", "cpu", adapter=adapter)
    assert equal_states(load_model(tmp_path / "merged.gguf", "float32"), merged.float())
    with pytest.raises(ValueError, match="adapter belong to a source"):
        save_gguf(merged, tmp_path / "again.gguf", adapter=adapter)


def too_large(state):
    state["model.layers.1.mlp.up_proj.weight"][3, 5] = 1e5


def test_what_a_file_cannot_hold_is_refused_and_nothing_stays_behind(folder, tmp_path, monkeypatch):
    """Guards against infinite weights, a changed model as a plain one, an overwritten file, and half a file."""
    target, copy = tmp_path / "out" / "model.gguf", tmp_path / "copy"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    edit_tensors(copy, too_large)
    cases = [
        (
            lambda: save_gguf(copy, target, "f16"),
            r"layers.1.mlp.up_proj.weight has numbers of up to 9.*e\+04, which F16",
        ),
        (lambda: save_gguf(make_changed(), target), "the model is a changed one .*which llama.cpp cannot run"),
        (lambda: save_gguf(folder, target, "q4_k"), "type_name is 'auto', 'f32', .*, not 'q4_k'"),
        (
            lambda: save_gguf(Llama(read_config(folder)), target),
            "the model has no tokenizer, and a GGUF file needs one",
        ),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
        assert not target.parent.exists() or list(target.parent.iterdir()) == []
    save_gguf(copy, target, "bf16")
    with pytest.raises(ValueError, match=f"{re.escape(str(target))} exists; choose another name"):
        save_gguf(folder, target)
    (copy / "model.safetensors").write_bytes((copy / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="model.safetensors is damaged or incomplete"):
        save_gguf(copy, tmp_path / "out" / "other.gguf")
    assert list(target.parent.iterdir()) == [target]


def test_a_matrix_that_does_not_fit_is_float16(tmp_path):
    """Guards against a refusal of the whole model, and against blocks across rows."""
    source = llama_folder(tmp_path / "model")
    save_random(source, 11, torch.float32, **(SHAPE | {"intermediate_size": 40}))
    with pytest.warns(
        UserWarning, match="the rows of blk.0.ffn_down.weight, .* are no whole blocks of 32 numbers, so they"
    ):
        save_gguf(source, tmp_path / "model.gguf", "q8_0")
    types = {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert types["blk.0.ffn_down.weight"] == Type.F16 and types["blk.0.ffn_up.weight"] == Type.Q8_0


def test_the_ids_that_end_a_text(folder, tmp_path):
    """Guards against a chat model that never stops in llama.cpp."""
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 7, 9]}))
    with pytest.warns(UserWarning, match=r"holds two ids that end a text; \[9\] are left out"):
        save_gguf(copy, tmp_path / "model.gguf")
    assert read_config(tmp_path / "model.gguf").eos_token_id == [2, 7]


def test_llama_cpp_gives_the_same_greedy_text(tmp_path):
    """Guards against a file that only this project reads, with the bundled model."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is the judge")
    save_gguf("demo", tmp_path / "demo.gguf", "f32")
    peer = llama_cpp.Llama(str(tmp_path / "demo.gguf"), n_ctx=256, verbose=False, type_k=0, type_v=0)
    model, tokenizer = llama_jp.load("demo", dtype="float32")
    for prompt in ("昔々、あるところに", "猫は"):
        ids = tokenizer.encode(prompt)
        assert peer.tokenize(prompt.encode()) == ids
        theirs = [*itertools.islice(peer.generate(ids, temp=0.0, repeat_penalty=1.0), 40)]
        (ours,) = llama_jp.generate(model, [ids], max_new_tokens=40)
        assert theirs[: len(ours.ids)] == ours.ids
    peer.close()


@pytest.mark.slow
def test_peak_memory_is_about_one_tensor(tmp_path):
    """Guards against a model in memory: a 70B model is converted on a laptop."""
    source = llama_folder(tmp_path / "model")
    shape = SHAPE | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16, "head_dim": 64}
    save_random(
        source, seed=6, dtype=torch.bfloat16, **(shape | {"num_attention_heads": 16, "num_key_value_heads": 16})
    )
    code = (
        "import re, sys, torch, gguf\nfrom pathlib import Path\nfrom llama_jp.export import save_gguf\n"
        "def peak(): return int(re.search(r'RssAnon:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) << 10\n"
        "import llama_jp.checkpoint.gguf.encoding as e\nhighest, before = [0], peak()\nold = e.quantize\n"
        "def watched(*a):\n    highest[0] = max(highest[0], peak())\n    return old(*a)\n"
        "e.quantize = watched\n"
        f"save_gguf({str(source)!r}, {str(tmp_path / 'm.gguf')!r}, 'q8_0')\nprint(highest[0] - before)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    weights = sum(file.stat().st_size for file in source.glob("*.safetensors"))
    assert int(out) < weights / 4, (int(out), weights)
