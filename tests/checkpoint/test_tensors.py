"""Weight files: which ones belong to a checkpoint, and damaged or foreign files that are refused."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.checkpoint_files import logits
from helpers.reference import SMALL

from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.tensors import TensorInfo, group_tensors


def test_stored_inv_freq_is_ignored(published):
    """Guards against refusing ELYZA's shards, which hold 32 float32 inv_freq buffers beside 291 parameters."""
    names = [name for file in published.glob("*.bin") for name in torch.load(file, weights_only=True)]
    assert sum("inv_freq" in name for name in names) == SMALL["num_hidden_layers"]
    assert logits(published).isfinite().all()


@pytest.mark.parametrize("keep", [0, 7, 5000])
def test_a_truncated_safetensors_file_is_refused(copy, keep):
    """Guards against an error without the file name. An incomplete download is the usual cause."""
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"model.safetensors is damaged or incomplete \({keep:,} bytes\)"):
        load_model(copy)


@pytest.mark.parametrize("keep", [0, 10, 5000])
def test_a_truncated_bin_file_is_refused(published, keep):
    """Guards against an error without the file name. An incomplete download is the usual cause."""
    file = published / "pytorch_model-00002-of-00002.bin"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"00002-of-00002.bin is no PyTorch zip file \({keep:,} bytes\): incomplete"):
        load_model(published)


def test_a_zip_file_without_a_pickle_is_refused(published):
    """Guards against an error without the file name."""
    with zipfile.ZipFile(published / "pytorch_model-00001-of-00002.bin", "w") as file:
        file.writestr("hello.txt", "hello")
    with pytest.raises(ValueError, match="00001-of-00002.bin is damaged or incomplete"):
        load_model(published)


class Evil:
    """An object whose pickle runs code when it is loaded."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a checkpoint ran code')",))


def test_a_pickle_that_runs_code_is_refused(published):
    """Guards against `weights_only=False`, in the zip format and in the older plain format."""
    torch.save({"model.norm.weight": Evil()}, published / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(ValueError, match="00001-of-00002.bin is refused: its pickle would run .*exec") as error:
        load_model(published)
    assert "\n" not in str(error.value)
    (published / "pytorch_model-00001-of-00002.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="no PyTorch zip file"):
        load_model(published)


@pytest.mark.parametrize("content", [{"state_dict": {"w": torch.zeros(1)}, "step": 3}, {0: torch.zeros(1)}])
def test_a_training_checkpoint_is_refused(published, content):
    """Guards against an error about a missing tensor where the file is of another kind, as an optimizer's is."""
    torch.save(content, published / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(ValueError, match="does not hold tensors by name"):
        load_model(published)


def test_an_index_that_names_a_missing_file_is_refused(published):
    """Guards against a list of missing tensors where a whole file is missing."""
    (published / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(FileNotFoundError, match="index.json names pytorch_model-00002-of-00002.bin, which is not in"):
        load_model(published)


def test_an_index_that_names_no_file_of_the_folder_is_refused(published):
    """Guards against loading a file outside the checkpoint."""
    index = published / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../elsewhere.bin"}}))
    with pytest.raises(ValueError, match="not a file beside it"):
        load_model(published)
    index.write_text("{}")
    with pytest.raises(ValueError, match="has no weight_map"):
        load_model(published)


def test_a_tensor_that_is_stored_twice_is_refused(published):
    """Guards against using whichever of the two comes last."""
    shutil.copy(published / "pytorch_model-00001-of-00002.bin", published / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(ValueError, match="is stored twice, in pytorch_model-00001"):
        load_model(published)


def test_tensors_to_be_released_are_mapped_with_their_neighbours():
    """Guards against a file that stays in memory until its last tensor is packed."""
    stored = [TensorInfo(Path("file"), str(i), (4,), "int8") for i in range(5)]
    for released, groups in ((False, [stored]), (True, [stored[:2], stored[2:4], stored[4:]])):
        grouped = group_tensors(stored, None, torch.device("cpu"), released, most_bytes=8)
        assert [group for _, group in grouped] == groups
