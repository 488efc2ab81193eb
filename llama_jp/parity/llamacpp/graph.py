"""The operations of ggml's graph under the names of this project's points.

A node is known by its operation and by the weight or the results that it reads. The names of results are not unique
and change with the version; the names of weights are those of the GGUF file.

    embed_tokens           GET_ROWS of token_embd.weight
    a norm                 MUL of a normalised vector by the norm's weight
    a projection           MUL_MAT of a weight; with a bias, the ADD after it
    q_rot, k_rot           ROPE of q_proj and k_proj
    scores                 MUL_MAT of keys by q_rot. Scale and mask are added in SOFT_MAX, so they are added here
    keys, values           the first input of that product, and of the product with the probabilities
    probabilities          SOFT_MAX
    attn_output            MUL_MAT of values by probabilities
    mlp_act                SWIGLU
    after_attention        ADD of o_proj; that of down_proj is the result of the layer

q and k have the pairs of the rotation side by side, (2i, 2i + 1): GGUF files have their rows in this order. They are
brought to two halves, as in this project.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ...checkpoint.gguf.weights import model_name
from ...model import LlamaConfig
from .library import Library, Node, other_version

# Operations that only arrange the numbers of their first input. GET_ROWS selects the tokens whose logits are wanted.
ARRANGING = ("RESHAPE", "VIEW", "PERMUTE", "TRANSPOSE", "CONT", "GET_ROWS")
RECORDED = ("GET_ROWS", "MUL", "MUL_MAT", "ROPE", "SOFT_MAX", "SWIGLU", "ADD")
NEIGHBOURING_PAIRS = 0  # ROPE's mode: it rotates (2i, 2i + 1)


class GraphRecorder:
    """Records the nodes of one forward pass.

    `observe` is called by ggml. An exception in it would end the pass early, with a return value of success: it is
    kept in `error`, and the caller raises it.
    """

    def __init__(self, library: Library, config: LlamaConfig, length: int):
        self.library, self.config, self.length = library, config, length
        self.points: dict[str, Tensor] = {}
        self.point_at: dict[int, str] = {}  # address of a node -> the point that it holds
        self.error: BaseException | None = None

    def observe(self, address: int, ask: bool) -> bool:
        """Called before a node, with `ask`, for whether it is wanted; and after it, with its numbers."""
        try:
            node = Node(self.library, address)
            operation = node.operation
            if operation == "FLASH_ATTN_EXT":
                raise other_version(self.library.version, "it uses flash attention, although this is switched off")
            if ask:
                return operation in RECORDED
            if self.error is None:
                self.record(node, operation)
        except BaseException as error:  # KeyboardInterrupt as well
            self.error = self.error or error
        return True

    def record(self, node: Node, operation: str) -> None:
        if not self.points and node.name.encode() != self.library.ggml.ggml_get_name(node.address):
            raise other_version(self.library.version, "its tensors have another structure")
        if operation == "MUL_MAT":
            self.record_product(node)
        elif operation == "ADD":
            self.record_sum(node)
        elif operation == "ROPE":
            self.record_rotation(node)
        elif operation == "SOFT_MAX":
            self.record_softmax(node)
        elif operation == "SWIGLU":
            if (point := self.point_of(node.sources[0])) is not None:
                self.keep(node, f"{point.rpartition('.')[0]}.mlp_act", node.read()[0])
        elif (weight := weight_of(node.sources)) is not None:  # a norm, or the embedding
            self.keep(node, weight, node.read()[0])

    def record_product(self, node: Node) -> None:
        first, second = node.sources[:2]
        point = self.point_of(second)
        attention, _, last = (point or "").rpartition(".")
        if (weight := weight_of([first])) is not None:
            name = "lm_head" if weight == "embed_tokens" else weight
            self.keep(node, name, self.in_order(name, node.read()[0]))
        elif last == "q_rot":
            keys = first.read()[:, :, : self.length].float()  # (1, K, S, D)
            self.points[f"{attention}.keys"] = halves(keys)
            self.keep(node, f"{attention}.scores", node.read()[..., : self.length])
        elif last == "probabilities":
            values = first.read()[..., : self.length].float()  # (1, K, D, S)
            self.points[f"{attention}.values"] = values.transpose(2, 3).contiguous()
            self.keep(node, f"{attention}.attn_output", node.read())

    def record_sum(self, node: Node) -> None:
        first, second = node.sources[:2]
        if (biased := weight_of([second])) is not None:
            self.keep(node, biased, self.in_order(biased, node.read()[0]))
            return
        for point in (self.point_of(first), self.point_of(second)):
            layer = ".".join((point or "").split(".")[:2])
            if (point or "").endswith(".o_proj"):
                self.keep(node, f"{layer}.after_attention", node.read()[0])
            elif (point or "").endswith(".down_proj"):
                self.keep(node, layer, node.read()[0])

    def record_rotation(self, node: Node) -> None:
        point = self.point_of(node.sources[0])
        if point is None or not point.endswith(("q_proj", "k_proj")):
            return
        if "rope.cos" not in self.points:
            self.points["rope.cos"], self.points["rope.sin"] = rotation_of(node, self.library.version)
        rotated = halves(node.read().transpose(1, 2))  # (1, H, T, D)
        self.keep(node, point.replace("_proj", "_rot"), rotated)

    def record_softmax(self, node: Node) -> None:
        point = self.point_of(node.sources[0])
        if point is None or not point.endswith(".scores"):
            return
        scale, slope = node.floats()[:2]
        if slope or len(node.sources) != 2:
            raise other_version(self.library.version, "its softmax has more than a scale and a mask")
        mask = node.sources[1].read()[..., : self.points[point].shape[2], : self.length].float()
        scores = self.points[point] * scale + mask
        self.points[point] = scores.masked_fill(scores == -math.inf, torch.finfo(torch.float32).min)
        self.keep(node, point.replace("scores", "probabilities"), node.read()[..., : self.length])

    # Helpers

    def keep(self, node: Node, point: str, x: Tensor) -> None:
        self.points[point] = x.contiguous()
        self.point_at[node.address] = point

    def point_of(self, node: Node) -> str | None:
        """The point that a node holds, arranged or not."""
        while node.address not in self.point_at:
            if node.operation not in ARRANGING or not node.sources:
                return None
            node = node.sources[0]
        return self.point_at[node.address]

    def in_order(self, name: str, x: Tensor) -> Tensor:
        """The output of a projection (1, T, out), with the pairs of queries and keys as halves."""
        return halves(x.unflatten(-1, (-1, self.config.head_dim))).flatten(2) if is_rotated(name) else x


def is_rotated(name: str) -> bool:
    return name.endswith((".q_proj", ".k_proj"))


def halves(x: Tensor) -> Tensor:
    """The last dimension from neighbouring pairs to two halves: numbers 0 2 4 … 1 3 5 …, as `permutation.unpermute`."""
    return torch.cat((x[..., 0::2], x[..., 1::2]), -1)


def weight_of(sources: list[Node]) -> str | None:
    """The module whose weight or bias is among the inputs."""
    for node in sources:
        name = model_name(node.name)
        if name != node.name and node.operation == "NONE":
            return name.rpartition(".")[0]
    return None


def rotation_of(node: Node, version: str) -> tuple[Tensor, Tensor]:
    """cos and sin (1, T, D) of a ROPE operation, from its positions and parameters: `ggml_rope_cache_init` in ops.cpp.

    rounding: the angle of a pair is that of the pair before it times theta^(-2 / D), in float32. Powers, cosines and
    logarithms are the C library's, as in ggml: those of torch have other last bits.
    """
    integers, floats = node.integers(), node.floats()
    dims, mode, trained = integers[1], integers[2], integers[4]
    base, scale, extension, attention, fast, slow = floats[5:11]
    if mode != NEIGHBOURING_PAIRS:
        raise other_version(version, f"it rotates pairs in the order {mode}, not neighbouring ones")
    positions = node.sources[1].read().flatten()  # (T,)
    divisors = node.sources[2].read().flatten() if len(node.sources) > 2 else torch.ones(dims // 2)
    step = c_library().powf(base, -2.0 / dims)
    theta, angles = positions.float(), []
    for _ in range(dims // 2):
        angles.append(theta)
        theta = theta * step
    plain = torch.stack(angles, -1) / divisors  # (T, D / 2)
    angle, magnitude = plain * scale, torch.tensor(attention)
    if extension:
        low, high = (turning_pair(dims, trained, turns, base) for turns in (fast, slow))
        low, high = max(0.0, math.floor(low)), min(dims - 1.0, math.ceil(high))
        ramp = ((torch.arange(dims // 2) - low) / max(0.001, high - low)).clamp(0, 1)
        mix = (1 - ramp) * extension
        angle = angle * (1 - mix) + plain * mix
        magnitude = magnitude * (1 + torch.tensor(0.1) * c_library().logf(1 / scale))
    cos, sin = ((mapped(function, angle) * magnitude)[None] for function in (c_library().cosf, c_library().sinf))
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)


@lru_cache(maxsize=1)
def c_library() -> ctypes.CDLL:
    """The C library, with the functions of float32 numbers that ggml calls."""
    library = ctypes.CDLL("ucrtbase" if os.name == "nt" else None)
    for name, arguments in {"cosf": 1, "sinf": 1, "logf": 1, "powf": 2}.items():
        getattr(library, name).argtypes = [ctypes.c_float] * arguments
        getattr(library, name).restype = ctypes.c_float
    return library


def mapped(function: Callable[[float], float], x: Tensor) -> Tensor:
    return torch.tensor([function(each) for each in x.flatten().tolist()]).view(x.shape)


def turning_pair(dims: int, trained: int, turns: float, base: float) -> float:
    """The pair, as a fraction, that makes this number of turns over the trained context."""
    return dims * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))
