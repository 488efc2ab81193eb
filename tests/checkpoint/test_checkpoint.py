"""Loading what is published, in every form it comes in, and refusing what is not whole."""

from __future__ import annotations

import json
import pickle
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from helpers.reference import DTYPES, SMALL, publish, random_config, save_random, theirs
from helpers.tokenizer_files import llama_folder

import llama_jp
from llama_jp.checkpoint import save
from llama_jp.checkpoint.config import parse_config, read_config
from llama_jp.checkpoint.hub import find_checkpoint
from llama_jp.checkpoint.load import load_model, multiplies_bfloat16

IDS = torch.arange(2, 32).view(2, 15)


@pytest.fixture
def copy(small, tmp_path) -> Path:
    """A folder to spoil."""
    return shutil.copytree(small, tmp_path / "copy")


@pytest.fixture
def published(small, tmp_path) -> Path:
    return publish(small, tmp_path / "published")


def logits(folder, dtype="float32"):
    with torch.no_grad():
        return load_model(folder, dtype=dtype, device="cpu")(IDS)


# ---- forms


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_form_gives_the_same_logits(small, tmp_path, dtype):
    """safetensors or `.bin`, one file or many, from transformers or from us."""
    with torch.no_grad():
        expected = theirs(small, dtype)(IDS).logits
    folders = [small, publish(small, tmp_path / "one", shards=1), publish(small, tmp_path / "three", shards=3)]
    load_model(small, dtype="stored").save_pretrained(tmp_path / "ours")
    load_model(small, dtype="stored").save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 3
    for folder in [*folders, tmp_path / "ours", tmp_path / "sharded"]:
        assert torch.equal(logits(folder, dtype), expected), folder


def test_stored_inv_freq_is_the_only_thing_passed_over(published):
    """ELYZA's shards carry float32 inv_freq buffers, 323 entries for 291 parameters.

    Their values are of no consequence.
    """
    names = [name for file in published.glob("*.bin") for name in torch.load(file, weights_only=True)]
    assert sum("inv_freq" in name for name in names) == SMALL["num_hidden_layers"]
    assert logits(published).isfinite().all()


def test_a_file_of_the_wanted_dtype_is_mapped(small, published):
    """No second copy in memory: the parameters lie in the file's own pages."""
    for folder in (small, published):
        model = load_model(folder, dtype="stored", device="cpu")
        address = model.layers[0].mlp.up_proj.weight.data_ptr()
        maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
        inside = [line for line in maps if int(line[0].split("-")[0], 16) <= address < int(line[0].split("-")[1], 16)]
        assert str(folder) in inside[0][-1]


def test_writing_to_a_mapped_model_leaves_the_file_alone(copy):
    before = (copy / "model.safetensors").read_bytes()
    with torch.no_grad():
        for parameter in load_model(copy, dtype="stored", device="cpu").parameters():
            parameter.fill_(1)
    assert (copy / "model.safetensors").read_bytes() == before


def test_dtypes(small):
    for dtype in ("bfloat16", torch.bfloat16, "torch.bfloat16"):
        assert load_model(small, dtype=dtype).lm_head.weight.dtype == torch.bfloat16
    assert load_model(small, dtype="stored").lm_head.weight.dtype == torch.float16
    native = torch.bfloat16 if multiplies_bfloat16() else torch.float32
    assert load_model(small, device="cpu").lm_head.weight.dtype == native
    for dtype in ("int8", "floaty", torch.int64, 3):
        with pytest.raises(ValueError, match="not " + repr(dtype)):
            load_model(small, dtype=dtype)


def test_tied_embeddings(tmp_path):
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


def test_tied_in_name_only(tmp_path):
    """config.json says tied, the files hold two matrices.

    The two matrices count, as in transformers, and it is said.
    """
    config = random_config(random.Random(3), "default") | {"tie_word_embeddings": False, "vocab_size": 96}
    folder = save_random(tmp_path, seed=9, **config)
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"tie_word_embeddings": True}))
    with pytest.warns(UserWarning, match="not tied"):
        model = load_model(folder, dtype="float32")
    with torch.no_grad():
        assert torch.equal(model(IDS), theirs(folder, torch.float32)(IDS).logits)


# ---- what is not whole


def spoil_config(folder: Path, **values) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw = {key: value for key, value in (raw | values).items() if value != "gone"}
    (folder / "config.json").write_text(json.dumps(raw))


