"""GGUF files, written by the `gguf` package with the keys and the order of rows of llama.cpp's converter."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import sentencepiece
import torch
import transformers
from gguf import GGMLQuantizationType as Type
from safetensors.torch import load_file

from llama_jp.checkpoint.gguf.header import GgufTensor, read_header
from llama_jp.checkpoint.gguf.weights import find_gguf_tensors
from llama_jp.checkpoint.tensors import read_tensors

# Types that gguf-py decodes and does not encode: their blocks are random bytes.
DECODED_ONLY = {
    Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ1_S, Type.IQ1_M, Type.IQ2_XXS, Type.IQ2_XS,
    Type.IQ2_S, Type.IQ3_XXS, Type.IQ3_S, Type.IQ4_NL, Type.IQ4_XS, Type.NVFP4,
}  # fmt: skip
TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.TQ1_0, Type.TQ2_0]
TYPES += [Type.MXFP4, *sorted(DECODED_ONLY)]

NAMES = {
    "embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor in a checkpoint."""
    path, kind = name.removeprefix("model.").rsplit(".", 1)
    if path.startswith("layers."):
        _, layer, part = path.split(".", 2)
        return f"blk.{layer}.{NAMES[part]}.{kind}"
    return f"{NAMES[path]}.{kind}"


def permuted_rows(rows: int, heads: int) -> list[int]:
    """For each row in the file, the row of transformers: the pairs (0, D/2), (1, D/2 + 1), … become neighbours."""
    half = rows // heads // 2
    return [head * 2 * half + part * half + i for head in range(heads) for i in range(half) for part in (0, 1)]


def encode(numbers: np.ndarray, kind: Type, rng: np.random.Generator) -> np.ndarray:
    """A matrix in a type of GGUF. A byte below 0x28 keeps each random half-precision scale small and positive."""
    if kind in DECODED_ONLY:
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        shape = (*numbers.shape[:-1], numbers.shape[-1] // block * nbytes)
        return rng.integers(0, 0x28, shape, dtype=np.uint8)
    return gguf.quants.quantize(numbers, kind)


# Where the structures of ggml-common.h have 16-bit numbers, which a big-endian machine writes the other way round.
HALVES = {
    Type.BF16: [0], Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82], Type.Q3_K: [108],
    Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0], Type.TQ1_0: [52], Type.TQ2_0: [64],
    Type.MXFP4: [], Type.NVFP4: [],
}  # fmt: skip


def big_endian(blocks: np.ndarray, kind: Type) -> np.ndarray:
    """The bytes of quantised blocks as a big-endian machine stores them; gguf-py's writer turns floats round itself."""
    if blocks.dtype != np.uint8:
        return blocks
    swapped = blocks.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1]).copy()
    for start in HALVES[kind]:
        swapped[:, [start, start + 1]] = swapped[:, [start + 1, start]]
    return swapped.reshape(blocks.shape)


def write_gguf(
    folder: Path,
    file: Path,
    kind: Type | dict[str, Type] = Type.F32,
    keys: dict | None = None,
    drop: tuple[str, ...] = (),
    tokenizer: bool = False,
    further: dict[str, np.ndarray] | None = None,
    **options,
) -> Path:
    """Write the checkpoint in a folder as a GGUF file.

    kind       of the matrices, or one for each by its name in the file; vectors are F32
    keys       further keys, or other values: {"llama.rope.freq_base": 500.0}; floats are F32, whole numbers U32
    drop       keys to leave out
    tokenizer  whether to write the vocabulary of the folder's tokenizer.model
    further    float32 tensors that the checkpoint has not, such as rope_freqs.weight
    """
    raw = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "llama", **options)
    heads, key_heads = raw["num_attention_heads"], raw["num_key_value_heads"]
    rope = raw.get("rope_parameters") or {}
    values = {
        "general.name": "test",
        "llama.context_length": raw["max_position_embeddings"],
        "llama.embedding_length": raw["hidden_size"],
        "llama.block_count": raw["num_hidden_layers"],
        "llama.feed_forward_length": raw["intermediate_size"],
        "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": key_heads,
        "llama.attention.layer_norm_rms_epsilon": float(raw["rms_norm_eps"]),
        "llama.rope.freq_base": float(rope.get("rope_theta", raw.get("rope_theta", 10000.0))),
        "llama.vocab_size": raw["vocab_size"],
    }
    head_dim = raw.get("head_dim") or raw["hidden_size"] // heads
    if head_dim * heads != raw["hidden_size"]:
        values |= {"llama.attention.key_length": head_dim, "llama.attention.value_length": head_dim}
    values["llama.rope.dimension_count"] = head_dim
    if tokenizer:
        values |= vocabulary_keys(folder)
    for key, value in (values | (keys or {})).items():
        if key not in drop:
            add_key(writer, key, value)
    state, rng = load_file(folder / "model.safetensors"), np.random.default_rng(0)
    for name, tensor in state.items():
        numbers, of_file = tensor.float().numpy(), gguf_name(name)
        if ".attn_q." in of_file or ".attn_k." in of_file:
            numbers = numbers[permuted_rows(len(numbers), heads if ".attn_q." in of_file else key_heads)]
        chosen = kind.get(of_file, Type.F32) if isinstance(kind, dict) else kind
        chosen = Type.F32 if numbers.ndim == 1 else chosen
        stored = encode(numbers, chosen, rng)
        if options.get("endianess") == gguf.GGUFEndian.BIG:
            stored = big_endian(stored, chosen)
        writer.add_tensor(of_file, stored, raw_dtype=chosen)
    for name, numbers in (further or {}).items():
        writer.add_tensor(name, numbers)
    return finish(writer, file)


