"""Decoding with fixed shapes: one step, compiled once and, on a GPU, recorded once as a CUDA graph and replayed.

    model = StaticLlama(llama_jp.Llama.from_pretrained("demo"))
    llama_jp.generate(model, prompts, max_new_tokens=100)

A decoding step has a few hundred small operations, and starting them takes longer than a GPU needs to run them. Here a
step attends to the whole cache with a mask, and its position is a tensor. So every step is the same program. On the
CPU, a small model is compiled whole: one call runs all layers. For other models one compiled block serves all layers,
since the time of compilation grows with their number, and a CUDA graph holds the whole step. Prefill, and batches with
padding, run as in `Llama`.

There are three costs. Compiled arithmetic rounds in other places, and on the CPU the product of one row is summed in
another order, so logits differ in their last bits: within level "close" of `optimize`, not "exact". Each step loads its
whole cache, used or not. Every new batch size and cache size is compiled again, so cache sizes are powers of two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..cache import Cache
from ..linear.fused import FusedSlice
from ..linear.kernels import reason_of
from ..linear.layer import QuantizedLinear
from ..linear.one_query import without_kernel
from ..model import ATTENTIONS, Llama, SelfAttention
from .compiled_sums import compile_with_sums

SMALL_LAYER = 32e6  # bytes of weights up to which starting the operations of a layer takes a good part of its time


class StaticLayer:
    """The part of a `StaticCache` that one layer uses: a `LayerCache` with its position in a tensor."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor):
        self.keys, self.values, self.position = keys, values, position

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one new key and value; return all positions, used or not: (B, K, 1, D) -> (B, K, max_length, D)."""
        self.keys.index_copy_(2, self.position, k)
        self.values.index_copy_(2, self.position, v)
        return self.keys, self.values


class RecordedStep(NamedTuple):
    """A decoding step as a CUDA graph, and the tensor that it writes."""

    graph: torch.cuda.CUDAGraph
    logits: Tensor  # (B, 1, V)


class StaticCache(Cache):
    """A `Cache` whose tensors keep their addresses from step to step, with the step recorded on them."""

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        num_key_value_heads: int,
        max_length: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ):
        super().__init__(num_layers, batch_size, num_key_value_heads, max_length, head_dim, dtype, device)
        self.reserve(batch_size, max_length)  # all at once: a recorded step needs fixed addresses
        self.reset_step()

    def reset_step(self) -> None:
        """Make the tensors of a step for the present keys and values, and discard a recorded step."""
        for tensor in self.keys + self.values:
            tensor[:, :, self.length :] = 0  # masked positions are multiplied by zero, and 0 * NaN is NaN
        device = self.keys[0].device
        self.ids = torch.zeros(self.batch_size, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.layers = [StaticLayer(k, v, self.position) for k, v in zip(self.keys, self.values, strict=True)]
        self.rotations: tuple[Tensor, Tensor] | None = None  # cos and sin of every position: (1, max_length, D)
        self.recorded: RecordedStep | None = None

    def select_rows(self, rows: Sequence[int]) -> None:
        super().select_rows(rows)
        self.reset_step()


class StaticLlama(Llama):
    """A model with static decoding steps, on the modules of `model`, which stays as it is.

    Both have the same module tree: a weight or layer that changes in one changes in the other. Hooks have to be
    registered before the first step, since torch.compile does not look for later ones.

    compile     False runs the same steps without torch.compile
    on_compile  called with a sentence before a step is compiled for a new batch size and cache size

    Raises ValueError for rope_type "dynamic" and for a "longrope" with two lists, with which the rotation of old
    positions changes as the text grows; for an attention function of your own, since the keys of a static step go on
    beyond the query; and for a class with its own `forward`, `hidden` or `new_cache`, which a static step does not
    call. The first step raises ValueError on a machine without a C++ compiler.
    """

    def __init__(self, model: Llama, compile: bool = True, on_compile: Callable[[str], None] | None = None):
        attentions = [without_kernel(module.attend) for module in model.modules() if isinstance(module, SelfAttention)]
        if own := [attend for attend in attentions if attend not in ATTENTIONS.values()]:
            name = getattr(own[0], "__name__", "another attention")
            raise ValueError(
                f"the keys of a static step go on beyond the query, which {name} may not expect; "
                "use the model without StaticLlama"
            )
        for name in ("forward", "hidden", "new_cache"):
            if getattr(type(model), name) is not getattr(Llama, name):
                raise ValueError(
                    f"{type(model).__name__} has its own {name}, which a static step does not call; "
                    "use the model without StaticLlama"
                )
        rope_type = (model.config.rope_scaling or {}).get("rope_type")
        if rope_type == "dynamic" or (rope_type == "longrope" and not isinstance(model.rope, partial)):
            raise ValueError(
                f"rope_type {rope_type!r} changes the rotation of old positions as the text grows, and a static step "
                "cannot; use the model without StaticLlama"
            )
        nn.Module.__init__(self)
        self.__dict__.update(model.__dict__)
        self.compiles, self.on_compile = compile, on_compile
        self.programs: dict[tuple[int, int], Callable[..., Tensor]] = {}  # by batch size and cache size

    def new_cache(self, batch_size: int = 1, max_length: int | None = None) -> StaticCache:
        """Make an empty cache for at least `max_length` tokens (default: max_position_embeddings)."""
        c, weight = self.config, self.embed_tokens.weight
        length = c.max_position_embeddings if max_length is None else max_length
        length = max(128, 1 << (length - 1).bit_length()) if length > 0 else length  # Cache refuses 0 and less
        return StaticCache(
            len(self.layers), batch_size, c.num_key_value_heads, length, c.head_dim, weight.dtype, weight.device
        )

    def save_pretrained(self, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
        raise ValueError("a StaticLlama has the weights of the model that it was made from; save that model")

    def forward(
        self, ids: Tensor, cache: Cache | None = None, *, mask: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """As `Llama.forward`. One new token per row, without a mask and with a cache of `new_cache`: a static step."""
        if not isinstance(cache, StaticCache) or ids.dim() != 2 or ids.shape[1] != 1 or mask is not None:
            return super().forward(ids, cache, mask=mask, last_only=last_only)
        cache.reserve(*ids.shape)  # first: a compiled program would write beyond the end of a full cache
        cache.ids.copy_(ids)
        cache.position.fill_(cache.length)
        with torch.no_grad():
            if cache.rotations is None:
                cache.rotations = self.rope(torch.arange(cache.max_length, device=ids.device)[None])
            logits = self.replay(cache) if ids.device.type == "cuda" else self.step(cache)
        cache.length += 1
        return logits

    def step(self, cache: StaticCache) -> Tensor:
        """Logits after the token `cache.ids` at `cache.position`: (B, 1, V). No Python number changes the program."""
        assert cache.rotations is not None
        x = self.embed_tokens(cache.ids)  # (B, 1, C); outside of the program, for its error for a wrong id
        arguments = self, x, cache.position, cache.rotations, cache.layers
        key = cache.batch_size, cache.max_length
        if not self.compiles:
            return run_step(*arguments)
        if key in self.programs:
            return self.programs[key](*arguments)
        if self.on_compile is not None:
            self.on_compile(f"compiling the decoding step (batch size {key[0]}, {key[1]} positions)")
        program = compile_step(self)
        try:
            logits = program(*arguments)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            raise ValueError(
                f"the decoding step cannot be compiled on this machine: {reason_of(error)}; install a C++ compiler "
                "such as g++, or use the model without compilation"
            ) from error
        self.programs[key] = program
        return logits

    def replay(self, cache: StaticCache) -> Tensor:
        """The step as a CUDA graph, recorded at the first call. A step that runs twice writes the same numbers."""
        if cache.recorded is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):  # compiles, and lets the libraries choose their kernels
                    self.step(cache)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                logits = self.step(cache)
            cache.recorded = RecordedStep(graph, logits)
        cache.recorded.graph.replay()
        return cache.recorded.logits.clone()


def run_block(layer: nn.Module, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, own: StaticLayer) -> Tensor:
    return layer(x, (cos, sin), visible, own)


def run_head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    return head(norm(x))


def run_step(
    model: Llama,
    x: Tensor,
    position: Tensor,
    rotations: tuple[Tensor, Tensor],
    layers: list[StaticLayer],
    run_block: Callable[..., Tensor] = run_block,
    run_head: Callable[..., Tensor] = run_head,
) -> Tensor:
    """All layers for one new token per row.

    Shapes: x (B, 1, C), position (1,) int64, rotations: cos and sin (1, max_length, D) -> logits (B, 1, V)
    """
    index = torch.arange(layers[0].keys.shape[2], device=x.device)
    visible = (index <= position)[None, None, None]  # (1, 1, 1, max_length)
    cos, sin = (table.index_select(1, position).to(x.dtype) for table in rotations)  # (1, 1, D)
    for i, layer in enumerate(model.layers):
        x = run_block(layer, x, cos, sin, visible, layers[i])
    return run_head(model.norm, model.lm_head, x)


def compile_step(model: Llama) -> Callable[..., Tensor]:
    """`run_step` as one program where that pays, else with a compiled block and a compiled head."""

    def compiled(function: Any) -> Callable[..., Tensor]:
        # torch counts compilations by code object and gives up after a few: each shape of step gets a code of its own
        code = function.__code__.replace()
        own = FunctionType(code, function.__globals__, function.__name__, function.__defaults__)
        backend = compile_with_sums if model.embed_tokens.weight.device.type == "cpu" else "inductor"
        return torch.compile(own, dynamic=False, backend=backend)

    if is_compiled_whole(model):
        return compiled(run_step)
    return partial(run_step, run_block=compiled(run_block), run_head=compiled(run_head))


def is_compiled_whole(model: Llama) -> bool:
    """Whether one program holds all layers: on the CPU, small layers, each of which the compiler can trace."""
    if model.embed_tokens.weight.device.type != "cpu":
        return False
    if any(isinstance(module, QuantizedLinear) or not is_traced(module) for module in model.modules()):
        return False
    c = model.config
    heads = 2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim  # outputs or inputs of the projections
    return c.hidden_size * (heads + 3 * c.intermediate_size) * model.embed_tokens.weight.itemsize <= SMALL_LAYER


def is_traced(module: nn.Module) -> bool:
    """Whether torch.compile traces a module, and does not end its graph there."""
    return not isinstance(module, FusedSlice) or module.fused.kernel.compiles
