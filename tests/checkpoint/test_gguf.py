"""GGUF files against gguf-py's numbers in transformers: every type, shape, key and version; and files to refuse."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFEndian
from helpers.checkpoint_files import edit_config
from helpers.gguf_files import HALVES, TYPES, as_version_1, permuted_rows, reference, write_gguf
from helpers.reference import SMALL, save_random
from hypothesis import given
from hypothesis import strategies as st

import llama_jp
from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.gguf.header import QUANTIZED, read_header
from llama_jp.checkpoint.gguf.keys import number
from llama_jp.checkpoint.layouts import find_tensors
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.permutation import permute, unpermute
from llama_jp.cli import main

IDS = torch.arange(2, 32).view(2, 15)
# Rows of whole blocks of 256 weights, grouped heads, and sizes that differ.
BLOCKS = SMALL | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1, "head_dim": 32,
                  "num_attention_heads": 8, "num_key_value_heads": 2}  # fmt: skip

BASE = {"llama.rope.freq_base": 5e5}


def rope_freqs(divisors: torch.Tensor) -> dict[str, np.ndarray]:
    """The tensor of a file whose frequencies are divided."""
    return {"rope_freqs.weight": divisors.float().numpy()}


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    return save_random(tmp_path_factory.mktemp("blocks"), seed=3, dtype=torch.float32, **BLOCKS)


def same(folder: Path, file: Path, *more: Path) -> bool:
    """Whether a GGUF file gives transformers' logits with gguf-py's numbers, in float32."""
    with torch.no_grad():
        ours = load_model(file, dtype="float32", device="cpu")(IDS)
        return torch.equal(ours, reference(folder, file, *more)(IDS).logits)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_type_gives_the_numbers_of_gguf_py(blocks, tmp_path, kind):
    """Guards against a wrong offset, block size, order of dimensions or order of rows in any type."""
    file = write_gguf(blocks, tmp_path / "model.gguf", kind)
    assert same(blocks, file)
    rounded, exact = (load_model(file, dtype, "cpu").state_dict() for dtype in ("bfloat16", "float32"))
    assert all(torch.equal(rounded[name], exact[name].bfloat16()) for name in exact), "not rounded once"


def test_every_type_that_is_listed_is_tested():
    """Guards against a type in the table that no test decodes."""
    assert {stored_as.name for stored_as in QUANTIZED.values()} <= {kind.name for kind in TYPES}


def test_each_tensor_has_its_own_type(blocks, tmp_path):
    """Guards against one type for the whole file: llama-quantize mixes them."""
    names = [
        "token_embd",
        "output",
        *(f"blk.0.{part}" for part in ("attn_q", "attn_k", "attn_v", "ffn_down", "ffn_up")),
    ]
    kinds = [Type.Q8_0, Type.Q6_K, Type.Q4_K, Type.F16, Type.Q5_0, Type.IQ4_XS, Type.BF16]
    file = write_gguf(
        blocks, tmp_path / "m.gguf", {f"{name}.weight": kind for name, kind in zip(names, kinds, strict=True)}
    )
    assert same(blocks, file)
    assert {tensor.stored_as for tensor in find_tensors(file).values()} >= {"Q6_K", "F32", "BF16"}


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 16},
        {"num_key_value_heads": 6, "num_attention_heads": 6, "head_dim": 4},
        {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
    ],
    ids=str,
)
def test_every_shape(tmp_path, changes):
    """Guards against a lost tie, bias or size of a head, and against the key heads in the place of the query heads."""
    folder = save_random(tmp_path / "original", seed=4, dtype=torch.float32, **(SMALL | changes))
    file = write_gguf(folder, tmp_path / "model.gguf", Type.Q8_0 if SMALL["hidden_size"] % 32 == 0 else Type.F16)
    assert same(folder, file)
    ours, theirs = read_config(file), read_config(folder)
    for key in ("head_dim", "tie_word_embeddings", "attention_bias", "mlp_bias", "rms_norm_eps", "rope_theta"):
        assert getattr(ours, key) == getattr(theirs, key), key


def test_keys_that_old_files_lack_have_the_defaults_of_llama_cpp(tmp_path):
    """Guards against a refusal of the files of 2023, and against a float that is not the decimal of config.json."""
    folder = save_random(tmp_path / "original", 5, torch.float32, **(SMALL | {"head_dim": 4, "num_key_value_heads": 6}))
    absent = ("llama.attention.head_count_kv", "llama.rope.freq_base", "llama.vocab_size", "llama.rope.dimension_count")
    assert same(folder, write_gguf(folder, tmp_path / "model.gguf", drop=absent))
    assert number(struct.unpack("<f", struct.pack("<f", 1e-5))[0]) == 1e-5


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_decimal_of_a_float32_is_the_same_float32(value):
    assert np.float32(number(value)) == np.float32(value)


@pytest.mark.parametrize(
    "keys, rope",
    [
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5},
            {"rope_type": "linear", "factor": 2.5},
        ),
        ({"llama.rope.scale_linear": 2.5}, {"rope_type": "linear", "factor": 2.5}),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 2.5}, {"rope_type": "default"}),
        (
            {
                "llama.rope.scaling.type": "yarn",
                "llama.rope.scaling.factor": 4.0,
                "llama.rope.scaling.original_context_length": 32,
            },
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        ),
    ],
    ids=str,
)
def test_rope_scaling(small, tmp_path, keys, rope):
    """Guards against a scaling that is lost without a word, as in transformers' own reader of GGUF."""
    file = write_gguf(small, tmp_path / "model.gguf", keys=keys)
    folder = shutil.copytree(small, tmp_path / "original")
    edit_config(folder, rope_parameters={"rope_theta": 10000.0} | rope)
    assert same(folder, file)