def as_version_1(file: Path, order: str = "<") -> bytes:
    """The bytes of a file with scalar keys and strings only, with the 32-bit counts of version 1."""

    def string(text: str) -> bytes:
        return struct.pack(f"{order}I", len(text.encode())) + text.encode()

    reader = gguf.GGUFReader(file)
    fields = [field for name, field in reader.fields.items() if not name.startswith("GGUF.")]
    out = b"GGUF" + struct.pack(f"{order}III", 1, len(reader.tensors), len(fields))
    for field in fields:
        out += string(field.name) + struct.pack(f"{order}I", field.types[0])
        is_text = field.types[0] == gguf.GGUFValueType.STRING
        out += string(field.contents()) if is_text else field.parts[-1].tobytes()
    data, offset = b"", 0
    for tensor in reader.tensors:
        out += string(tensor.name) + struct.pack(f"{order}I", len(tensor.shape))
        out += b"".join(struct.pack(f"{order}I", size) for size in tensor.shape)
        out += struct.pack(f"{order}IQ", tensor.tensor_type, offset)
        content = tensor.data.tobytes()  # in the order of the file, as the parts of the keys
        data += content + bytes(-len(content) % 32)
        offset = len(data)
    return out + bytes(-len(out) % 32) + data


def finish(writer: gguf.GGUFWriter, file: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def add_key(writer: gguf.GGUFWriter, key: str, value: object) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def vocabulary_keys(folder: Path) -> dict:
    """The keys of a vocabulary, as llama.cpp's converter writes them (`_set_vocab_sentencepiece`)."""
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    pieces, scores, types = [], [], []
    for i in range(sp.get_piece_size()):
        pieces.append(sp.id_to_piece(i))
        scores.append(sp.get_score(i))
        types.append(2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"] if (folder / "config.json").is_file() else 0
    for i in range(len(pieces), rows):
        pieces, scores, types = [*pieces, f"[PAD{i}]"], [*scores, -10000.0], [*types, 5]
    for i, token in config.get("added_tokens_decoder", {}).items():
        name = token["content"]
        special = token["special"] or (name.startswith("<|") and name.endswith("|>"))
        pieces[int(i)], scores[int(i)], types[int(i)] = name, -1000.0, 3 if special else 4
    keys = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    if config.get("chat_template"):
        keys["tokenizer.chat_template"] = config["chat_template"]
    return keys


def reference(folder: Path, *files: Path) -> transformers.LlamaForCausalLM:
    """transformers' model of a folder's config.json, with the float32 numbers that gguf-py decodes from the files."""
    config = transformers.LlamaConfig.from_pretrained(folder)
    model = transformers.LlamaForCausalLM(config).eval()
    tensors = {t.name: t for file in files for t in gguf.GGUFReader(file).tensors}
    state = {}
    for name, parameter in model.state_dict().items():
        tensor = tensors.get(gguf_name(name), tensors["token_embd.weight"])  # a tied head
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(parameter.shape)
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            unpermuted = np.empty_like(numbers)
            unpermuted[permuted_rows(len(numbers), heads)] = numbers
            numbers = unpermuted
        state[name] = torch.tensor(np.asarray(numbers, np.float32))
    model.load_state_dict(state)
    return model


def tensors_of(file: Path) -> dict[str, GgufTensor]:
    """The tensors of a file by the names of the model's parameters."""
    stored, header = find_gguf_tensors(file), read_header(file)
    return {name: header.tensors[info.name] for name, info in stored.items()}


def numbers_of(file: Path) -> dict[str, torch.Tensor]:
    """The numbers of a file in float32, by the names of the model's parameters."""
    return read_tensors(find_gguf_tensors(file), torch.float32, torch.device("cpu"))
