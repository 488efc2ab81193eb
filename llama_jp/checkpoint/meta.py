"""Meta's own files: params.json, and consolidated.*.pth or .safetensors. Mistral has published the same layout.

Each file holds a part of every matrix, the heads of one GPU for example, so the parts are joined at loading. The rows
of wq and wk pair neighbours for RoPE, see permutation.py. Source: meta-llama/llama, `model.py` and
`fairscale.nn.model_parallel`, and convert_llama_weights_to_hf.py of transformers.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .json_files import read_json
from .recognise import shorten
from .tensors import Recipe, TensorInfo, list_tensors

if TYPE_CHECKING:
    from torch import Tensor

SHARD = re.compile(r"consolidated(?:\.(\d+))?\.(pth|safetensors)")

# Meta's name -> the model's name, and the dimension along which the parts are joined. None: every file has the whole.
KNOWN = {
    "tok_embeddings": ("embed_tokens", 1),
    "attention.wq": ("self_attn.q_proj", 0),
    "attention.wk": ("self_attn.k_proj", 0),
    "attention.wv": ("self_attn.v_proj", 0),
    "attention.wo": ("self_attn.o_proj", 1),
    "feed_forward.w1": ("mlp.gate_proj", 0),
    "feed_forward.w2": ("mlp.down_proj", 1),
    "feed_forward.w3": ("mlp.up_proj", 0),
    "attention_norm": ("input_layernorm", None),
    "ffn_norm": ("post_attention_layernorm", None),
    "norm": ("norm", None),
    "output": ("lm_head", 0),
}

# The keys of params.json that are used. All others are refused, unless they change nothing.
SIZES = ("dim", "n_layers", "n_heads")
OPTIONAL_SIZES = ("n_kv_heads", "head_dim", "hidden_dim", "multiple_of", "max_position_embeddings")
NUMBERS = ("norm_eps", "ffn_dim_multiplier", "rope_theta")
USED = (*SIZES, *OPTIONAL_SIZES, *NUMBERS, "vocab_size", "sliding_window", "tied_embeddings")
IGNORED = ("max_seq_len", "max_batch_size", "model_parallel_size")

LLAMA3_ROWS = 128256  # of the embedding: BOS and EOS are then 128000 and 128001


class MetaFiles(NamedTuple):
    """The content of params.json, and the tensors of each file by Meta's names."""

    file: Path  # params.json
    params: dict[str, Any]
    shards: list[dict[str, TensorInfo]]

    @property
    def head_dim(self) -> int:
        head_dim: int = self.params.get("head_dim") or self.params["dim"] // self.params["n_heads"]
        return head_dim

    @property
    def key_heads(self) -> int:
        key_heads: int = self.params.get("n_kv_heads") or self.params["n_heads"]
        return key_heads

    def part(self, name: str) -> TensorInfo:
        """A tensor of the first file. Raises ValueError if it is absent."""
        if name not in self.shards[0]:
            raise ValueError(f"{shard_files(self.file.parent)[0]} has no {name}; download the file again")
        return self.shards[0][name]

    def dim_joined(self, name: str) -> int | None:
        """The dimension along which the parts of a tensor are joined; None for a tensor that every file holds."""
        dim = KNOWN[short_name(name)][1]
        # Llama 1 and 2 split the columns of the embedding, Llama 3 its rows.
        return 0 if short_name(name) == "tok_embeddings" and self.part(name).shape[-1] == self.params["dim"] else dim

    def whole_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor after its parts are joined."""
        shape, dim = list(self.part(name).shape), self.dim_joined(name)
        if dim is not None:
            shape[dim] *= len(self.shards)
        return tuple(shape)


def is_meta(folder: str | Path) -> bool:
    """Whether a folder holds a checkpoint in Meta's layout. A config.json makes it one of transformers'."""
    folder = Path(folder)
    has_params = (folder / "params.json").is_file() and not (folder / "config.json").is_file()
    return has_params and any(SHARD.fullmatch(entry.name) for entry in folder.iterdir())


def shard_files(folder: Path) -> list[Path]:
    """The weight files of a folder in Meta's layout, in order: one safetensors file, or consolidated.00.pth and so on.

    Raises FileNotFoundError for a missing file.
    """
    found = {entry: match for entry in sorted(folder.iterdir()) if (match := SHARD.fullmatch(entry.name))}
    suffix = "safetensors" if any(match[2] == "safetensors" for match in found.values()) else "pth"
    files = [file for file, match in found.items() if match[2] == suffix]
    if whole := [file for file in files if found[file][1] is None]:
        return whole
    for number, file in enumerate(files):
        if int(found[file][1]) != number:
            raise FileNotFoundError(
                f"{folder} has {file.name}, but no consolidated.{number:02}.{suffix}; download the missing files"
            )
    return files


def read_params(file: Path) -> dict[str, Any]:
    """The content of params.json.

    Raises ValueError for a size that is missing or impossible, and for a key that may change the model.
    """
    raw = read_json(file)
    raw = raw["model"] if isinstance(raw.get("model"), dict) else raw
    params = {key: value for key, value in raw.items() if value is not None}
    if absent := [key for key in (*SIZES, "norm_eps") if key not in params]:
        raise ValueError(f"{file} has no {', '.join(absent)}; it is not the params.json of a Llama model")
    for key, value in params.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if key in SIZES + OPTIONAL_SIZES and not (is_number and isinstance(value, int) and value > 0):
            raise ValueError(f"{file}: {key} is {value!r}, but it has to be a positive whole number")
        if key in NUMBERS and not (is_number and value > 0):
            raise ValueError(f"{file}: {key} is {value!r}, but it has to be a positive number")
        if key not in USED + IGNORED and value not in (False, {}, []):
            raise ValueError(f"{file}: {key} {value!r} is not supported; only the keys of Llama 1, 2 and 3 are")
    return params


def open_meta(folder: Path) -> MetaFiles:
    """List the files of a checkpoint in Meta's layout, after a check that they belong together.

    Raises FileNotFoundError for a missing file, and ValueError for files that do not fit each other or params.json.
    """
    file = folder / "params.json"
    params, files = read_params(file), shard_files(folder)
    shards = [{info.name: info for info in list_tensors(shard)} for shard in files]
    for shard, tensors in zip(files[1:], shards[1:], strict=True):
        if other := sorted(tensors.keys() ^ shards[0].keys()):
            raise ValueError(f"{files[0].name} and {shard.name} in {folder} do not both hold {shorten(other, 3)}")
        for name, info in tensors.items():
            first = shards[0][name]
            if (info.shape, info.dtype_name) != (first.shape, first.dtype_name):
                raise ValueError(
                    f"{name} is {info.dtype_name} {info.shape} in {shard.name}, and {first.dtype_name} {first.shape} "
                    f"in {files[0].name}: the files in {folder} are not of one model"
                )
    meta = MetaFiles(file, params, shards)
    for name, info in shards[0].items():
        if is_known(name) and len(info.shape) != (dims := 1 if meta.dim_joined(name) is None else 2):
            raise ValueError(
                f"{name} in {info.file} has the shape {info.shape}, and its number of dimensions has to be {dims}"
            )
    check_count(meta, files)
    check_width(meta)
    return meta


def check_count(meta: MetaFiles, files: list[Path]) -> None:
    """Raise an error unless the files are all of the set. Together they hold every head."""
    heads, rows = meta.params["n_heads"], meta.part("layers.0.attention.wq.weight").shape[0]
    every, folder = heads * meta.head_dim, meta.file.parent
    problem = f"{folder} has {len(files)} consolidated file{'s' * (len(files) > 1)}"
    if every % rows:
        raise ValueError(
            f"{problem} with {rows} rows of wq in each, and {meta.file.name} makes it {every} in all ({heads} heads of "
            f"{meta.head_dim}): it is not of this model"
        )
    count = every // rows
    if count > len(files):
        missing = [f"consolidated.{number:02}{files[0].suffix}" for number in range(len(files), count)]
        raise FileNotFoundError(f"{problem} of {count}: download {shorten(missing, 3)}")
    if count < len(files):
        raise ValueError(f"{problem}, and the model of {meta.file.name} has {count}; remove those of another model")


def check_width(meta: MetaFiles) -> None:
    """Raise ValueError if the width of the MLP is not that of params.json."""
    params, width = meta.params, meta.whole_shape("layers.0.feed_forward.w1.weight")[0]
    expected = params.get("hidden_dim", width)
    if "hidden_dim" not in params and (multiple := params.get("multiple_of")):
        expected = int(2 * (4 * params["dim"]) / 3)
        expected = int(params.get("ffn_dim_multiplier", 1) * expected)
        expected = multiple * -(-expected // multiple)
    if width != expected:
        raise ValueError(f"{meta.file} makes the MLP {expected} wide, and the weights make it {width}")


def config_from_params(folder: Path) -> dict[str, Any]:
    """The content of the config.json for a checkpoint in Meta's layout.

    Sizes that params.json lacks are those of the tensors. Raises the errors of `open_meta`.
    """
    meta = open_meta(folder)
    params, embedding = meta.params, meta.part("tok_embeddings.weight")
    rows = meta.whole_shape("tok_embeddings.weight")[0]
    if params.get("vocab_size", -1) not in (-1, rows):  # Llama 2 has -1
        raise ValueError(f"{meta.file}: vocab_size is {params['vocab_size']!r}, and the embedding has {rows} rows")
    llama3 = rows == LLAMA3_ROWS
    return {
        "model_type": "llama",
        "vocab_size": rows,
        "hidden_size": params["dim"],
        "intermediate_size": meta.whole_shape("layers.0.feed_forward.w1.weight")[0],
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": meta.key_heads,
        "head_dim": meta.head_dim,
        "rms_norm_eps": params["norm_eps"],
        "rope_theta": params.get("rope_theta", 10000.0),
        "max_position_embeddings": params.get("max_position_embeddings") or assumed_context(params, embedding),
        "sliding_window": params.get("sliding_window"),
        "tie_word_embeddings": params.get("tied_embeddings", False),
        "bos_token_id": 128000 if llama3 else 1,
        "eos_token_id": 128001 if llama3 else 2,
        "torch_dtype": embedding.dtype_name,
    }


def assumed_context(params: dict[str, Any], embedding: TensorInfo) -> int:
    """The context length, which Meta's files do not have, from what tells the releases apart."""
    if "head_dim" in params:  # Mistral
        return 32768
    if (theta := params.get("rope_theta", 10000.0)) != 10000.0:
        return 8192 if theta == 500000.0 else 16384  # Llama 3, Code Llama
    return 2048 if embedding.dtype_name == "float16" else 4096  # Llama 1, Llama 2