def test_any_divisors_of_the_frequencies(blocks, tmp_path):
    """Guards against divisors that are ignored, guessed or rounded: transformers has them as a longrope."""
    divisors = torch.rand(16, generator=torch.Generator().manual_seed(0)) * 9 + 0.5
    file = write_gguf(blocks, tmp_path / "model.gguf", keys=BASE, further=rope_freqs(divisors))
    folder, lists = shutil.copytree(blocks, tmp_path / "original"), divisors.tolist()
    rope = {"rope_type": "longrope", "rope_theta": 5e5, "short_factor": lists, "long_factor": lists}
    edit_config(folder, rope_parameters=rope | {"attention_factor": 1.0, "original_max_position_embeddings": 128})
    assert same(folder, file)
    for wrong, found in ((divisors[:8], "8 numbers from 1"), (-divisors, "16 numbers from -8")):
        with pytest.raises(ValueError, match=f"rope_freqs.weight has {found}.* but heads of 32 need 16 positive ones"):
            load_model(write_gguf(blocks, tmp_path / f"{len(wrong)}.gguf", keys=BASE, further=rope_freqs(wrong)))


@pytest.mark.parametrize("length", [8192, 32])
def test_the_divisors_of_llama_3_are_its_rope_scaling(blocks, tmp_path, length):
    """Guards against `rope_freqs.weight` that is ignored, and against settings that are guessed."""
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    folder = shutil.copytree(blocks, tmp_path / "original")
    edit_config(folder, rope_parameters=rope | {"original_max_position_embeddings": length})
    scaled, _ = transformers_frequencies(folder)
    plain = 1.0 / (5e5 ** (torch.arange(0, 32, 2, dtype=torch.float32) / 32))
    file = write_gguf(blocks, tmp_path / "model.gguf", keys=BASE, further=rope_freqs(plain / scaled))
    assert read_config(file).rope_scaling["rope_type"] == ("longrope" if length == 32 else "llama3")
    assert length == 32 or same(folder, file)


def transformers_frequencies(folder: Path) -> tuple[torch.Tensor, float]:
    import transformers
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    return ROPE_INIT_FUNCTIONS["llama3"](transformers.LlamaConfig.from_pretrained(folder), "cpu")