def respell(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})


def test_missing_unexpected_and_misshapen_tensors_are_listed(copy):
    def change(tensors):
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.1.mlp.up_proj.wait"] = torch.zeros(2)
        tensors["model.norm.weight"] = torch.zeros(25)

    respell(copy, change)
    with pytest.raises(ValueError) as error:
        load_model(copy)
    for part in (
        "missing model.layers.1.mlp.up_proj.weight",
        "unexpected model.layers.1.mlp.up_proj.wait in model.safetensors",
        "misshapen model.norm.weight in model.safetensors is (25,) where config.json makes it (24,)",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


def test_long_lists_are_cut(copy):
    respell(copy, lambda tensors: [tensors.pop(name) for name in list(tensors)[:20]])
    with pytest.raises(ValueError, match="and 12 more"):
        load_model(copy)


def test_a_wrong_vocabulary_is_misshapen(copy):
    """Loading the 32,000 rows of 7b into the 45,043 of 7b-fast, say."""
    spoil_config(copy, vocab_size=97)
    with pytest.raises(ValueError, match=r"embed_tokens.weight in model.safetensors is \(96, 24\) where .* \(97, 24\)"):
        load_model(copy)


def test_integers_are_refused(copy):
    respell(copy, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(24, dtype=torch.int8)}))
    with pytest.raises(ValueError, match="model.norm.weight in .* is torch.int8, not a float"):
        load_model(copy)


@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_a_truncated_safetensors_file(copy, keep):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"model.safetensors is damaged or incomplete \({keep:,} bytes\)"):
        load_model(copy)


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_a_truncated_bin_file(published, keep):
    file = published / "pytorch_model-00002-of-00002.bin"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"00002-of-00002.bin is no PyTorch zip file \({keep:,} bytes\): incomplete"):
        load_model(published)


def test_a_zip_that_is_no_checkpoint(published):
    with zipfile.ZipFile(published / "pytorch_model-00001-of-00002.bin", "w") as file:
        file.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match="00001-of-00002.bin is damaged or incomplete"):
        load_model(published)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a checkpoint ran code')",))


