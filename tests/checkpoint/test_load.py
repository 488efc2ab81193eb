"""A folder to a model: every file format, dtypes, tied embeddings, memory, and tensors that do not fit config.json."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.checkpoint_files import IDS, edit_config, edit_tensors, logits
from helpers.reference import DTYPES, SMALL, publish, random_config, save_random, theirs

from llama_jp.checkpoint.load import load_model, multiplies_bfloat16


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_file_format_gives_the_same_logits(small, tmp_path, dtype):
    """Guards against a format that loads other weights: safetensors or `.bin`, one file or many, theirs or ours."""
    with torch.no_grad():
        expected = theirs(small, dtype)(IDS).logits
    folders = [small, publish(small, tmp_path / "one", shards=1), publish(small, tmp_path / "three", shards=3)]
    load_model(small, dtype="stored").save_pretrained(tmp_path / "ours")
    load_model(small, dtype="stored").save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    for folder in [*folders, tmp_path / "ours", tmp_path / "sharded"]:
        assert torch.equal(logits(folder, dtype), expected), folder


def test_weights_that_are_stored_in_the_dtype_are_memory_mapped(small, published):
    """Guards against a second copy in memory: the address of a parameter lies in the file's mapping."""
    for folder in (small, published):
        model = load_model(folder, dtype="stored", device="cpu")
        address = model.layers[0].mlp.up_proj.weight.data_ptr()
        maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
        inside = [line for line in maps if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16)]
        assert str(folder) in inside[0][-1]


def test_writing_to_a_memory_mapped_model_does_not_change_the_file(copy):
    """Guards against a shared mapping, through which training would overwrite the checkpoint."""
    before = (copy / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in load_model(copy, dtype="stored", device="cpu").parameters():
            parameter.fill_(1)
    assert (copy / "model.safetensors").read_bytes() == before


def test_dtypes(small):
    """Guards against a dtype name that is not understood, and against an integer dtype that is accepted."""
    for dtype in ("bfloat16", torch.bfloat16, "torch.bfloat16"):
        assert load_model(small, dtype=dtype).lm_head.weight.dtype == torch.bfloat16
    assert load_model(small, dtype="stored").lm_head.weight.dtype == torch.float16
    native = torch.bfloat16 if multiplies_bfloat16() else torch.float32
    assert load_model(small, device="cpu").lm_head.weight.dtype == native
    for dtype in ("int8", "floaty", torch.int64, 3):
        with pytest.raises(ValueError, match="not " + repr(dtype)):
            load_model(small, dtype=dtype)


def test_tied_embeddings(tmp_path):
    """Guards against two copies of the tied matrix, and against a save that stores it twice or not at all."""
    config = random_config(random.Random(2), "default") | {"tie_word_embeddings": True, "vocab_size": 96}
    folder = save_random(tmp_path / "tied", seed=8, **config)
    model = load_model(folder, dtype="float32")
    assert model.lm_head.weight is model.embed_tokens.weight
    published = publish(folder, tmp_path / "published")  # a .bin has the matrix under both names
    with torch.no_grad():
        expected = theirs(folder, torch.float32)(IDS).logits
        assert torch.equal(model(IDS), expected) and torch.equal(logits(published), expected)
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(tmp_path / "again"), expected)


def test_two_different_matrices_in_a_tied_checkpoint_are_untied(tmp_path):
    """Guards against dropping one of two different matrices because config.json ties them; a warning says so."""
    config = random_config(random.Random(3), "default") | {"tie_word_embeddings": False, "vocab_size": 96}
    folder = save_random(tmp_path, seed=9, **config)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    with pytest.warns(UserWarning, match="not tied"):
        model = load_model(folder, dtype="float32")
    with torch.no_grad():
        assert torch.equal(model(IDS), theirs(folder, torch.float32)(IDS).logits)


def test_missing_unexpected_and_misshapen_tensors_are_listed(copy):
    """Guards against an error that names only the first problem, and against random values for missing weights."""

    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.1.mlp.up_proj.wait"] = torch.zeros(2)
        tensors["model.norm.weight"] = torch.zeros(25)

    edit_tensors(copy, change)
    with pytest.raises(ValueError) as error:
        load_model(copy)
    for part in (
        "missing model.layers.1.mlp.up_proj.weight",
        "unexpected model.layers.1.mlp.up_proj.wait in model.safetensors",
        "misshapen model.norm.weight in model.safetensors is (25,) where config.json makes it (24,)",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_long_lists_of_names_are_shortened(copy):
    """Guards against an error of 291 names."""
    edit_tensors(copy, lambda tensors: [tensors.pop(name) for name in list(tensors)[:20]])
    with pytest.raises(ValueError, match="and 12 more"):
        load_model(copy)


def test_a_wrong_vocabulary_is_misshapen(copy):
    """Guards against loading the 32,000 rows of 7b into the 45,043 rows of 7b-fast."""
    edit_config(copy, vocab_size=97)
    with pytest.raises(ValueError, match=r"embed_tokens.weight in model.safetensors is \(96, 24\) where .* \(97, 24\)"):
        load_model(copy)


def test_integer_weights_are_refused(copy):
    """Guards against quantised weights of another project, loaded as plain numbers."""
    edit_tensors(copy, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(24, dtype=torch.int8)}))
    with pytest.raises(ValueError, match="model.norm.weight in .* is torch.int8, not a float"):
        load_model(copy)


def test_sources_that_are_not_checkpoints_are_refused(tmp_path, copy):
    """Guards against a traceback for a mistyped name, a missing file or a broken config.json."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="there is no config.json in .*empty"):
        load_model(tmp_path / "empty")
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="there are no weights in .*copy: none of model.safetensors, "):
        load_model(copy)
    with pytest.raises(
        FileNotFoundError, match="is no folder, no hub repository .* and no short name .*7b-fast-instruct"
    ):
        load_model("7b-slow")
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_model(tmp_path / "absent")
    (copy / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is not valid JSON"):
        load_model(copy)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_peak_memory_of_a_conversion(tmp_path, form):
    """Guards against holding the stored and the converted weights at once: the limit is 5 % above the weights."""
    config = SMALL | {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 8,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 128,
    }
    folder = save_random(tmp_path / "saved", seed=1, **config)
    if form == "bin":
        folder = publish(folder, tmp_path / "published")
    script = (
        "import sys\n"
        "import torch\n"
        "from llama_jp.checkpoint.load import load_model\n"
        "def status(key):\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1]) * 1024\n"
        "before = status('VmRSS')\n"
        "model = load_model(sys.argv[1], dtype='bfloat16', device='cpu')\n"
        "weights = sum(p.nbytes for p in model.parameters())\n"
        "print((status('VmHWM') - before) / weights)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.05


def test_generation_config_replaces_the_ids_of_the_configuration(copy):
    """Guards against an EOS of config.json beside the settings of a file that names none, as in transformers."""
    (copy / "generation_config.json").write_text('{"temperature": 0.5}')
    assert load_model(copy, device="cpu").generation_config == {"temperature": 0.5}
    (copy / "generation_config.json").unlink()
    assert load_model(copy, device="cpu").generation_config["eos_token_id"] == 2


@pytest.mark.parametrize("name", ["llama.cpp:model.gguf", "checkout:.", "checkout:../main"])
def test_models_of_a_comparison_are_named_as_such(name):
    """Guards against "No module named 'llama'" for a name that `llama-jp parity` takes."""
    with pytest.raises(FileNotFoundError, match="only `llama-jp parity` takes"):
        load_model(name)
