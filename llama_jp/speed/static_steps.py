"""Decoding with fixed shapes: one step that is compiled once and, on a GPU, recorded once and replayed.

    model = StaticLlama(llama_jp.Llama.from_pretrained("demo"))
    llama_jp.generate(model, prompts, max_new_tokens=100)

A step of one token is a few hundred small operations, and starting them costs more than a GPU needs to run them. Here a
step sees the whole cache, behind a mask, and its position is a tensor: every step is then the same program. One block
is compiled for all layers, and a CUDA graph holds the whole step. Prompts, and batches with padding, run as ever.

The price: compiled arithmetic rounds in other places, so logits differ in their last bits; each step reads all of its
cache, used or not; and every batch size and cache size is compiled anew, for which reason sizes are powers of two.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..cache import Cache
from ..linear.fused import FusedSlice
from ..linear.layer import QuantizedLinear
from ..model import Block, Llama


class StaticLayer:
    """One layer's share of a `StaticCache`: as `LayerCache`, with its position in a tensor."""

    def __init__(self, keys: Tensor, values: Tensor, position: Tensor):
        self.keys, self.values, self.position = keys, values, position

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write one new key and value, return all there is room for: (B, K, 1, D) -> (B, K, max_length, D)."""
        self.keys.index_copy_(2, self.position, k)
        self.values.index_copy_(2, self.position, v)
        return self.keys, self.values


class StaticCache(Cache):
    """A `Cache` whose tensors stay where they are from step to step, and the graph that was recorded on them."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.settle()

    def settle(self) -> None:
        """Forget a recorded step. What is not written yet has to be finite: the mask multiplies it by zero."""
        for tensor in self.keys + self.values:
            tensor[:, :, self.length :] = 0
        device = self.keys[0].device
        self.ids = torch.zeros(self.batch_size, 1, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)
        self.layers = [StaticLayer(k, v, self.position) for k, v in zip(self.keys, self.values, strict=True)]
        self.rotations: tuple[Tensor, Tensor] | None = None  # cos and sin of every position: (1, max_length, D)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.logits: Tensor | None = None

    def select_rows(self, rows: Sequence[int]) -> None:
        super().select_rows(rows)
        self.settle()


class StaticLlama(Llama):
    """The same modules as `model`, with static steps. What is done to the one is done to the other."""

    def __init__(self, model: Llama, compile: bool = True):
        if (model.config.rope_scaling or {}).get("rope_type") == "dynamic":
            raise ValueError("rope_type 'dynamic' turns old positions anew as the text grows; a static step cannot")
        nn.Module.__init__(self)
        self.__dict__.update(model.__dict__)
        for module in self.modules() if compile else ():  # products that the compiler must not look into
            if isinstance(module, QuantizedLinear) or (
                isinstance(module, FusedSlice) and not module.joined.product.compiles
            ):
                module.forward = torch.compiler.disable(module.forward)
        self.run_block = torch.compile(run_block, dynamic=False) if compile else run_block
        self.run_head = torch.compile(run_head, dynamic=False) if compile else run_head

    def new_cache(self, batch_size: int = 1, max_length: int | None = None) -> StaticCache:
        c, weight = self.config, self.embed_tokens.weight
        length = c.max_position_embeddings if max_length is None else max_length
        length = max(128, 1 << (length - 1).bit_length()) if length > 0 else length  # Cache refuses the others
        return StaticCache(
            len(self.layers), batch_size, c.num_key_value_heads, length, c.head_dim, weight.dtype, weight.device
        )

    def save_pretrained(self, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
        raise ValueError("a StaticLlama has the weights of the model that it was made from; save that model")

    def forward(
        self, ids: Tensor, cache: Cache | None = None, *, mask: Tensor | None = None, last_only: bool = False
    ) -> Tensor:
        """As `Llama.forward`. A step of one token without padding, with a cache of `new_cache`, is static."""
        if not isinstance(cache, StaticCache) or ids.dim() != 2 or ids.shape[1] != 1 or mask is not None:
            return super().forward(ids, cache, mask=mask, last_only=last_only)
        cache.check_capacity(*ids.shape)
        cache.ids.copy_(ids)
        cache.position.fill_(cache.length)
        with torch.no_grad():
            if cache.rotations is None:
                every = torch.arange(cache.max_length, device=ids.device)[None]
                cache.rotations = self.rope(every)
            logits = self.replay(cache) if ids.device.type == "cuda" else self.step(cache)
        cache.length += 1
        return logits

    def step(self, cache: StaticCache) -> Tensor:
        """Score the token after `cache.ids` at `cache.position`: (B, 1, V). Nothing in here depends on a number."""
        x = self.embed_tokens(cache.ids)  # (B, 1, C)
        index = torch.arange(cache.max_length, device=x.device)
        visible = (index <= cache.position)[None, None, None]  # (1, 1, 1, max_length)
        cos, sin = (table.index_select(1, cache.position).to(x.dtype) for table in cache.rotations)  # (1, 1, D)
        for layer, own in zip(self.layers, cache.layers, strict=True):
            x = self.run_block(layer, x, cos, sin, visible, own)
        return self.run_head(self.norm, self.lm_head, x)

    def replay(self, cache: StaticCache) -> Tensor:
        """The step as a CUDA graph, recorded the first time. Running it twice writes the same numbers twice."""
        if cache.graph is None:
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):  # compile, and let the libraries choose their kernels
                    self.step(cache)
            torch.cuda.current_stream().wait_stream(side)
            cache.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(cache.graph):
                cache.logits = self.step(cache)
        cache.graph.replay()
        return cache.logits.clone()


def run_block(layer: Block, x: Tensor, cos: Tensor, sin: Tensor, visible: Tensor, own: StaticLayer) -> Tensor:
    return layer(x, (cos, sin), visible, own)


def run_head(norm: nn.Module, head: nn.Module, x: Tensor) -> Tensor:
    return head(norm(x))
