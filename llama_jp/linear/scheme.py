"""The quantisation scheme of a checkpoint: `quantization_config` in its config.json.

The stored numbers themselves are described in `weight.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

GROUP_SIZES = (128, 64, 32)

METHODS = ("rtn", "gptq")

FORMAT = 1  # file format version; increment on incompatible changes


class TensorLayout(NamedTuple):
    """Shape and dtype of a stored tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightFormat(NamedTuple):
    """The storage format of one weight matrix."""

    bits: int  # 4 or 8
    group_size: int | None  # int4: inputs that share a scale and a zero; int8: None, it has one scale per output


@dataclass(frozen=True)
class Scheme:
    """Bits, group size and rounding method of a quantised checkpoint. ValueError names a wrong combination."""

    bits: int  # of the linear layers in the blocks: 4 or 8
    group_size: int | None = None  # int4 only: inputs that share a scale and a zero
    method: str = "rtn"  # "rtn" (round to nearest) or "gptq"
    head_bits: int | None = 8  # None: lm_head is tied to the embedding matrix, which is never quantised

    def __post_init__(self) -> None:
        if self.bits not in (4, 8):
            raise ValueError(f"bits is 4 or 8, not {self.bits!r}")
        if (self.bits == 4) != (self.group_size is not None):
            raise ValueError(
                f"4 bits need a group_size and 8 bits have none, but bits is {self.bits} "
                f"and group_size is {self.group_size!r}"
            )
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            sizes = ", ".join(map(str, sorted(GROUP_SIZES)))
            raise ValueError(f"group_size is one of {sizes}, not {self.group_size!r}")
        if self.method not in METHODS:
            raise ValueError(f"method is {' or '.join(METHODS)}, not {self.method!r}")
        if self.method == "gptq" and self.bits != 4:
            raise ValueError("gptq needs 4 bits; int8 rounded to nearest has no error left to compensate")
        if self.head_bits not in (None, 8, self.bits):
            raise ValueError(f"head_bits is 8 or equal to bits ({self.bits}), not {self.head_bits!r}")

    @classmethod
    def from_json(cls, raw: object) -> Scheme:
        """Parse `quantization_config`. ValueError names any missing, unknown or unsupported key."""
        if not isinstance(raw, dict) or raw.get("quant_method") != "llama_jp":
            raise ValueError(f"quantization_config {raw!r} is not supported; quant_method must be 'llama_jp'")
        if raw.get("format") != FORMAT:
            raise ValueError(f"quantization_config has format {raw.get('format')!r}; supported is {FORMAT}")
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in raw]:
            raise ValueError(f"quantization_config has no {', '.join(missing)}")
        try:
            scheme = cls(**{name: raw[name] for name in names})
        except ValueError as error:
            raise ValueError(f"quantization_config: {error}") from None
        expected = scheme.to_json()
        if wrong := [key for key in raw.keys() | expected.keys() if raw.get(key) != expected.get(key)]:
            raise ValueError(f"quantization_config has an unsupported value: {wrong[0]} is {raw.get(wrong[0])!r}")
        return scheme

    def to_json(self) -> dict[str, Any]:
        """The content of `quantization_config`. `left_alone` lists the tensors that are not quantised."""
        left_alone = ["embed_tokens", "norms", "biases"] + ["lm_head"] * (self.head_bits is None)
        return {"quant_method": "llama_jp", "format": FORMAT, **dataclasses.asdict(self), "left_alone": left_alone}

    def __str__(self) -> str:
        groups = f"int4 in groups of {self.group_size} ({self.method})"
        text = "int8, one scale per row" if self.bits == 8 else groups
        if self.head_bits is None:
            return f"{text}, lm_head not quantised"
        return text if self.head_bits == self.bits else f"{text}, lm_head int8"

    def quantizes(self, name: str) -> bool:
        """Whether the scheme quantises the linear module `name`: every one except a tied lm_head."""
        return name != "lm_head" or self.head_bits is not None

    def weight_format(self, name: str) -> WeightFormat:
        """The storage format of the linear module `name`. ValueError when the scheme does not quantise it."""
        bits = self.head_bits if name == "lm_head" else self.bits
        if bits is None:
            raise ValueError(f"{name} is tied to the embedding matrix, so it is not quantised")
        return WeightFormat(bits, self.group_size if bits == 4 else None)

    def tensor_layouts(self, name: str, shape: tuple[int, ...]) -> dict[str, TensorLayout]:
        """The stored tensors of a weight matrix, by name: `weight`, `scale` and, for int4, `zero`.

        name   the linear module, such as "layers.0.mlp.up_proj"
        shape  (N, K) of the matrix

        Raises ValueError when the group size does not divide the K inputs. The message names the sizes that do.
        """
        import torch  # late, because it takes seconds and `llama-jp info` needs the scheme alone

        N, K = shape
        group_size = self.weight_format(name).group_size
        if group_size is None:
            return {"weight": TensorLayout((N, K), torch.int8), "scale": TensorLayout((N,), torch.float32)}
        if K % group_size:
            divisors = [str(size) for size in sorted(GROUP_SIZES) if K % size == 0]
            way_out = "no supported group size divides them; use 8 bits"
            if divisors:
                way_out = f"use {' or '.join(divisors)}, as in --group-size {divisors[-1]}"
            raise ValueError(
                f"{name} has {K} inputs, which is not a multiple of the group size {group_size}; {way_out}"
            )
        groups = TensorLayout((N, K // group_size), torch.bfloat16)
        return {"weight": TensorLayout((N, K // 2), torch.uint8), "scale": groups, "zero": groups}
