"""Parts of changed models, in a module from which a checkpoint can import them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llama_jp.model import Llama, LlamaConfig, attend_eager, rms_norm
from llama_jp.rope import cos_sin


def attend_window(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Each query sees the last four keys."""
    T, S = q.shape[2], k.shape[2]
    back = torch.arange(S)[None] - torch.arange(S - T, S)[:, None]
    near = (back <= 0) & (back > -4)
    return attend_eager(q, k, v, near if mask is None else mask & near)


def no_rope(positions: Tensor) -> tuple[Tensor, Tensor]:
    """No rotation, for heads of size 8."""
    zeros = torch.zeros(*positions.shape, 8)
    return zeros + 1, zeros


def centred_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return rms_norm(x - x.mean(-1, keepdim=True), weight, eps)


class Gated(Llama):
    """A new parameter, another module in each block, a buffer that is not stored, and a plain tensor."""

    def __init__(self, config: LlamaConfig, **functions):
        super().__init__(config, **functions)
        C = config.hidden_size
        self.gate = nn.Parameter(torch.full((C,), 0.5))
        self.adapter = nn.Linear(C, C, bias=False)
        nn.init.zeros_(self.adapter.weight)
        nn.init.normal_(self.adapter.weight, std=0.1)
        self.extra = nn.Linear(C, C)
        nn.init.zeros_(self.extra.weight)
        self.register_buffer("steps", torch.linspace(0, 1, C), persistent=False)
        self.register_buffer("angles", torch.polar(torch.ones(3), torch.arange(3.0)), persistent=False)
        self.slopes = torch.tensor([2.0**-i for i in range(4)])
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]

    def forward(self, ids: Tensor, *args, **kwargs) -> Tensor:
        assert not self.slopes.is_meta and self.angles.is_complex()
        scale = self.gate * self.steps + self.slopes.sum().to(self.gate.dtype)
        return super().forward(ids, *args, **kwargs) + self.extra(self.adapter(scale)).sum()


class Slopes(Llama):
    """ALiBi: a bound method of the model as attention, and no rotation."""

    def __init__(self, config: LlamaConfig, **_):
        super().__init__(config, attention=self.attend, rope=no_rope)
        self.slopes = torch.tensor([2.0 ** -(i + 1) for i in range(config.num_attention_heads)])[:, None, None]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        T, S = q.shape[2], k.shape[2]
        distance = torch.arange(S)[None] - torch.arange(S - T, S)[:, None]
        bias = (self.slopes * distance).to(q.dtype)
        visible = distance <= 0 if mask is None else mask
        bias = bias.masked_fill(~visible, torch.finfo(q.dtype).min)
        groups = q.shape[1] // k.shape[1]
        return nn.functional.scaled_dot_product_attention(
            q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), bias
        )


class Mixed(Llama):
    """The class chooses the attention of some layers; the others take the one that is handed in."""

    def __init__(self, config: LlamaConfig, **functions):
        super().__init__(config, **functions)
        self.layers[0].self_attn.attend = attend_window
        frequencies = torch.ones(4)
        self.rope = lambda positions: cos_sin(positions, frequencies)


class OtherMLP(nn.Module):
    def __init__(self, config: LlamaConfig):
        super().__init__()
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x).relu())


class WithOtherMLP(Llama):
    def __init__(self, config: LlamaConfig, **functions):
        super().__init__(config, **functions)
        for layer in self.layers:
            layer.mlp = OtherMLP(config)


class NeedsMore(Llama):
    def __init__(self, config: LlamaConfig, width: int, **functions):
        super().__init__(config, **functions)


def make() -> Llama:
    torch.manual_seed(5)
    return Llama.from_pretrained("demo", dtype="float32").train()


def make_half() -> Llama:
    """The demo with three of its six layers."""
    model = Llama.from_pretrained("demo", dtype="stored")
    model.layers = model.layers[:3]
    return model


def make_changed() -> Llama:
    return Llama.from_pretrained("demo", attention=attend_window)


def make_nothing() -> None:
    pass


def fail() -> Llama:
    raise ZeroDivisionError("one by zero")
