"""Meta's own files. The judge is transformers, with the same weights in its own layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.reference import SMALL, first_difference, save_random, theirs
from helpers.tokenizer_files import llama_model
from safetensors.torch import load_file, save_file

import llama_jp
from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.hub import find_checkpoint
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.permutation import unpermute
from llama_jp.cli import main
from llama_jp.text.tokenizer import Tokenizer

# heads 8:4 of 4, so that 4 files hold one key head each; the MLP is 136 wide: 2/3 of 4 * 48, up to a multiple of 8
SHAPE = SMALL | {
    "vocab_size": 560,  # of the tokenizer
    "hidden_size": 48,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 6,
    "intermediate_size": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
}
PARAMS = {
    "dim": 48,
    "n_layers": 3,
    "n_heads": 8,
    "n_kv_heads": 4,
    "multiple_of": 8,
    "norm_eps": 1e-5,
    "rope_theta": 1000.0,
    "vocab_size": -1,
}
ROWS, COLUMNS, WHOLE = 0, 1, None
NAMES = {
    "model.embed_tokens": ("tok_embeddings", COLUMNS),
    "self_attn.q_proj": ("attention.wq", ROWS),
    "self_attn.k_proj": ("attention.wk", ROWS),
    "self_attn.v_proj": ("attention.wv", ROWS),
    "self_attn.o_proj": ("attention.wo", COLUMNS),
    "mlp.gate_proj": ("feed_forward.w1", ROWS),
    "mlp.down_proj": ("feed_forward.w2", COLUMNS),
    "mlp.up_proj": ("feed_forward.w3", ROWS),
    "input_layernorm": ("attention_norm", WHOLE),
    "post_attention_layernorm": ("ffn_norm", WHOLE),
    "model.norm": ("norm", WHOLE),
    "lm_head": ("output", ROWS),
}


def neighbours(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The rows of a head in Meta's order, row by row: 0, D/2, 1, D/2 + 1, …"""
    D = len(weight) // heads
    rows = [head * D + i // 2 + (i % 2) * (D // 2) for head in range(heads) for i in range(D)]
    return weight[rows]


def write_meta(
    source: Path, folder: Path, files: int, suffix: str = "pth", embedding: int = COLUMNS, **changes
) -> Path:
    """A checkpoint of transformers' layout as Meta writes it, cut for `files` GPUs."""
    folder.mkdir(parents=True)
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(files)]
    heads = {"self_attn.q_proj": 8, "self_attn.k_proj": 4}
    for name, weight in load_file(source / "model.safetensors").items():
        layer = ".".join(name.split(".")[1:3]) + "." if name.startswith("model.layers") else ""
        part = name.removeprefix("model.").removeprefix(layer) if layer else name
        own, dim = NAMES[part.removesuffix(".weight")]
        dim = embedding if own == "tok_embeddings" else dim
        if (key := part.removesuffix(".weight")) in heads:
            weight = neighbours(weight, heads[key])
        for shard, piece in zip(shards, [weight] * files if dim is WHOLE else weight.chunk(files, dim), strict=True):
            shard[f"{layer}{own}.weight"] = piece.clone()
    for number, shard in enumerate(shards):
        shard["rope.freqs"] = torch.rand(3)
        if suffix == "pth":
            torch.save(shard, folder / f"consolidated.{number:02}.pth")
        else:
            save_file(shard, folder / "consolidated.safetensors")
    (folder / "params.json").write_text(json.dumps(PARAMS | changes))
    (folder / "checklist.chk").write_text("")
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """The weights in transformers' layout."""
    return save_random(tmp_path_factory.mktemp("original"), seed=5, dtype=torch.bfloat16, **SHAPE)


@pytest.fixture
def meta(original, tmp_path) -> Path:
    """The same weights in two of Meta's files."""
    return write_meta(original, tmp_path / "model" / "meta", 2)


