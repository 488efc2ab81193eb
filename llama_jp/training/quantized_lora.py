"""LoRA on int8 and int4 layers, for PEFT. Importing this module imports PEFT."""

from __future__ import annotations

from typing import Any

from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import nn

from ..linear.layer import QuantizedLinear


class QuantizedLoraLinear(Linear):
    """PEFT's LoRA around a `QuantizedLinear`: Q(x) + s B A x. The stored weight stays as it is."""

    def _get_in_out_features(self, module: nn.Module) -> tuple[int, int]:
        assert isinstance(module, QuantizedLinear)
        return module.in_features, module.out_features

    def update_layer(self, adapter_name: str, r: int, lora_alpha: int, config: LoraConfig, **others: Any) -> None:
        """Add an adapter. Raises ValueError for a method that needs the float values of the base weight."""
        start = config.init_lora_weights
        if config.use_dora or start not in (True, False, "gaussian"):
            name = "DoRA" if config.use_dora else f"init_lora_weights {start!r}"
            raise ValueError(f"{name} needs float weights, and this model is quantised; use plain LoRA or the original")
        super().update_layer(adapter_name, r, lora_alpha, config, **others)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused with ValueError: whole numbers cannot take the small change of a merge."""
        raise ValueError(
            "an adapter cannot be merged into quantised weights; save it with save_adapter, and quantise the original "
            "with it: `llama-jp quantize ORIGINAL OUT --adapter FOLDER`"
        )
