"""llama.cpp as a model of a comparison: clean runs, faults, and everything a person can name wrongly."""

from __future__ import annotations

import ctypes
import json

import numpy as np
import pytest
import torch
from helpers.compared_models import parity
from helpers.gguf_files import Type
from helpers.llamacpp_faults import FAULTS, IDS, LINEAR, SHAPE, found_at, gguf_of, here, in_llama_cpp
from helpers.reference import save_random

from llama_jp.model import Llama
from llama_jp.parity import Settings, compare, open_model
from llama_jp.parity.comparison import Tolerance
from llama_jp.parity.llamacpp.graph import GraphRecorder
from llama_jp.parity.llamacpp.library import GgmlTensor
from llama_jp.parity.llamacpp.model import LlamaCpp
from llama_jp.parity.operations import operations_of
from llama_jp.quantization import quantize

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed; the extra `peers` has it")

TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")
DEFAULTS = llama_cpp.llama_cpp.llama_context_default_params
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
YARN_KEYS = {
    f"llama.rope.scaling.{name}": value
    for name, value in {"type": "yarn", "factor": 4.0, "original_context_length": 32}.items()
}
K_QUANTS = {"Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17, "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30, "IQ3_S": 26}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small checkpoint with grouped heads, whose rows are whole blocks of every simple type."""
    return save_random(tmp_path_factory.mktemp("base"), 11, **SHAPE)


@pytest.fixture(scope="module")
def files(base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {name: gguf_of(base, folder / f"{name}.gguf", Type[name]) for name in TYPES}


# Clean runs


@pytest.mark.parametrize(
    ("kind", "cache", "mode"),
    [
        ("F32", "float32", "whole"),
        ("F32", "float16", "steps"),
        ("F16", "float32", "chunks"),
        ("BF16", "float32", "whole"),
        ("Q8_0", "float32", "steps"),
        ("Q4_0", "float16", "whole"),
        ("Q5_1", "float32", "whole"),
    ],
)
def test_a_right_file_is_rounding(base, files, kind, cache, mode):
    """Guards against false accusations: by another order of sums, rounded inputs, or an interleaved head."""
    found = compare(here(base), in_llama_cpp(files[kind], kv_cache=cache), IDS, mode)
    assert found.verdict == "rounding", found.bug
    assert {row.operation.name for row in found.rows} >= {"rope.cos", "layers.2.self_attn.keys", "norm", "logits"}
    assert max(max(finding.excess.values()) for finding in found.findings if finding.excess) < 0.9


def test_scaled_rotations_are_rounding(tmp_path):
    """Guards against cos and sin that are rebuilt without the frequency factors or the magnitude of a scaling."""
    from llama_jp.checkpoint.gguf.keys import llama3_divisors

    llama3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    llama3 |= {"original_max_position_embeddings": 1024}
    further = {"rope_freqs.weight": np.array(llama3_divisors(5e5, 8, 8.0, 1024), np.float32)}
    for name, rope, keys, options in (
        ("yarn", YARN | {"rope_theta": 10000.0}, YARN_KEYS, {}),
        ("llama3", llama3, {"llama.rope.freq_base": 5e5}, {"further": further}),
    ):
        folder = save_random(tmp_path / name, 3, **SHAPE | {"rope_parameters": rope})
        found = compare(
            here(folder), in_llama_cpp(gguf_of(folder, tmp_path / f"{name}.gguf", Type.F16, keys, **options)), IDS
        )
        assert found.verdict == "rounding", (name, found.bug)


def test_without_the_rounding_of_inputs_every_product_is_wrong(base, files):
    """Shows that the declared rounding decides, and not a bound that is wide enough for anything."""
    theirs = in_llama_cpp(files["Q8_0"])
    theirs.file.input_rounding = {}
    found = compare(here(base), theirs, IDS)
    wrong = {finding.operation for finding in found.findings if finding.verdict == "bug"}
    assert wrong == {op.name for op in operations_of(theirs.config) if op.kind == "linear"}


def test_recording_changes_no_bit(files, monkeypatch):
    """Guards against a tap that splits fused operations, and so compares another program."""
    for kind in ("F32", "Q4_0"):
        model = LlamaCpp(files[kind])
        session = model.start_session(14)
        logits = session(IDS)
        assert session.points.keys() == {op.name for op in operations_of(model.config)} - {"logits"}
        assert torch.equal(logits, session.points["lm_head"])
        with monkeypatch.context() as patched:
            patched.setattr(llama_cpp.llama_cpp, "llama_context_default_params", without_tap)
            silent = model.start_session(14)
        with pytest.raises(ValueError, match="no operation of its graph is known as embed_tokens"):
            silent(IDS)
        numbers = llama_cpp.llama_cpp.llama_get_logits(silent.context)[: logits.numel()]
        assert torch.equal(torch.tensor(numbers).view_as(logits), logits)


def without_tap():
    """Context parameters that keep no callback."""

    class Silent(llama_cpp.llama_cpp.llama_context_params):
        def __setattr__(self, name, value):
            if name != "cb_eval":
                super().__setattr__(name, value)

    return Silent.from_buffer_copy(DEFAULTS())


def test_an_exception_while_recording_reaches_the_caller(files, monkeypatch):
    """Guards against the logits of half a graph: ctypes only prints an exception, and llama_decode returns success."""

    def fail(self, node, operation):
        if operation == "SOFT_MAX":
            raise KeyError("on purpose")

    monkeypatch.setattr(GraphRecorder, "record", fail)
    with pytest.raises(KeyError, match="on purpose"):
        LlamaCpp(files["F32"])(IDS)


def test_the_structure_of_a_tensor_is_checked(monkeypatch):
    """Guards against numbers read at the wrong place with another version of ggml."""
    from llama_jp.parity.llamacpp import library

    fields = [*GgmlTensor._fields_, ("more", ctypes.c_int64)]
    monkeypatch.setattr(library, "GgmlTensor", type("GgmlTensor", (ctypes.Structure,), {"_fields_": fields}))
    library.load_library.cache_clear()
    with pytest.raises(ValueError, match=r"cannot be recorded: its tensors have another structure; install 0\.3\.36"):
        library.load_library()


# Weights


def test_the_weights_own_error_is_apart_from_the_arithmetics(base, files):
    mine = here(base)
    before = {name: parameter.clone() for name, parameter in mine.named_parameters()}
    found = compare(mine, in_llama_cpp(files["Q4_0"]), IDS)
    assert found.details["weights"]["kl"] > 10 * found.prediction.kl > 0
    assert any(note.startswith("30 weights of the file are exactly") for note in found.notes)
    assert all(torch.equal(parameter, before[name]) for name, parameter in mine.named_parameters())
    assert mine.lm_head.weight.requires_grad and "weights" not in compare(mine, in_llama_cpp(files["F32"]), IDS).details


def test_a_tied_head_of_a_model_is_tied_again_after_the_comparison(base, tmp_path):
    tied = save_random(tmp_path / "tied", 3, **SHAPE | {"tie_word_embeddings": True})
    mine = here(tied)
    assert compare(mine, in_llama_cpp(gguf_of(tied, tmp_path / "t.gguf", Type.Q8_0)), IDS).verdict == "rounding"
    assert mine.lm_head.weight is mine.embed_tokens.weight


# Faults

SHORT = ("eps 1e-6", "linear scaling", "key heads missing", "gate and up exchanged", "q permuted twice",
         "head left out", "Q4_0: one integer", "scores times 1.01", "keys in float16", "Q8_0: one product")  # fmt: skip


@pytest.mark.parametrize("fault", [pytest.param(each, id=each.name) for each in FAULTS if each.name in SHORT])
def test_a_fault_is_found_where_it_is(fault, base, tmp_path):
    found, said = found_at(fault, base, tmp_path)
    assert found, said


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["whole", "steps"])
def test_95_of_100_faults_are_found_where_they_are(mode, base, tmp_path):
    missed = []
    for number, fault in enumerate(FAULTS):
        (tmp_path / str(number)).mkdir()
        found, said = found_at(fault, base, tmp_path / str(number), mode)
        missed += [] if found else [f"{fault.name}: {said}"]
    assert len(FAULTS) >= 60 and len(missed) <= len(FAULTS) // 20, missed


# The clean matrix


def scaled(**rope):
    return SHAPE | {"rope_parameters": {"rope_theta": 10000.0, **rope}}


LARGE = SHAPE | {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_hidden_layers": 2}
SHAPES = {
    "grouped": (SHAPE, {}, TYPES),
    "one key head": (SHAPE | {"num_key_value_heads": 1, "head_dim": 32}, {}, ("F32", "F16", "Q8_0", "Q4_1")),
    "tied": (SHAPE | {"tie_word_embeddings": True, "num_key_value_heads": 4}, {}, TYPES),
    "biases": (SHAPE | {"attention_bias": True}, {}, ("F32", "F16", "Q8_0", "Q4_1")),
    "linear": (scaled(rope_type="linear", factor=2.0), LINEAR, ("F32", "Q8_0")),
    "yarn": (scaled(**YARN), YARN_KEYS, ("F32", "Q8_0")),
    "theta": (scaled(rope_type="default", rope_theta=1e6), {"llama.rope.freq_base": 1e6}, ("F32", "Q8_0")),
    "K-quants": (LARGE, {}, tuple(K_QUANTS)),
    "tied K-quants": (LARGE | {"tie_word_embeddings": True}, {}, tuple(K_QUANTS)),
}  # fmt: skip


def quantized_by_llama_cpp(source, file, name):
    """The file in another type, by llama.cpp's own quantiser."""
    library = llama_cpp.llama_cpp
    settings = library.llama_model_quantize_default_params()
    settings.ftype, settings.nthread, settings.pure = K_QUANTS[name], 1, True
    assert library.llama_model_quantize(str(source).encode(), str(file).encode(), ctypes.byref(settings)) == 0
    return file


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_no_clean_run_is_called_a_bug(shape, tmp_path):
    """All shapes together are more than 200 runs: types, caches, modes, lengths, threads, and either model first."""
    values, keys, types = SHAPES[shape]
    folder = save_random(tmp_path / "folder", 5, **values)
    mine, number = here(folder), 0
    source = gguf_of(folder, tmp_path / "source.gguf", Type.F32, keys)
    for name in types:
        file = tmp_path / f"{name}.gguf"
        if name in K_QUANTS:
            quantized_by_llama_cpp(source, file, name)
        else:
            gguf_of(folder, file, Type[name], keys)
        for cache in ("float32", "float16"):
            for mode in ("whole", "steps", "chunks"):
                number += 1
                length = (14, 3, 40, 90, 2)[number % 5]
                ids = torch.randint(3, 128, (1 + number % 2, length), generator=torch.Generator().manual_seed(number))
                theirs = in_llama_cpp(file, threads=1 + (mode == "whole" and length == 14), kv_cache=cache)
                pair = (mine, theirs) if number % 3 else (theirs, mine)
                found = compare(*pair, ids, mode, seed=number)
                assert found.verdict == "rounding", (name, cache, mode, length, found.bug)


