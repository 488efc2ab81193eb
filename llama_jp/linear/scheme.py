"""How a checkpoint is quantised: its `quantization_config`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

GROUP_SIZES = (128, 64, 32)

METHODS = ("rtn", "gptq")

FORMAT = 1  # of the files; a later one that these lines do not understand counts up


@dataclass(frozen=True)
class Scheme:
    """How a checkpoint is quantised: `quantization_config` in its config.json."""

    bits: int
    group_size: int | None = None  # int4 only: inputs that share a scale and a zero
    method: str = "rtn"  # round to nearest, or gptq
    head_bits: int | None = 8  # None: the head is the embedding matrix (tied), and left alone as that

    def __post_init__(self):
        if self.bits not in (4, 8):
            raise ValueError(f"bits is 4 or 8, not {self.bits!r}")
        if (self.bits == 4) != (self.group_size is not None):
            raise ValueError(f"group_size is for 4 bits and only for them, but bits is {self.bits}")
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            sizes = ", ".join(map(str, sorted(GROUP_SIZES)))
            raise ValueError(f"group_size is one of {sizes}, not {self.group_size!r}")
        if self.method not in METHODS:
            raise ValueError(f"method is {' or '.join(METHODS)}, not {self.method!r}")
        if self.method == "gptq" and self.bits != 4:
            raise ValueError("gptq is for 4 bits; int8 rounded to nearest has nothing left to gain")
        if self.head_bits not in (None, 8, self.bits):
            raise ValueError(f"head_bits is 8 or bits, which is {self.bits}, not {self.head_bits!r}")

    @classmethod
    def from_json(cls, raw: object) -> Scheme:
        """Read `quantization_config`. What is not understood to the last key is refused."""
        if not isinstance(raw, dict) or raw.get("quant_method") != "llama_jp":
            raise ValueError(f"quantization_config {raw!r} is not supported; only llama_jp's own is")
        if raw.get("format") != FORMAT:
            raise ValueError(f"quantization_config has the format {raw.get('format')!r}; supported is {FORMAT}")
        names = [field.name for field in dataclasses.fields(cls)]
        if missing := [name for name in names if name not in raw]:
            raise ValueError(f"quantization_config has no {', '.join(missing)}")
        try:
            scheme = cls(**{name: raw[name] for name in names})
        except ValueError as error:
            raise ValueError(f"quantization_config: {error}") from None
        expected = scheme.to_json()
        if wrong := [key for key in raw.keys() | expected.keys() if raw.get(key) != expected.get(key)]:
            raise ValueError(f"quantization_config has {wrong[0]} {raw.get(wrong[0])!r}, which is not understood")
        return scheme

    def to_json(self) -> dict:
        alone = ["embed_tokens", "norms", "biases"] + ["lm_head"] * (self.head_bits is None)
        return {"quant_method": "llama_jp", "format": FORMAT, **dataclasses.asdict(self), "left_alone": alone}

    def __str__(self) -> str:
        text = (
            "int8, a scale for each row" if self.bits == 8 else f"int4 in groups of {self.group_size} ({self.method})"
        )
        return (
            text if self.head_bits == self.bits else f"{text}, lm_head {('int8' if self.head_bits else 'left alone')}"
        )

    def for_module(self, name: str) -> tuple[int, int | None] | None:
        """(bits, group size) of a linear module, or None where it is left alone."""
        bits = self.head_bits if name == "lm_head" else self.bits
        return None if bits is None else (bits, self.group_size if bits == 4 else None)

    def parts(self, name: str, shape: tuple[int, ...]) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of every tensor that the weight of module `name` becomes."""
        (N, K), (bits, group_size) = shape, self.for_module(name)
        if bits == 8:
            return {"weight": ((N, K), torch.int8), "scale": ((N,), torch.float32)}
        if K % group_size:
            fitting = [str(size) for size in sorted(GROUP_SIZES) if K % size == 0]
            way_out = f"{' and '.join(fitting)} would" if fitting else "none of 32, 64 and 128 does; use 8 bits"
            raise ValueError(f"{name} has {K} inputs, which groups of {group_size} do not divide; {way_out}")
        groups = (N, K // group_size), torch.bfloat16
        return {"weight": ((N, K // 2), torch.uint8), "scale": groups, "zero": groups}