def test_split_files(small, tmp_path):
    """Guards against a model of which a part is random: transformers loads one part without an error."""
    write_gguf(small, tmp_path / "model.gguf", Type.F16, split_max_tensors=9)
    parts = sorted(tmp_path.glob("model-0000*-of-*.gguf"))
    assert len(parts) > 2
    for part in parts:
        assert same(small, part, *parts)
    parts[1].unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(f"{parts[1].name} is not beside it")):
        load_model(parts[0])


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, *HALVES], ids=lambda kind: kind.name)
def test_big_endian_files(blocks, tmp_path, kind):
    """Guards against a half-precision scale with its bytes exchanged: the same numbers as in the little-endian file."""
    little, big = write_gguf(blocks, tmp_path / "little.gguf", kind), tmp_path / "big.gguf"
    write_gguf(blocks, big, kind, endianess=GGUFEndian.BIG)
    assert read_config(big) == read_config(little)
    ours, expected = (load_model(file, "float32", "cpu").state_dict() for file in (big, little))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_big_endian_block_without_a_defined_order_is_refused(blocks, tmp_path):
    """Guards against numbers that depend on the machine that wrote them."""
    file = write_gguf(blocks, tmp_path / "model.gguf", Type.F16, endianess=GGUFEndian.BIG)
    content = file.read_bytes()
    entry = b"output.weight" + struct.pack(">IQQI", 2, 256, 96, 1)
    file.write_bytes(content.replace(entry, entry[:-4] + struct.pack(">I", Type.Q5_0)))
    with pytest.raises(
        ValueError, match="is big-endian and stores output.weight as Q5_0, whose byte order is not defin"
    ):
        load_model(file)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("order", ["little", "big"])
def test_split_files_of_every_version(small, tmp_path, version, order):
    """Guards against a part that is read with the widths or the byte order of another file."""
    options = {"endianess": GGUFEndian.BIG} if order == "big" else {}
    whole = load_model(write_gguf(small, tmp_path / "whole.gguf", Type.F16)).state_dict()
    write_gguf(small, tmp_path / "model.gguf", Type.F16, split_max_tensors=9, **options)
    parts = sorted(tmp_path.glob("model-0000*-of-*.gguf"))
    for part in parts:
        content = bytearray(part.read_bytes())
        content[4:8] = version.to_bytes(4, order)
        part.write_bytes(as_version_1(part, ">" if order == "big" else "<") if version == 1 else content)
    state = load_model(parts[-1]).state_dict()
    assert all(torch.equal(state[name], whole[name]) for name in whole)


def test_version_1_and_2(small, tmp_path):
    """Guards against counts of the wrong width: version 1 has 32 bits, and gguf-py reads it no more."""
    file = write_gguf(small, tmp_path / "model.gguf", Type.F16)
    content = bytearray(file.read_bytes())
    content[4] = 2
    (tmp_path / "v2.gguf").write_bytes(content)
    (tmp_path / "v1.gguf").write_bytes(as_version_1(file))
    expected = load_model(file).state_dict()
    for version in ("v1", "v2"):
        state = load_model(tmp_path / f"{version}.gguf").state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_rows_return_to_their_place():
    """Guards against the inverse permutation, which equals this one for heads of two rows only."""
    for heads, size in ((3, 8), (1, 2), (4, 6)):
        weight = torch.arange(heads * size * 5.0).view(-1, 5)
        rows = permuted_rows(len(weight), heads)
        assert torch.equal(unpermute(weight[rows], heads), weight)
        assert torch.equal(permute(weight, heads), weight[rows])
        assert torch.equal(unpermute(weight[rows, 0], heads), weight[:, 0])
    with pytest.raises(ValueError, match="9 rows are not 3 heads of an even size"):
        unpermute(torch.zeros(9, 5), 3)


def test_floats_stay_memory_mapped_and_the_file_is_never_written(small, tmp_path):
    """Guards against a copy of the weights, and against a shared mapping that training would write through."""
    file = write_gguf(small, tmp_path / "model.gguf", Type.F16)
    before = file.read_bytes()
    model = load_model(file, dtype="float16", device="cpu")
    address = model.layers[0].mlp.up_proj.weight.data_ptr()
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    inside = [line for line in maps if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16)]
    assert str(file) in inside[0][-1]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    assert file.read_bytes() == before


