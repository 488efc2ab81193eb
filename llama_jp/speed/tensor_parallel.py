"""One model on several processes ("ranks"): each holds some of the heads and some of the MLP, and reads only those.

    torchrun --nproc-per-node 2 -m llama_jp generate …

q, k, v, gate and up are cut by rows, so a rank computes some heads and some features of the MLP as if there were no
others. o and down are cut by columns, so what a rank gets from its heads and features is one term of a sum, and adding
the terms up is all that the ranks say to each other inside the layers. The vocabulary is cut as well: a rank embeds the
tokens it has, and scores them. See: "Megatron-LM", arXiv:1909.08053, 3.

The module tree stays the ordinary one; PyTorch's `parallelize_module` puts a `DTensor` in the place of each weight.
The numbers are those of one process but for the sums over the ranks, which round in another order.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from ..cache import Cache
from ..checkpoint.config import read_scheme
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.load import assign_weights, build_on_meta, choose_dtype
from ..checkpoint.tensors import read_tensors
from ..model import Attention, Llama, LlamaConfig, Norm
from ..rope import Rope


class ShardedLlama(Llama):
    """One rank's share of a model. Called on all ranks with the same ids, it gives all of them the same logits.

    `config` describes the whole model; a cache holds the rank's own heads.
    """

    mesh: DeviceMesh

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        dtype: str | torch.dtype = "auto",
        *,
        mesh: DeviceMesh,
        revision: str | None = None,
        attention: str | Attention = "sdpa",
        rope: Rope | None = None,
        norm: Norm | None = None,
    ) -> ShardedLlama:
        """Load this rank's share of a checkpoint. The arguments are `load_model`'s; the device is the mesh's.

        Peak memory is the share plus about one tensor. Weights cut by columns are copied; the others stay mapped.
        """
        folder, device = find_checkpoint(source, revision), torch.empty(0, device=mesh.device_type).device
        if scheme := read_scheme(folder):
            raise ValueError(
                f"{source} is quantised ({scheme}), and quantised layers cannot be shared out; use one process"
            )
        model, stored = build_on_meta(folder, cls, attention=attention, rope=rope, norm=norm)
        dtype = choose_dtype(dtype, device, stored)
        model.split(mesh)
        shares = {name: one._replace(slices=own_part(model.get_parameter(name))) for name, one in stored.items()}
        tensors = read_tensors(shares, dtype, device)
        return assign_weights(
            model, {name: as_share(model.get_parameter(name), own) for name, own in tensors.items()}, folder
        )

    def split(self, mesh: DeviceMesh) -> None:
        """Cut every weight but the norms' for the ranks of a mesh of one dimension."""
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
        """As `Llama.new_cache`, with room for this rank's heads."""
        c, weight = self.config, self.norm.weight
        max_length = c.max_position_embeddings if max_length is None else max_length
        heads = c.num_key_value_heads // self.mesh.size()
        return Cache(len(self.layers), batch_size, heads, max_length, c.head_dim, weight.dtype, weight.device)

    def save_pretrained(self, folder: str | Path, max_shard_size: str | int = "5GB") -> None:
        raise ValueError("a rank holds only its share of the weights; load the model in one process to save it")


def refuse_uneven(config: LlamaConfig, ranks: int) -> None:
    """Heads and MLP features are shared out evenly or not at all. The vocabulary need not be."""
    for key in ("num_key_value_heads", "num_attention_heads", "intermediate_size"):
        if (size := getattr(config, key)) % ranks:
            raise ValueError(f"{key} is {size}, which {ranks} processes cannot share evenly; start another number")


def own_part(parameter: Tensor) -> tuple[slice, ...]:
    """What of the whole tensor this rank holds, as slices; no slices where that is all of it."""
    if not isinstance(parameter, DTensor) or not isinstance(placement := parameter.placements[0], Shard):
        return ()
    total = parameter.shape[placement.dim]
    most = math.ceil(total / parameter.device_mesh.size())  # as `torch.chunk` cuts
    begin = min(total, most * parameter.device_mesh.get_local_rank())
    return (slice(None),) * placement.dim + (slice(begin, min(total, begin + most)),)


def as_share(parameter: Tensor, own: Tensor) -> Tensor:
    """This rank's tensor in the form of the (empty) parameter that it fills."""
    if not isinstance(parameter, DTensor):
        return own
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(own, mesh, placements, run_check=False, shape=parameter.shape, stride=parameter.stride())
