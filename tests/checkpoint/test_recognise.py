"""Files and folders that cannot be loaded, and are named for what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.hub import find_checkpoint
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.save import check_target_is_new, save_model

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:9e55\nsize 499723\n"
ADAPTER = json.dumps({"peft_type": "LORA", "base_model_name_or_path": "elyza/ELYZA-japanese-Llama-2-7b"}).encode()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "the folder is empty"),
        (
            {"adapter_config.json": ADAPTER, "adapter_model.safetensors": b""},
            "PEFT adapter: name its base model elyza/ELYZA-japanese-Llama-2-7b, and this folder with --adapter",
        ),
        ({"adapter_config.json": b"{"}, "PEFT adapter: name its base model, and this folder with --adapter"),
        ({"adapter_config.json": b"[" * 10**5}, "PEFT adapter: name its base model, and this folder with --adapter"),
        (
            {"consolidated.00.pth": b"", "tokenizer.model": b""},
            r"Meta's own files \(consolidated.00.pth\): they load from a folder that has their params.json",
        ),
        ({"consolidated-00001-of-00002.safetensors": b"", "params.json": b"{}"}, "it holds Mistral's own files"),
        ({"params.json": b"{}"}, "Meta's params.json: download the weights beside it"),
        ({"a-Q4_K_M.gguf": b"GGUF", "b.gguf": b"GGUF"}, r"GGUF files \(a-Q4_K_M.gguf, b.gguf\): name one of them"),
        ({"tf_model.h5": b""}, r"TensorFlow weights \(tf_model.h5\)"),
        ({"flax_model.msgpack": b""}, "Flax weights"),
        ({"model.onnx": b""}, "ONNX graph"),
        (
            {"zero_to_fp32.py": b"", "latest": b""},
            "DeepSpeed checkpoint: make a pytorch_model.bin with its zero_to_fp32",
        ),
        ({"__0_0.distcp": b""}, "distributed checkpoint: make a model.safetensors with `accelerate merge-weights`"),
        ({"weights.safetensors": b""}, r"it holds weights \(weights.safetensors\): copy the config.json of the model"),
        ({"7B/params.json": b"{}", "tokenizer.model": b""}, "its subfolders hold models: use .*/7B$"),
        ({"checkpoint-500/config.json": b"{}"}, "its subfolders hold models: use .*/checkpoint-500$"),
        (
            {"models--elyza--ELYZA-japanese-Llama-2-7b/refs/main": b""},
            "the hub's cache: .* elyza/ELYZA-japanese-Llama-2-7b",
        ),
    ],
)
def test_a_folder_without_a_model_is_named(tmp_path, files, sentence):
    """Guards against "there is no config.json" for a folder that holds something else."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(FileNotFoundError, match=f"there is no config.json in {tmp_path}; .*{sentence}") as error:
        read_config(tmp_path)
    assert "\n" not in str(error.value)


def test_a_repository_in_the_cache_of_the_hub_is_named(tmp_path):
    """Guards against a bare "no config.json" for the folder above the snapshots."""
    folder = tmp_path / "models--elyza--ELYZA-japanese-Llama-2-7b"
    (folder / "snapshots").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="cache of the hub: use the name elyza/ELYZA-japanese-Llama-2-7b"):
        load_model(folder)


def test_a_known_folder_beside_config_json_is_named_too(copy):
    """Guards against a bare list of file names for an adapter or a GGUF that lies beside a config.json."""
    (copy / "model.safetensors").unlink()
    (copy / "adapter_config.json").write_bytes(ADAPTER)
    with pytest.raises(FileNotFoundError, match="there are no weights in .*; it is a PEFT adapter"):
        load_model(copy)
    (copy / "adapter_config.json").unlink()
    (copy / "model.fp16.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="none of model.safetensors, .*; it holds model.fp16.safetensors"):
        load_model(copy)


def test_shards_without_an_index_are_named(small, tmp_path):
    """Guards against a message that does not name the index, and against loading part of a model."""
    save_model(load_model(small, dtype="stored"), tmp_path, max_shard_size="9KB")
    index = tmp_path / "model.safetensors.index.json"
    index_content = index.read_bytes()
    index.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"(\d+) of \1 shards without the index model.safetensors.index.json: down"
    ):
        load_model(tmp_path)
    shard = sorted(tmp_path.glob("model-00002-*"))[0]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=rf"without the index model.safetensors.index.json and {shard.name}:"):
        load_model(tmp_path)
    index.write_bytes(index_content)
    with pytest.raises(
        FileNotFoundError, match=rf"names {shard.name}, which is not in .* shards without {shard.name}:"
    ):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (POINTER, "is damaged or incomplete: it is a git-lfs pointer; run `git lfs pull`"),
        (b"\n<!DOCTYPE html>\n<html>", "is damaged: it is a web page; download the file again"),
    ],
)
def test_a_stand_in_for_a_file_is_named(copy, name, content, sentence):
    """Guards against "header too large" and "not valid JSON" for the pointer of a clone without git-lfs."""
    (copy / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} {sentence}"):
        load_model(copy)


def test_a_pointer_in_the_place_of_a_bin_file_is_named(published):
    """Guards against "no PyTorch zip file" for a pointer."""
    (published / "pytorch_model-00001-of-00002.bin").write_bytes(POINTER)
    with pytest.raises(ValueError, match="00001-of-00002.bin is damaged or incomplete: it is a git-lfs pointer"):
        load_model(published)