def find_meta_tensors(folder: Path) -> dict[str, TensorInfo]:
    """List the tensors of a checkpoint in Meta's layout under the model's names, with the recipes that join them.

    `rope.freqs` is left out: its numbers are rounded, and `plain_rope` computes exact ones.
    """
    meta = open_meta(folder)
    found = {}
    for name in meta.shards[0]:
        if name != "rope.freqs":
            found[model_name(name)] = joined(meta, name)
    return found


def joined(meta: MetaFiles, name: str) -> TensorInfo:
    """A tensor of the model: as stored, if one file holds it in the model's order, else with a recipe."""
    parts, permuted = tuple(shard[name] for shard in meta.shards), short_name(name) in ("attention.wq", "attention.wk")
    if not is_known(name) or (len(parts) == 1 and not permuted):
        return parts[0]
    heads = meta.params["n_heads"] if short_name(name) == "attention.wq" else meta.key_heads
    shape = meta.whole_shape(name)
    if permuted and shape[0] != heads * meta.head_dim:
        raise ValueError(
            f"{name} has {shape[0]} rows, and {meta.file} makes it {heads * meta.head_dim} ({heads} heads of "
            f"{meta.head_dim})"
        )
    make = partial(join, name, meta.dim_joined(name), heads if permuted else None)
    return parts[0]._replace(shape=shape, recipe=Recipe(parts, make))