# Other models beside llama.cpp


def test_a_function_beside_llama_cpp_is_judged_by_its_logits(base, files):
    """Guards against a float64 model that knows nothing of rounded inputs: it would call llama.cpp wrong."""
    held = [here(base)]  # in a list, where no comparison finds it: a runtime of another kind

    def run(ids):
        return held[0](ids)

    assert compare(run, in_llama_cpp(files["F32"]), IDS).verdict == "rounding"
    assert compare(lambda ids: run(ids) * 1.01, in_llama_cpp(files["F32"]), IDS).bug.operation == "logits"
    found = compare(run, in_llama_cpp(files["Q8_0"]), IDS, tolerance=Tolerance(max_kl=0.1))
    assert found.verdict == "unknown" and found.passed


@pytest.mark.slow
def test_one_file_with_two_numbers_of_threads_is_equal(files):
    pair = [in_llama_cpp(files["Q4_0"], threads=number) for number in (1, 2)]
    assert compare(*pair, IDS).verdict == "equal"


def test_transformers_beside_llama_cpp(base, files):
    theirs = open_model("transformers", Settings("float32"), base)
    assert compare(theirs, in_llama_cpp(files["Q8_0"]), IDS).verdict == "rounding"


# The command line, and wrong inputs


def test_the_command_line(base, files, capsys):
    given = ["--model", str(base), "--against", f"llama.cpp:{files['Q4_0']}", "--tokens", "12", "--rows", "2"]
    assert parity(*given, "--mode", "whole,chunks", "--max-kl", "1", "--kv-cache", "float16") == 0
    shown = capsys.readouterr().out
    assert "relative diff" in shown and "max ULP" not in shown
    assert "KV cache in float16" in shown and "the weights' own error" in shown
    assert parity(*given, "--json") == 1
    found = json.loads(capsys.readouterr().out)["comparisons"][0]
    assert found["verdict"] == "rounding" and 0 < found["relative_differences"]["logits"] < 0.1


