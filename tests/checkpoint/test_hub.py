"""Names to folders: short names, folders and hub repositories, with and without a network."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from helpers.gguf_files import write_gguf
from helpers.reference import publish

from llama_jp.checkpoint.hub import find_checkpoint
from llama_jp.checkpoint.load import load_model


def test_a_folder_with_a_short_name_counts_only_if_it_holds_a_checkpoint(tmp_path, small, monkeypatch):
    """Guards against an empty folder `demo` hiding the bundled model, and against ignoring a checkpoint named `7b`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").mkdir()
    assert (find_checkpoint("demo") / "model.safetensors").is_file()
    shutil.copytree(small, tmp_path / "7b")
    assert find_checkpoint("7b") == Path("7b")


class Hub:
    """Replaces the two functions of huggingface_hub that reach the network, and records the downloads."""

    def __init__(self, repository: Path, folder: Path, monkeypatch):
        import huggingface_hub

        self.repository, self.folder = repository, folder
        self.calls: list[tuple[str, str | None]] = []
        self.folder.mkdir()
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(huggingface_hub, "list_repo_files", self.list_repo_files)

    def snapshot_download(self, repository, revision=None, allow_patterns=None):
        self.calls.append((repository, revision))
        for file in self.repository.iterdir():
            if any(file.match(pattern) for pattern in allow_patterns):
                shutil.copy(file, self.folder)
        return str(self.folder)

    def list_repo_files(self, repository, revision=None):
        return [file.name for file in self.repository.iterdir()]

    def fetched(self, pattern: str) -> int:
        return len(list(self.folder.glob(pattern)))


@pytest.mark.parametrize("shards", [1, 2])
def test_only_the_needed_files_are_downloaded(small, tmp_path, monkeypatch, shards):
    """Guards against downloading weights for a tokenizer, and against missing `.bin` files, single or in shards."""
    hub = Hub(publish(small, tmp_path / "repository", shards), tmp_path / "fetched", monkeypatch)
    find_checkpoint("7b-fast", weights=False)
    assert hub.fetched("*.bin") == 0 and hub.fetched("config.json") == 1
    load_model("7b-fast", dtype="float32")
    assert hub.fetched("*.bin") == shards
    assert set(hub.calls) == {("elyza/ELYZA-japanese-Llama-2-7b-fast", None)}


@pytest.mark.parametrize("shard_size", ["9KB", "5GB"])
def test_safetensors_are_preferred(small, tmp_path, monkeypatch, shard_size):
    """Guards against downloading the same weights twice, as safetensors and as `.bin`."""
    repository = publish(small, tmp_path / "repository")
    load_model(small, dtype="stored").save_pretrained(tmp_path / "safe", max_shard_size=shard_size)
    for file in (tmp_path / "safe").iterdir():
        shutil.copy(file, repository)
    hub = Hub(repository, tmp_path / "fetched", monkeypatch)
    load_model("elyza/ELYZA-japanese-Llama-2-7b", revision="refs/pr/4", dtype="float32")
    assert hub.fetched("*.safetensors") > 0 and hub.fetched("*.bin") == 0
    assert set(hub.calls) == {("elyza/ELYZA-japanese-Llama-2-7b", "refs/pr/4")}


def test_offline_without_a_cached_copy_is_refused_in_one_sentence(tmp_path, monkeypatch):
    """Guards against the hub's own error. HF_HUB_OFFLINE is set for all tests."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match="7b-fast at revision v1 is not in the local cache and .* HF_HUB_OFFLINE"
    ):
        load_model("7b-fast", revision="v1")


def test_offline_with_a_cached_copy_loads_it(small, tmp_path, monkeypatch):
    """Guards against using the network for cached files.

    The layout is huggingface_hub's own: refs/main names a commit, and snapshots/COMMIT holds its files.
    """
    import huggingface_hub.constants

    home = tmp_path / "models--elyza--ELYZA-japanese-Llama-2-7b"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    publish(small, home / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    model = load_model("7b", dtype="float32")
    assert model.folder == home / "snapshots" / ("0" * 40)


def test_a_gguf_file_on_the_hub(small, tmp_path, monkeypatch):
    """Guards against a download of every quantisation in a repository, and against one part of a split model."""
    repository = tmp_path / "repository"
    repository.mkdir()
    for name, options in (("a-Q8_0.gguf", {}), ("a-F16.gguf", {"split_max_tensors": 15})):
        write_gguf(small, repository / name, **options)
    hub = Hub(repository, tmp_path / "fetched", monkeypatch)
    find_checkpoint("owner/some-gguf/a-Q8_0.gguf")
    assert hub.fetched("*") == 1
    parts = sorted(file.name for file in repository.glob("a-F16-0*"))
    load_model(f"owner/some-gguf/{parts[0]}", dtype="float32", revision="main")
    assert hub.fetched("a-F16-0*") == len(parts) > 1
    assert set(hub.calls) == {("owner/some-gguf", None), ("owner/some-gguf", "main")}
    with pytest.raises(FileNotFoundError, match="there is no a-Q4_0.gguf in owner/some-gguf on the hub"):
        find_checkpoint("owner/some-gguf/a-Q4_0.gguf")
    (tmp_path / "owner/here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="there is no file owner/here/a.gguf$"):
        find_checkpoint("owner/here/a.gguf")


def test_an_index_without_names_on_the_hub_is_refused(small, tmp_path, monkeypatch):
    """Guards against an IndexError for a repository with an empty index."""
    repository = publish(small, tmp_path / "repository")
    (repository / "pytorch_model.bin.index.json").write_text("{}")
    Hub(repository, tmp_path / "fetched", monkeypatch)
    with pytest.raises(ValueError, match="has no weight_map"):
        load_model("7b-fast", dtype="float32")


def test_a_repository_of_gguf_files_is_named_for_what_it_is(tmp_path, monkeypatch):
    """Guards against "there is no config.json", which does not say what to type, and against a large download."""
    repository = tmp_path / "repository"
    repository.mkdir()
    names = ["m-Q4_K_M.gguf", "m-F16-00001-of-00002.gguf", "m-F16-00002-of-00002.gguf", "README.md"]
    for name in names:
        (repository / name).write_bytes(b"GGUF")
    hub = Hub(repository, tmp_path / "fetched", monkeypatch)
    message = (
        "holds GGUF files: name one of them, mmnga/m-gguf/m-F16-00001-of-00002.gguf; the others are m-Q4_K_M.gguf$"
    )
    for weights in (True, False):
        with pytest.raises(FileNotFoundError, match=message):
            find_checkpoint("mmnga/m-gguf", weights=weights)
    assert hub.fetched("*.gguf") == 0
    # without a network, the cache counts
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: (_ for _ in ()).throw(ConnectionError()))
    (tmp_path / "fetched" / "m-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(FileNotFoundError, match="name one of them, mmnga/m-gguf/m-Q4_K_M.gguf$"):
        find_checkpoint("mmnga/m-gguf")