def join(name: str, dim: int | None, heads: int | None, *parts: Tensor) -> Tensor:
    """Join the parts of a tensor.

    dim    the dimension to join along; None: the parts are equal
    heads  of a tensor to unpermute; None for the others

    Raises ValueError for parts that should be equal and are not.
    """
    import torch  # late, because it takes seconds and `llama-jp info` needs the shapes alone

    from .permutation import unpermute

    if dim is None:
        if not all(torch.equal(part, parts[0]) for part in parts[1:]):
            raise ValueError(f"{name} differs between the consolidated files, so they are not of one model")
        return parts[0].clone()
    whole = torch.cat(parts, dim)
    return whole if heads is None else unpermute(whole, heads)


def short_name(name: str) -> str:
    """Meta's name without the layer and `.weight`: "attention.wq" of "layers.0.attention.wq.weight"."""
    return re.sub(r"^layers\.\d+\.", "", name).removesuffix(".weight")


def is_known(name: str) -> bool:
    """Whether a tensor of this name in Meta's layout is a weight of a Llama."""
    return name.endswith(".weight") and short_name(name) in KNOWN


def model_name(name: str) -> str:
    """The model's name of a tensor with Meta's name; a name that Llama has not stays."""
    if not is_known(name):
        return name
    layer = re.match(r"layers\.\d+\.", name)
    return f"{layer[0] if layer else ''}{KNOWN[short_name(name)][0]}.weight"
