"""LoRA adapters that PEFT trains on transformers' model, and PEFT as the judge of a merge."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn

from .reference import theirs

RANK = {"r": 4, "lora_alpha": 6}  # a scale of 1.5
ATTENTION = ["q_proj", "v_proj"]


def shake(model: nn.Module, seed: int = 5) -> None:
    """Change every trainable number, as training does: B starts at zero, and an adapter that changes nothing fits."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.1


def train(base: Path, folder: Path, dtype: torch.dtype = torch.float32, seed: int = 5, **config: Any) -> Path:
    """The folder of an adapter that PEFT writes for transformers' model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(
            theirs(base, dtype),
            peft.LoraConfig(**(RANK | {"task_type": "CAUSAL_LM", "target_modules": ATTENTION} | config)),
        )
        shake(model, seed)
        model.save_pretrained(folder)
    return folder


def judge(base: Path, folder: Path, dtype: torch.dtype) -> peft.PeftModel:
    """transformers' model with an adapter, opened by PEFT."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.PeftModel.from_pretrained(theirs(base, dtype), folder)


def merged_by_peft(base: Path, folder: Path, dtype: torch.dtype) -> transformers.LlamaForCausalLM:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return judge(base, folder, dtype).merge_and_unload()


def difference(ours: nn.Module, their: nn.Module) -> list[str]:
    """The parameters of two plain models that are not bit-identical."""
    state = {name.removeprefix("model."): tensor for name, tensor in their.state_dict().items()}
    mine = ours.state_dict()
    assert mine.keys() == state.keys()
    return [
        name
        for name, tensor in state.items()
        if mine[name].dtype != tensor.dtype or not torch.equal(mine[name], tensor)
    ]


def edit_settings(folder: Path, **values: object) -> Path:
    """Change keys of an adapter's adapter_config.json."""
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    return folder


def edit_adapter(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> Path:
    """Write an adapter's tensors again after a function has changed them."""
    file = folder / "adapter_model.safetensors"
    tensors = safetensors.torch.load_file(file)
    change(tensors)
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    return folder