@pytest.mark.slow
def test_peak_memory_is_the_weights_plus_about_one_tensor(tmp_path):
    """Guards against float32 numbers of all tensors at once."""
    shape = SMALL | {"vocab_size": 4096, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 8}
    shape |= {"head_dim": 64, "num_attention_heads": 16, "num_key_value_heads": 16}
    folder = save_random(tmp_path / "original", seed=6, **shape)
    file = write_gguf(folder, tmp_path / "model.gguf", Type.Q8_0)
    code = (
        "import resource, sys, torch, gguf\n"
        "from llama_jp.checkpoint.load import load_model\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak()\n"
        f"model = load_model({str(file)!r}, 'float32', 'cpu')\n"
        "weights = sum(p.nbytes for p in model.parameters())\n"
        "print(weights, peak() - before)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    weights, used = map(int, out.split())
    assert used < weights + (150 << 20), (weights, used)


REFUSED = [
    ({"general.architecture": "qwen2"}, r"holds a model of the architecture 'qwen2'; only 'llama' is supported"),
    ({"general.type": "adapter"}, r"holds no model \(general.type is 'adapter'\)"),
    ({"llama.expert_count": 8}, r"a mixture of 8 experts \(Mixtral\), which is not supported"),
    ({"llama.rope.scaling.type": "longrope"}, r"llama.rope.scaling.type 'longrope' is not supported"),
    (
        {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.attn_factor": 2.0},
        r"scaling.attn_factor 2.0 is not supp",
    ),
    (
        {"llama.rope.dimension_count": 4},
        r"llama.rope.dimension_count 4 is not supported; only the size of a head, 8, is",
    ),
    ({"llama.attention.value_length": 4}, r"llama.attention.value_length 4 is not supported"),
    (
        {"llama.attention.head_count_kv": [2, 1, 2]},
        r"head_count_kv \[2, 1, 2\] is not supported; only one value for all",
    ),
    ({"llama.attention.causal": False}, r"llama.attention.causal is false"),
    ({"llama.attention.sliding_window": 16}, r"sliding_window 16 is not supported"),
    ({"llama.block_count": 2**31}, r"llama.block_count is 2147483648, and its tensors have 3"),
    ({"llama.block_count": 2}, r"llama.block_count is 2, and its tensors have 3"),
    ({"llama.attention.head_count_kv": 6}, r"head_count_kv is 6, and blk.0.attn_k.weight has 16 rows, not 48"),
    ({"llama.embedding_length": 2**31}, r"llama.embedding_length is 2147483648, and its tensors have 24"),
    ({"llama.feed_forward_length": 2**31}, r"llama.feed_forward_length is 2147483648, and its tensors have 40"),
    (
        {
            "llama.attention.key_length": 2**30,
            "llama.attention.value_length": 2**30,
            "llama.rope.dimension_count": 2**30,
        },
        r"head_count is 6, and blk.0.attn_q.weight has 48 rows, not 6442450944 \(6 heads of 1073741824\)",
    ),
]


@pytest.mark.parametrize("keys, message", REFUSED, ids=[next(iter(keys)) for keys, _ in REFUSED])
def test_a_setting_that_is_not_supported_is_refused_by_name(small, tmp_path, keys, message):
    """Guards against other numbers without a word."""
    file = write_gguf(
        small, tmp_path / "model.gguf", keys={k: v for k, v in keys.items() if k != "general.architecture"}
    )
    if "general.architecture" in keys:
        content = file.read_bytes().replace(struct.pack("<Q", 5) + b"llama", struct.pack("<Q", 5) + b"qwen2", 1)
        file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(file)
    assert "\n" not in str(caught.value) and str(caught.value).count(str(file)) == 1


@pytest.mark.parametrize(
    "start, message",
    [
        (b"tjgg\x03\0\0\0", "is a GGML file of before August 2023"),
        (b"PK\x03\x04\0\0\0\0", r"is not a GGUF file: it begins with b'PK\\x03\\x04'"),
        (b"GGUF\0\0\0\x03", "its header cannot be read"),  # little-endian after these bytes
        (b"GGUF\x09\0\0\0", "is GGUF version 9; supported are 1, 2, 3"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
    ],
)
def test_a_file_of_another_kind_is_named(small, tmp_path, start, message):
    """Guards against a traceback for a file with the right suffix and other content."""
    file = write_gguf(small, tmp_path / "model.gguf")
    file.write_bytes(start + file.read_bytes()[len(start) :])
    with pytest.raises(ValueError, match=message):
        load_model(file)


def test_an_incomplete_or_damaged_file_is_one_sentence(small, tmp_path):
    """Guards against a traceback, or random weights, at any place where a download may end."""
    file = write_gguf(small, tmp_path / "model.gguf", keys={"tokenizer.ggml.tokens": ["a", "b"]})
    content = file.read_bytes()
    start = min(tensor.start for tensor in read_header(file).tensors.values())
    for end in [*range(0, start, 7), start, (start + len(content)) // 2, len(content) - 40]:
        file.write_bytes(content[:end])
        with pytest.raises(ValueError, match="model.gguf (is|has)") as caught:
            load_model(file)
        assert "\n" not in str(caught.value)
    file.write_bytes(content + b"trailing bytes")
    load_model(file)


def entry(name: str, dims: tuple[int, ...], type_id: int = 1) -> bytes:
    """The entry of a tensor in the header, without its offset."""
    return struct.pack("<Q", len(name)) + name.encode() + struct.pack(f"<I{len(dims)}QI", len(dims), *dims, type_id)


UP, HEAD = entry("blk.0.ffn_up.weight", (24, 40)), entry("output.weight", (24, 96))
DAMAGES = {
    "a type": (UP, UP[:-4] + struct.pack("<I", 26)),
    "rows of no whole blocks": (UP, UP[:-4] + struct.pack("<I", 8)),
    "no columns": (UP, entry("blk.0.ffn_up.weight", (0, 40))),
    "no rows": (UP, entry("blk.0.ffn_up.weight", (24, 0))),
    "rows and columns exchanged": (UP, entry("blk.0.ffn_up.weight", (40, 24))),
    "more bytes than the file": (UP, entry("blk.0.ffn_up.weight", (24, 2**62))),
    "a name of another layer": (UP, entry("blk.9.ffn_up.weight", (24, 40))),
    "an unknown name": (UP, entry("blk.0.ffn_xx.weight", (24, 40))),
    "a name twice": (UP, entry("blk.1.ffn_up.weight", (24, 40))),
    "no embedding": (entry("token_embd.weight", (24, 96)), entry("token_embe.weight", (24, 96))),
    "a character that is not UTF-8": (b"llama.block_count", b"llama.block_c\xff\xffnt"),
    "the type of a key": (b"llama.block_count\x04", b"llama.block_count\x4d"),
    "no architecture": (b"general.architecture", b"general.architectura"),
    "no block count": (b"llama.block_count", b"llama.block_caunt"),
    "more dimensions than ggml has": (UP, entry("blk.0.ffn_up.weight", (24, 40, 1, 1, 1))),
    "more keys than bytes": (b"GGUF\x03\0\0\0", None),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_header_is_one_sentence(small, tmp_path, capsys, name):
    """Guards against a traceback, against a model that fills the memory, and against `info` that believes the file."""
    file = write_gguf(small, tmp_path / "model.gguf", Type.F16)
    content, (old, new) = file.read_bytes(), DAMAGES[name]
    assert content.count(old) == 1
    damaged = content.replace(old, new) if new else content[:16] + struct.pack("<Q", 2**63 + 5) + content[24:]
    file.write_bytes(damaged)
    with pytest.raises(ValueError, match="model.gguf") as caught:
        load_model(file)
    assert "\n" not in str(caught.value)
    assert main(["info", str(file)]) in (0, 1) and "Traceback" not in capsys.readouterr().err


WHOLE = (
    *("general.alignment", "split.count", "llama.block_count", "llama.context_length", "llama.embedding_length"),
    *("llama.expert_count", "llama.attention.key_length", "llama.attention.sliding_window"),
    *("llama.attention.head_count", "llama.attention.head_count_kv", "llama.feed_forward_length"),
    *("llama.rope.dimension_count", "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eot_token_id"),
)
NUMBERS = ("llama.rope.freq_base", "llama.rope.scale_linear", "llama.rope.scaling.factor")
WRONG_TYPES = {
    **dict.fromkeys(WHOLE, ("7", "a whole number")),
    **dict.fromkeys(
        ("llama.rope.freq_base", "llama.rope.scale_linear", "llama.rope.scaling.factor"), ([1], "a number")
    ),
    **dict.fromkeys(("tokenizer.ggml.add_space_prefix", "tokenizer.ggml.add_bos_token"), (1, "true or false")),
    **dict.fromkeys(("tokenizer.ggml.model", "tokenizer.ggml.pre", "tokenizer.chat_template"), ([1], "a string")),
    **dict.fromkeys(("tokenizer.ggml.tokens", "tokenizer.ggml.merges"), ([1, 2], "a list of strings")),
    "tokenizer.chat_templates": (3, "a list of strings"),
    "tokenizer.ggml.scores": (["a"], "a list of numbers"),
    "tokenizer.ggml.token_type": ([1.5], "a list of whole numbers"),
}


@pytest.mark.parametrize("key", WRONG_TYPES)
def test_a_key_of_another_type_is_one_sentence(blocks, tmp_path, capsys, key):
    """Guards against a traceback from the place where the value is used first."""
    value, needed = WRONG_TYPES[key]
    file = write_gguf(blocks, tmp_path / "model.gguf", keys={key: value})
    assert main(["info", str(file)]) == 1
    error = capsys.readouterr().err
    assert f"{key} is {value!r}, but it has to be {needed}" in error and error.count("\n") == 1


def test_damaged_scales_give_no_warning_of_numpy(blocks, tmp_path, recwarn):
    """Guards against a second line beside the error for logits that are not finite."""
    file = write_gguf(blocks, tmp_path / "model.gguf", Type.Q4_0)
    tensor, content = read_header(file).tensors["blk.0.attn_v.weight"], bytearray(file.read_bytes())
    content[tensor.start : tensor.start + 2] = b"\xff\x7f"  # a scale that is NaN
    content[tensor.start + 18 : tensor.start + 20] = b"\x00\x7c"  # and infinity, times 0
    content[tensor.start + 20 : tensor.start + 36] = b"\x88" * 16
    file.write_bytes(content)
    load_model(file, "float32", "cpu")
    assert not [each for each in recwarn if "invalid value" in str(each.message)]


@pytest.mark.parametrize("type_id, name", [(9, "Q8_1"), (31, "Q4_0_4_4"), (99, r"an unknown type \(99\)")])
def test_a_type_that_cannot_be_decoded_is_named(small, tmp_path, type_id, name):
    """Guards against a KeyError, and against a decoder that guesses."""
    file = write_gguf(small, tmp_path / "model.gguf", Type.F16)
    entry = b"output.weight" + struct.pack("<IQQI", 2, 24, 96, 1)
    assert entry in file.read_bytes()
    file.write_bytes(file.read_bytes().replace(entry, entry[:-4] + struct.pack("<I", type_id)))
    with pytest.raises(ValueError, match=f"stores output.weight as {name}, which is not supported"):
        load_model(file)


def test_the_extra_is_named_where_gguf_is_missing(blocks, tmp_path, monkeypatch):
    """Guards against an ImportError; floats need no extra."""
    quantized, floats = (write_gguf(blocks, tmp_path / f"{kind.name}.gguf", kind) for kind in (Type.Q4_0, Type.F16))
    monkeypatch.setitem(sys.modules, "gguf", None)
    load_model(floats)
    with pytest.raises(ValueError, match=r"holds Q4_0 weights.*pip install 'llama-jp\[gguf\]'"):
        load_model(quantized)


def test_a_folder_and_a_revision(small, tmp_path):
    """Guards against a hint that leads nowhere."""
    file = write_gguf(small, tmp_path / "model-Q8_0.gguf")
    with pytest.raises(FileNotFoundError, match=r"GGUF files \(model-Q8_0.gguf\): name one of them"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="is the file .* only hub repositories have revisions"):
        load_model(file, revision="main")
    blob = tmp_path / "sha256-0123"  # as Ollama keeps it
    blob.write_bytes(file.read_bytes())
    load_model(blob)


def test_what_is_saved_is_what_was_loaded(blocks, tmp_path):
    """Guards against a saved checkpoint that transformers reads otherwise."""
    import transformers

    file = write_gguf(blocks, tmp_path / "model.gguf", Type.Q4_K)
    load_model(file, "stored", "cpu").save_pretrained(tmp_path / "saved")
    with torch.no_grad():
        theirs = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)(IDS).logits
    assert torch.equal(theirs, reference(blocks, file)(IDS).logits)
    assert json.loads((tmp_path / "saved/config.json").read_text())["rms_norm_eps"] == 1e-5
    assert llama_jp.Llama.from_pretrained(file, dtype="float32").folder == file