def refused(capsys, *arguments):
    assert parity(*arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_wrong_inputs_are_named_in_one_sentence(base, files, capsys, tmp_path, monkeypatch):
    right, model = f"llama.cpp:{files['F32']}", ["--model", str(base)]
    against = [*model, "--against"]
    assert "there is no none.gguf" in refused(capsys, *against, f"llama.cpp:{tmp_path}/none.gguf")
    assert "is a folder, and llama.cpp loads a GGUF file" in refused(capsys, *against, f"llama.cpp:{base}")
    config = base / "config.json"
    assert "config.json is not a GGUF file" in refused(capsys, *against, f"llama.cpp:{config}")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(files["F32"].read_bytes()[:60_000])
    assert "is incomplete" in refused(capsys, *against, f"llama.cpp:{cut}")
    assert "leave it out" in refused(capsys, *against, right, "--against-dtype", "bfloat16")
    dtypes = ["--dtype", "bfloat16", "--against-dtype", "float32"]
    assert "load it with the dtype float32" in refused(capsys, *against, right, *dtypes)
    assert "one row at a time" in refused(capsys, *against, right, "--against-batch", "2")
    assert "llama.cpp has no padding" in refused(capsys, *against, right, "--mode", "ragged")
    assert "cannot generate" in refused(capsys, *against, right, "--mode", "greedy")
    assert "is a model in llama.cpp" in refused(capsys, "--against", right, "--mode", "tokenizer")
    assert "gradients" in refused(capsys, *against, right, "--mode", "gradients")
    assert "which is not compared" in refused(capsys, *model, "--kv-cache", "float16")
    assert "without flash attention" in refused(capsys, *against, right, "--against-attention", "sdpa")
    assert "cannot be compared with --random" in refused(capsys, "--random", "tiny", "--against", right)
    other = gguf_of(base, tmp_path / "exaone.gguf", keys={"general.architecture": "exaone"})
    assert "architecture 'exaone'" in refused(capsys, *against, f"llama.cpp:{other}")
    with pytest.raises(ValueError, match="has no dtype float16"):
        open_model(right, Settings("float16"))
    with pytest.raises(ValueError, match="from 0 to 500, and .* has 128 of them"):
        LlamaCpp(files["F32"])(torch.tensor([[0, 500]]))
    with pytest.raises(ValueError, match="is float32 or float16 here, not 'q8_0'"):
        LlamaCpp(files["F32"], kv_cache="q8_0")


def test_a_fused_projection_is_refused(base, tmp_path):
    import gguf
    from helpers.gguf_files import finish

    writer = gguf.GGUFWriter(tmp_path / "fused.gguf", "llama")
    writer.add_tensor("token_embd.weight", torch.zeros(8, 32).numpy())
    writer.add_tensor("blk.0.attn_qkv.weight", torch.zeros(96, 32).numpy())
    with pytest.raises(ValueError, match=r"one weight for queries, keys and values .* without --fuse-qkv"):
        LlamaCpp(finish(writer, tmp_path / "fused.gguf"))


def test_a_missing_package_is_named_with_its_extra(files, monkeypatch):
    import sys

    from llama_jp.parity.llamacpp import library

    library.load_library.cache_clear()
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    with pytest.raises(ValueError, match=r"cannot be imported .*: pip install 'llama-jp\[peers\]'"):
        LlamaCpp(files["F32"])


def test_the_quantised_model_of_this_project_is_refused(base, files, tmp_path):
    with pytest.warns(UserWarning, match="no tokenizer"):
        quantize(base, tmp_path / "int8")
    mine = Llama.from_pretrained(tmp_path / "int8", dtype="float32", device="cpu")
    with pytest.raises(ValueError, match="compare a model that is not quantised"):
        compare(mine, in_llama_cpp(files["F16"]), IDS)
