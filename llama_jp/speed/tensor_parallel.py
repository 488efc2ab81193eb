"""Tensor parallelism: one model on several processes ("ranks"), each with some of the heads and some of the MLP.

    torchrun --nproc-per-node 2 -m llama_jp generate …

q, k, v, gate and up are split by rows, so a rank computes its heads and MLP features independently. o and down are
split by columns, so the output of a rank is one term of a sum over the ranks. That sum is the only communication
inside the layers. The vocabulary is split as well: a rank embeds and scores its own tokens.
See: "Megatron-LM", arXiv:1909.08053, 3.

The module tree stays the ordinary one. PyTorch's `parallelize_module` replaces each weight by a `DTensor`. The logits
are those of one process except for the sums over the ranks, which round in another order.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from ..cache import Cache
from ..checkpoint.config import read_scheme
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.load import assign_weights, build_on_meta, choose_device, choose_dtype
from ..checkpoint.tensors import read_tensors
from ..model import Attention, Llama, LlamaConfig, Norm
from ..rope import Rope


class ShardedLlama(Llama):
    """The share of one rank. All ranks call it with the same ids, and all of them get the same logits.

    `config` describes the whole model. A cache holds the heads of this rank only.
    """

    mesh: DeviceMesh

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = "demo",
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        revision: str | None = None,
        attention: str | Attention = "sdpa",
        rope: Rope | None = None,
        norm: Norm | None = None,
        adapter: str | Path | None = None,
        trust_parts: bool = False,
        missing: str = "refuse",
        *,
        mesh: DeviceMesh | None = None,
    ) -> ShardedLlama:
        """Load this rank's share of a checkpoint. The arguments are those of `load_model`, and the mesh of the ranks.

        mesh  of one dimension; default: all processes, on devices of the type `device`, which a mesh overrides

        Peak memory is the share plus about one tensor. Weights split by columns are copied; the others stay
        memory-mapped.

        Raises ValueError for a quantised checkpoint, for adapter, trust_parts and missing, which need one process, and
        for heads or features that the ranks cannot share evenly.
        """
        if adapter is not None:
            raise ValueError(
                "an adapter is not merged on several processes; merge it in one with `llama-jp convert --adapter`, and "
                "load the result"
            )
        if trust_parts or missing != "refuse":
            raise ValueError("trust_parts and missing are not supported on several processes; use one process")
        if mesh is None:
            mesh = init_device_mesh(choose_device(device).type, (dist.get_world_size(),))
        folder, mesh_device = find_checkpoint(source, revision), torch.empty(0, device=mesh.device_type).device
        if scheme := read_scheme(folder):
            raise ValueError(
                f"{source} is quantised ({scheme}), and quantised layers cannot be split among processes; "
                "use one process"
            )
        model, stored = build_on_meta(folder, cls, attention=attention, rope=rope, norm=norm)
        assert isinstance(model, ShardedLlama)
        dtype = choose_dtype(dtype, mesh_device, stored)
        model.split(mesh)
        shares = {name: info._replace(slices=own_part(model.get_parameter(name))) for name, info in stored.items()}
        tensors = read_tensors(shares, dtype, mesh_device)
        assign_weights(model, {name: as_share(model.get_parameter(name), own) for name, own in tensors.items()}, folder)
        return model

    def split(self, mesh: DeviceMesh) -> None:
        """Split every weight except those of the norms among the ranks of a mesh of one dimension."""
        refuse_uneven(self.config, mesh.size())
        parallelize_module(
            self,
            mesh,
            {
                "embed_tokens": RowwiseParallel(input_layouts=Replicate()),
                "layers.*.self_attn.q_proj": ColwiseParallel(),
                "layers.*.self_attn.k_proj": ColwiseParallel(),
                "layers.*.self_attn.v_proj": ColwiseParallel(),
                "layers.*.self_attn.o_proj": RowwiseParallel(),
                "layers.*.mlp.gate_proj": ColwiseParallel(),
                "layers.*.mlp.up_proj": ColwiseParallel(),
                "layers.*.mlp.down_proj": RowwiseParallel(),
                "lm_head": ColwiseParallel(output_layouts=Replicate()),
            },
        )
        self.mesh = mesh

    def new_cache(self, batch_size: int = 1, max_length: int | None = None) -> Cache:
        """Make an empty cache for this rank's heads. The arguments are those of `Llama.new_cache`."""
        c, weight = self.config, self.norm.weight
        max_length = c.max_position_embeddings if max_length is None else max_length
        heads = c.num_key_value_heads // self.mesh.size()
        return Cache(len(self.layers), batch_size, heads, max_length, c.head_dim, weight.dtype, weight.device)

    def save_pretrained(self, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
        """Refused with ValueError: a rank has only its share of the weights."""
        raise ValueError("a rank holds only its share of the weights; load the model in one process to save it")


def refuse_uneven(config: LlamaConfig, ranks: int) -> None:
    """Raise ValueError unless the ranks can share heads and MLP features evenly. The vocabulary may be uneven."""
    for key in ("num_key_value_heads", "num_attention_heads", "intermediate_size"):
        if (size := getattr(config, key)) % ranks:
            raise ValueError(
                f"{key} is {size}, which {ranks} processes cannot share evenly; "
                "start a number of processes that divides it"
            )


def own_part(parameter: Tensor) -> tuple[slice, ...]:
    """The slices of the whole tensor that this rank holds, or () if it holds all of it."""
    if not isinstance(parameter, DTensor) or not isinstance(placement := parameter.placements[0], Shard):
        return ()
    total = parameter.shape[placement.dim]
    size = math.ceil(total / parameter.device_mesh.size())  # as in `torch.chunk`: only the last shares are smaller
    begin = min(total, size * parameter.device_mesh.get_local_rank())
    return (slice(None),) * placement.dim + (slice(begin, min(total, begin + size)),)


def as_share(parameter: Tensor, own: Tensor) -> Tensor:
    """This rank's tensor in the form of the parameter it is assigned to: a DTensor, or itself."""
    if not isinstance(parameter, DTensor):
        return own
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(own, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())