def test_a_pickle_that_wants_to_run_code_is_refused(published):
    torch.save({"model.norm.weight": Evil()}, published / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(ValueError, match="00001-of-00002.bin is refused: its pickle asks to run .*exec") as error:
        load_model(published)
    assert "\n" not in str(error.value)
    (published / "pytorch_model-00001-of-00002.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="no PyTorch zip file"):
        load_model(published)


def test_a_training_checkpoint_is_refused(published):
    torch.save({"state_dict": {"w": torch.zeros(1)}, "step": 3}, published / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(ValueError, match="does not hold tensors by name"):
        load_model(published)


def test_an_index_that_names_an_absent_file(published):
    (published / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match="index.json names pytorch_model-00002-of-00002.bin, which is not in"):
        load_model(published)


def test_an_index_cannot_lead_out_of_the_folder(published):
    index = published / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../elsewhere.bin"}}))
    with pytest.raises(ValueError, match="not a file beside it"):
        load_model(published)
    index.write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        load_model(published)


def test_a_tensor_stored_twice(published):
    shutil.copy(published / "pytorch_model-00001-of-00002.bin", published / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(ValueError, match="is stored twice, in pytorch_model-00001"):
        load_model(published)


def test_a_folder_that_is_called_like_a_short_name(tmp_path, small, monkeypatch):
    """A folder that holds a checkpoint is meant; one that only has the name is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert (find_checkpoint("demo") / "model.safetensors").is_file()
    shutil.copytree(small, tmp_path / "7b")
    assert find_checkpoint("7b") == Path("7b")


def test_folders_that_are_not_checkpoints(tmp_path, copy):
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


# ---- config.json

ELYZA = {
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pad_token_id": 0,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.30.2",
    "use_cache": True,
    "vocab_size": 45043,
}


def test_elyza_config():
    config = parse_config(ELYZA)
    assert (config.head_dim, config.rope_theta, config.rope_scaling, config.torch_dtype) == (
        128,
        10000.0,
        None,
        "float16",
    )
    assert not config.attention_bias and not config.mlp_bias and config.rms_norm_eps == 1e-6
    with torch.device("meta"):
        model = llama_jp.Llama(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == 6_845_263_872
    assert len(model.state_dict()) == 291


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5.0}}, {"rope_theta": 5.0}),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5.0}},
            {"rope_theta": 5.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        ),
    ],
)
def test_old_and_new_keys_mean_the_same(new, old):
    plain = {key: value for key, value in ELYZA.items() if key not in ("torch_dtype", "rope_scaling")}
    assert parse_config(plain | new) == parse_config(plain | old)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"rms_norm_eps": None}, "no value for rms_norm_eps"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported; only 'silu'"),
        ({"model_type": "mistral"}, "model_type 'mistral' is not supported; only 'llama' is"),
        ({"pretraining_tp": 2}, "pretraining_tp 2 is not supported; only 1 is"),
        (
            {"rope_scaling": {"type": "longrope", "factor": 2}},
            "rope_type 'longrope' is not supported; known are default, ",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling of type 'linear' needs the key 'factor'"),
        ({"rope_scaling": [1]}, "rope_scaling is \\[1\\]"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4} is not supported"),
        ({"is_causal": False}, "is_causal False is not supported"),
        ({"hidden_size": "4096"}, "hidden_size is '4096', but it has to be a positive whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps is -1e-06, but it has to be a positive number"),
        ({"num_key_value_heads": 5}, "num_attention_heads 32 is not a multiple of num_key_value_heads 5"),
    ],
)
def test_what_would_change_the_numbers_is_refused_by_name(tmp_path, change, sentence):
    (tmp_path / "config.json").write_text(json.dumps(ELYZA | change))
    with pytest.raises(ValueError, match=f"config.json: {sentence}"):
        read_config(tmp_path)


def test_harmless_keys_are_ignored():
    harmless = {
        "use_cache": False,
        "attention_dropout": 0.0,
        "_name_or_path": "x",
        "initializer_range": 1.0,
        "foo": [1],
    }
    assert parse_config(ELYZA | harmless) == parse_config(ELYZA)
    assert parse_config({key: value for key, value in ELYZA.items() if key != "model_type"}) == parse_config(ELYZA)


# ---- saving


def test_transformers_loads_what_we_save_without_a_warning(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "with-tokenizer")
    llama_folder(folder)
    model, _ = llama_jp.load(folder, dtype="bfloat16")
    model.save_pretrained(tmp_path / "out", max_shard_size="9KB")
    script = (
        "import sys, torch, transformers\n"
        "load = transformers.AutoModelForCausalLM.from_pretrained\n"
        "model, report = load(sys.argv[1], dtype='auto', output_loading_info=True)\n"
        "assert not any(report.values()), report\n"
        "tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "torch.save(model(torch.arange(2, 32).view(2, 15)).logits, sys.argv[2])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "out", tmp_path / "logits"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if line.strip() and "Loading weights" not in line]
    assert said == []
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "logits"), model(IDS))
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {
        "config.json",
        "generation_config.json",
        "tokenizer.model",
    }


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "llama3", "yarn"])
def test_saving_keeps_the_rope(tmp_path, rope_type):
    config = random_config(random.Random(4), rope_type)
    folder = save_random(tmp_path / "in", seed=10, **config)
    model = load_model(folder, dtype="float32")
    model.save_pretrained(tmp_path / "out")
    ids = torch.randint(0, config["vocab_size"], (1, 60))
    with torch.no_grad():
        expected = theirs(folder, torch.float32)(ids).logits
        assert torch.equal(theirs(tmp_path / "out", torch.float32)(ids).logits, expected)
        assert torch.equal(load_model(tmp_path / "out", dtype="float32")(ids), expected)


def test_saving_again_replaces_and_saving_into_its_own_folder_works(copy):
    model = load_model(copy, dtype="stored", device="cpu")
    expected = logits(copy)
    model.save_pretrained(copy, max_shard_size="9KB")  # the weights are mapped from files that are replaced
    assert torch.equal(logits(copy), expected)
    load_model(copy, dtype="stored").save_pretrained(copy)
    assert [file.name for file in copy.glob("model*")] == ["model.safetensors"], "no shard of the save before is left"
    assert torch.equal(logits(copy), expected)


def test_an_interrupted_save_leaves_nothing(small, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    model = load_model(small, dtype="stored")
    monkeypatch.setattr(save, "write_json", fail)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_saved_is_refused(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="it is a file"):
        load_model(small).save_pretrained(tmp_path / "file")
    with torch.device("meta"):
        empty = llama_jp.Llama(parse_config(ELYZA))
    with pytest.raises(ValueError, match="meta device"):
        empty.save_pretrained(tmp_path / "out")


# ---- the hub


class Hub:
    """Stands in for the one call of huggingface_hub that reaches the network, and remembers what was asked for."""

    def __init__(self, repository: Path, folder: Path, monkeypatch):
        import huggingface_hub

        self.repository, self.folder, self.asked = repository, folder, []
        self.folder.mkdir()
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)

    def snapshot_download(self, repository, revision=None, allow_patterns=None):
        self.asked.append((repository, revision))
        for file in self.repository.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, self.folder)
        return str(self.folder)

    def fetched(self, pattern: str) -> int:
        return len(list(self.folder.glob(pattern)))


@pytest.mark.parametrize("shards", [1, 2])
def test_short_names_and_what_is_fetched(small, tmp_path, monkeypatch, shards):
    """`.bin` where there is nothing else, one file or several; the small files alone where weights are not needed."""
    hub = Hub(publish(small, tmp_path / "repository", shards), tmp_path / "fetched", monkeypatch)
    find_checkpoint("7b-fast", weights=False)
    assert hub.fetched("*.bin") == 0 and hub.fetched("config.json") == 1
    load_model("7b-fast", dtype="float32")
    assert hub.fetched("*.bin") == shards
    assert set(hub.asked) == {("elyza/ELYZA-japanese-Llama-2-7b-fast", None)}


@pytest.mark.parametrize("shard_size", ["9KB", "5GB"])
def test_safetensors_are_taken_where_the_revision_has_them(small, tmp_path, monkeypatch, shard_size):
    repository = publish(small, tmp_path / "repository")
    load_model(small, dtype="stored").save_pretrained(tmp_path / "safe", max_shard_size=shard_size)
    for file in (tmp_path / "safe").iterdir():
        shutil.copy(file, repository)
    hub = Hub(repository, tmp_path / "fetched", monkeypatch)
    load_model("elyza/ELYZA-japanese-Llama-2-7b", revision="refs/pr/4", dtype="float32")
    assert hub.fetched("*.safetensors") > 0 and hub.fetched("*.bin") == 0
    assert set(hub.asked) == {("elyza/ELYZA-japanese-Llama-2-7b", "refs/pr/4")}


def test_offline_without_a_cached_copy_says_so(tmp_path, monkeypatch):
    """HF_HUB_OFFLINE is set for all tests; what is in the cache still loads, what is not is refused in a sentence."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match="7b-fast at revision v1 is not in the local cache and .* HF_HUB_OFFLINE"
    ):
        load_model("7b-fast", revision="v1")


def test_offline_with_a_cached_copy_loads_it(small, tmp_path, monkeypatch):
    """The layout is huggingface_hub's own: refs/main names a commit, snapshots/COMMIT holds its files."""
    import huggingface_hub.constants

    home = tmp_path / "models--elyza--ELYZA-japanese-Llama-2-7b"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    publish(small, home / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = load_model("7b", dtype="float32")
    assert model.folder == home / "snapshots" / ("0" * 40)


# ---- memory


@pytest.mark.slow
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_peak_memory_of_a_conversion(tmp_path, form):
    """float16 to bfloat16, a checkpoint of several GB: never more resident than the weights and 5 %."""
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
        "from llama_jp.checkpoint import load_model\n"
        "def status(key):\n"
        "    return int(next(l for l in open('/proc/self/status') if l.startswith(key)).split()[1]) * 1024\n"
        "before = status('VmRSS')\n"
        "model = load_model(sys.argv[1], dtype='bfloat16', device='cpu')\n"
        "weights = sum(p.nbytes for p in model.parameters())\n"
        "print((status('VmHWM') - before) / weights)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, folder], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.05


def test_the_tests_reference_is_the_pinned_one():
    constraints = Path(__file__).parents[2] / "constraints.txt"
    pinned = dict(line.split("==") for line in constraints.read_text(encoding="utf-8").splitlines() if "==" in line)
    if transformers.__version__ != pinned["transformers"]:
        pytest.skip(f"transformers {transformers.__version__} is not the pinned {pinned['transformers']}")
    assert torch.__version__.startswith(pinned["torch"])