def forbid(monkeypatch, name: str) -> None:
    """Let files of a name refuse to be opened. File modes do not bind the user root, who may run the tests."""
    original = Path.open

    def open_path(self, *args, **kwargs):
        if self.name == name:
            raise PermissionError(13, "Permission denied")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", open_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "pytorch_model-00001-of-00002.bin"])
def test_an_unreadable_file_is_named(copy, published, monkeypatch, name):
    """Guards against "damaged" and "no such file" for a file without read permission."""
    forbid(monkeypatch, name)
    with pytest.raises(PermissionError, match=f"no permission to read .*{name}"):
        load_model(published if name.endswith(".bin") else copy)


def test_an_unreadable_folder_is_named(copy, monkeypatch):
    """Guards against "there is no config.json" for a folder that cannot be entered."""
    monkeypatch.setattr("llama_jp.checkpoint.recognise.os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="no permission to read the folder .*copy"):
        find_checkpoint(copy)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("", "the name of the model is empty"),
        ("7b-instuct", r"is no folder, .* and no short name .*; did you mean 7b-instruct\?"),
        ("7B-Instruct", r"; did you mean 7b-instruct\?"),
        ("ELYZA-japanese-Llama-2-7b-fast", r"; did you mean elyza/ELYZA-japanese-Llama-2-7b-fast\?"),
        ("elyza/ELYZA-japanese-LLama-2-7b-instuct", r"; did you mean elyza/ELYZA-japanese-Llama-2-7b-instruct\?"),
        ("nothing-like-it", r"7b-fast-instruct\)$"),
        ("/no/such/folder", r"7b-fast-instruct\)$"),
        ("models/x.gguf", "there is no file models/x.gguf$"),
        ("nowhere.safetensors", "there is no file nowhere.safetensors$"),
        ("a/b/nowhere.PTH", "there is no file a/b/nowhere.PTH$"),
        ("nowhere/tokenizer.model", "there is no file nowhere/tokenizer.model$"),
        ("~nobody-here/model", "~nobody-here/model: .*home directory"),
        (
            "https://huggingface.co/elyza/ELYZA-japanese-Llama-2-7b",
            "is a web address; use the name of the repository, elyza/ELYZA-japanese-Llama-2-7b$",
        ),
        ("https://huggingface.co/elyza/x/tree/main", "use the name of the repository, elyza/x$"),
        ("huggingface.co/elyza/x/", "use the name of the repository, elyza/x$"),
        ("git@hf.co:elyza/x.git", "use the name of the repository, elyza/x$"),
        ("https://huggingface.co/elyza/x/tree/refs/pr/2?a=b", "repository, elyza/x with revision 'refs/pr/2'$"),
        ("https://example.com/model.zip", "is a web address; download the files"),
    ],
)
def test_a_name_that_is_no_model_is_explained(source, sentence):
    """Guards against the hub's error, or a list of short names, for a name that is easy to recognise."""
    with pytest.raises(FileNotFoundError, match=sentence) as error:
        find_checkpoint(source)
    assert "\n" not in str(error.value)


def test_a_neighbouring_folder_is_suggested(tmp_path):
    """Guards against a search of the hub, without a hint, for a misspelt folder."""
    (tmp_path / "my-model").mkdir()
    with pytest.raises(FileNotFoundError, match=rf"; did you mean {tmp_path}/my-model\?"):
        find_checkpoint(tmp_path / "my-modle")
    with pytest.raises(FileNotFoundError, match=rf"; did you mean {tmp_path}/my-model\?"):
        find_checkpoint(f"{tmp_path}/./my-modle/")
    (tmp_path / "my-model-Q8_0.gguf").touch()
    with pytest.raises(FileNotFoundError, match=rf"there is no file .*; did you mean {tmp_path}/my-model-Q8_0.gguf\?"):
        find_checkpoint(tmp_path / "my-model-Q8.gguf")


@pytest.mark.parametrize("dots", [".", "./", "..", "inside/.."])
def test_a_folder_of_dots_has_its_name_in_the_sentence(tmp_path, monkeypatch, dots):
    """Guards against "there is no config.json in ..", which looks like the end of a sentence."""
    (tmp_path / "inside" / "inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "inside")
    folder = tmp_path if dots == ".." else tmp_path / "inside"
    with pytest.raises(FileNotFoundError, match=f"there is no config.json in {folder}$"):
        read_config(find_checkpoint(dots))
    with pytest.raises(ValueError, match=f"^{folder} exists and is not an empty folder"):
        check_target_is_new(Path(dots))


def test_a_file_in_the_place_of_a_folder_is_named(copy):
    """Guards against "is no folder" for a file of the right folder."""
    with pytest.raises(
        FileNotFoundError, match=f"is a file; use the folder with the whole checkpoint, such as {copy}$"
    ):
        find_checkpoint(copy / "model.safetensors")
    (copy / "model.bin").write_bytes(b"tjgg\3\0\0\0")
    with pytest.raises(FileNotFoundError, match="model.bin is a GGML file of before August 2023"):
        find_checkpoint(str(copy / "model.bin"))


def test_a_revision_of_a_folder_is_refused(copy):
    """Guards against silently loading another revision than the one named."""
    for source in (copy, str(copy), "demo"):
        with pytest.raises(ValueError, match="only hub repositories have revisions; drop 'refs/pr/2'"):
            load_model(source, revision="refs/pr/2")