def test_unpermute_inverts_the_order_of_neighbours():
    """Guards against a permutation across heads, and against biases, which have one dimension."""
    weight = torch.arange(24 * 5).view(24, 5)
    assert torch.equal(unpermute(neighbours(weight, 3), 3), weight)
    assert torch.equal(unpermute(neighbours(weight[:, 0], 4), 4), weight[:, 0])


@pytest.mark.parametrize(
    ("files", "suffix", "embedding"),
    [(1, "pth", COLUMNS), (2, "pth", COLUMNS), (4, "pth", COLUMNS), (4, "pth", ROWS), (1, "safetensors", COLUMNS)],
)
def test_logits_equal_those_of_transformers(original, tmp_path, files, suffix, embedding):
    """Guards against a wrong permutation, a join along the wrong dimension, and a wrong theta, eps or width."""
    folder = write_meta(original, tmp_path / "meta", files, suffix, embedding)
    their = theirs(original, torch.float32)
    our = load_model(folder, dtype="float32", device="cpu")
    ids = torch.arange(60)[None]
    assert torch.equal(our(ids), their(ids).logits)
    theirs_by_name = {name.removeprefix("model."): tensor for name, tensor in their.state_dict().items()}
    assert all(torch.equal(tensor, theirs_by_name[name]) for name, tensor in our.state_dict().items())


def test_every_call_equals_that_of_transformers_in_the_stored_dtype(original, meta):
    """Guards against weights that are stored in bfloat16 and rounded on their way."""
    our, their = load_model(meta, dtype="stored", device="cpu"), theirs(original, torch.bfloat16)
    assert our.embed_tokens.weight.dtype == torch.bfloat16
    assert first_difference(our, their, seed=3) is None


def test_one_file_stays_mapped_where_its_order_is_that_of_the_model(original, tmp_path):
    """Guards against copying 13 GB of which only q_proj and k_proj have another order."""
    folder = write_meta(original, tmp_path / "meta", 1)
    stored = llama_jp.checkpoint.layouts.find_tensors(folder)
    recipes = {name.split(".", 2)[-1] for name, info in stored.items() if info.recipe}
    assert recipes == {"self_attn.q_proj.weight", "self_attn.k_proj.weight"}


def test_sizes_come_from_the_tensors(meta):
    """Guards against vocab_size -1, and against a context that nobody gave."""
    config = read_config(meta)
    assert (config.vocab_size, config.intermediate_size, config.num_key_value_heads) == (560, 128, 4)
    assert (config.rms_norm_eps, config.rope_theta, config.torch_dtype) == (1e-5, 1000.0, "bfloat16")


@pytest.mark.parametrize(
    ("changes", "dtype", "context"),
    [
        ({"rope_theta": None}, torch.float16, 2048),
        ({"rope_theta": None}, torch.bfloat16, 4096),
        ({"rope_theta": 1e6}, torch.bfloat16, 16384),
        ({"rope_theta": 5e5}, torch.bfloat16, 8192),
        ({"max_position_embeddings": 77}, torch.bfloat16, 77),
    ],
)
def test_the_context_is_that_of_the_release(original, tmp_path, changes, dtype, context):
    """Guards against 4096 tokens for Llama 1, whose files are float16."""
    folder = write_meta(original, tmp_path / "meta", 1, **changes)
    torch.save(
        {name: tensor.to(dtype) for name, tensor in torch.load(folder / "consolidated.00.pth").items()},
        folder / "consolidated.00.pth",
    )
    assert read_config(folder).max_position_embeddings == context


def test_the_width_follows_the_multiplier(original, tmp_path):
    """Guards against a check that 70B fails: its width is multiplied before it is rounded up."""
    folder = write_meta(original, tmp_path / "meta", 1, ffn_dim_multiplier=1.3, multiple_of=8)
    with pytest.raises(ValueError, match="makes the MLP 168 wide, and the weights make it 128"):
        read_config(folder)  # int(1.3 * 128) is 166
    assert read_config(write_meta(original, tmp_path / "other", 1, hidden_dim=128, multiple_of=None))


@pytest.mark.parametrize("above", [False, True])
def test_load_convert_and_info(original, meta, tmp_path, capsys, above):
    """Guards against a tokenizer that is not found one folder up, and against a copy without it."""
    (meta.parent if above else meta).joinpath("tokenizer.model").write_bytes(llama_model())
    model, tokenizer = llama_jp.load(meta, dtype="stored", device="cpu")
    assert tokenizer.bos_id == 1
    out = tmp_path / "out"
    assert main(["convert", str(meta), str(out)]) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.model",
    ]
    ids = torch.arange(20)[None]
    assert torch.equal(theirs(out, torch.bfloat16)(ids).logits, theirs(original, torch.bfloat16)(ids).logits)
    assert main(["convert", str(meta), str(tmp_path / "out.gguf")]) == 0
    assert torch.equal(load_model(tmp_path / "out.gguf", dtype="stored", device="cpu")(ids), model(ids))
    capsys.readouterr()
    assert main(["info", str(meta)]) == 0
    shown = capsys.readouterr().out
    assert "Meta's own files" in shown and "consolidated.01.pth" in shown and "assumed" in shown
    assert main(["info", str(meta), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layout"] == "meta" and len(facts["weights"]["files"]) == 2
    assert facts["tokenizer"]["files"] == ["tokenizer.model"]
    assert facts["parameters"] == facts["weights"]["parameters_stored"]


def test_quantize_takes_metas_files(meta, tmp_path):
    """Guards against a command that reads config.json by itself."""
    (meta.parent / "tokenizer.model").write_bytes(llama_model())
    certificate = llama_jp.quantize(meta, tmp_path / "int8", bits=8)
    assert "../tokenizer.model" in certificate["original"]["sha256"]
    assert load_model(tmp_path / "int8", device="cpu").config.vocab_size == 560


def test_parity_with_transformers_names_the_way_out(meta, capsys):
    """Guards against transformers' own sentence about a missing config.json."""
    assert main(["parity", "--model", str(meta), "--against", "transformers"]) == 2
    message = capsys.readouterr().err
    assert "in another layout; write it with `llama-jp convert`" in message and message.count("\n") == 1


def edit_shard(folder: Path, number: int, edit) -> None:
    file = folder / f"consolidated.{number:02}.pth"
    tensors = torch.load(file)
    edit(tensors)
    torch.save(tensors, file)


@pytest.mark.parametrize(
    ("damage", "error", "sentence"),
    [
        (lambda f: (f / "consolidated.01.pth").unlink(), FileNotFoundError, "1 consolidated file of 2: download conso"),
        (lambda f: (f / "consolidated.00.pth").unlink(), FileNotFoundError, "but no consolidated.00.pth"),
        (
            lambda f: shutil.copy(f / "consolidated.01.pth", f / "consolidated.02.pth"),
            ValueError,
            "3 consolidated files, and the model of params.json has 2",
        ),
        (lambda f: (f / "consolidated.01.pth").write_bytes(b"PK"), ValueError, "no PyTorch zip file"),
        (
            lambda f: edit_shard(f, 1, lambda t: t.pop("layers.2.attention.wo.weight")),
            ValueError,
            "do not both hold layers.2.attention.wo.weight",
        ),
        (
            lambda f: edit_shard(f, 1, lambda t: t.update({"norm.weight": t["norm.weight"] + 1})),
            ValueError,
            "norm.weight differs between the consolidated files",
        ),
        (
            lambda f: edit_shard(f, 1, lambda t: t.update({"output.weight": t["output.weight"].float()})),
            ValueError,
            r"output.weight is float32 \(280, 48\) in consolidated.01.pth, and bfloat16 \(280, 48\) in consolidated.00",
        ),
        (
            lambda f: [edit_shard(f, i, lambda t: t.pop("layers.1.ffn_norm.weight")) for i in (0, 1)],
            ValueError,
            "do not fit params.json: missing model.layers.1.post_attention_layernorm.weight",
        ),
        (
            lambda f: [edit_shard(f, i, lambda t: t.update(x=torch.ones(1))) for i in (0, 1)],
            ValueError,
            "unexpected x in",
        ),
        (
            lambda f: [edit_shard(f, i, lambda t: t.pop("tok_embeddings.weight")) for i in (0, 1)],
            ValueError,
            "has no tok_embeddings.weight",
        ),
        (
            lambda f: [edit_shard(f, i, lambda t: t.update({"output.weight": torch.ones(5)})) for i in (0, 1)],
            ValueError,
            r"output.weight in .* has the shape \(5,\), and its number of dimensions has to be 2",
        ),
    ],
)
def test_damaged_sets_are_refused_in_one_sentence(meta, damage, error, sentence):
    """Guards against joining what does not belong together."""
    damage(meta)
    with pytest.raises(error, match=sentence) as raised:
        load_model(meta, device="cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"moe": {"num_experts": 8}}, "moe .* is not supported"),
        ({"use_scaled_rope": True}, "use_scaled_rope True is not supported"),
        ({"quantization_args": {"group_size": 32}}, "quantization_args .* is not supported"),
        ({"dim": "48"}, "dim is '48', but it has to be a positive whole number"),
        ({"n_heads": None}, "has no n_heads"),
        ({"norm_eps": None}, "has no norm_eps"),
        ({"norm_eps": 0}, "norm_eps is 0, but it has to be a positive number"),
        ({"vocab_size": 95}, "vocab_size is 95, and the embedding has 560 rows"),
        ({"n_heads": 7}, "48 rows of wq in each, and params.json makes it 42 in all"),
        ({"n_kv_heads": 8}, "layers.0.attention.wk.weight has 24 rows, and .* makes it 48 "),
        ({"sliding_window": 64}, "sliding_window 64 is not supported"),
        ({"dim": 64, "head_dim": 6, "multiple_of": None}, "misshapen"),
    ],
)
def test_other_models_are_refused_by_name(original, tmp_path, changes, sentence):
    """Guards against a setting that changes the numbers and is passed over."""
    folder = write_meta(original, tmp_path / "meta", 1, **changes)
    with pytest.raises(ValueError, match=sentence) as raised:
        load_model(folder, device="cpu")
    assert "\n" not in str(raised.value)


def test_settings_that_change_nothing_are_ignored(original, tmp_path):
    """Guards against refusing what Meta and Mistral write: a null, a false, the sizes of a server."""
    ignored = {"max_seq_len": 9, "moe": None, "use_scaled_rope": False, "max_batch_size": 1}
    folder = write_meta(original, tmp_path / "meta", 1, **ignored)
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps({"model": params}))
    assert load_model(folder, device="cpu").config.vocab_size == 560


def test_a_tiktoken_vocabulary_is_named(meta):
    """Guards against "damaged" for Llama 3's tokenizer.model. The model loads without it."""
    (meta / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")
    with pytest.raises(ValueError, match="is a tiktoken vocabulary, as Llama 3 has") as raised:
        Tokenizer.from_pretrained(meta)
    assert "\n" not in str(raised.value)
    assert load_model(meta, device="cpu").config.vocab_size == 560


def test_a_hub_repository_in_metas_layout_is_downloaded(meta, tmp_path, monkeypatch):
    """Guards against weights that are never downloaded, because their names are not transformers'."""
    import huggingface_hub

    calls = []

    def snapshot_download(repository, revision=None, allow_patterns=()):
        calls.append(allow_patterns)
        (tmp_path / "fetched").mkdir(exist_ok=True)
        for file in meta.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, tmp_path / "fetched")
        return str(tmp_path / "fetched")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    find_checkpoint("meta-llama/Llama-2-7b", weights=False)
    assert len(calls) == 1 and not list((tmp_path / "fetched").glob("*.pth"))
    assert load_model("meta-llama/Llama-2-7b", device="cpu").config.vocab_size == 560
