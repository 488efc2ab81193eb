"""FSDP2: a run on several processes, each with a share of the weights, gradients and moments.

In a single process every function here is the trivial one. See: "PyTorch FSDP", arXiv:2304.11277.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..model import Llama


def rank_and_size() -> tuple[int, int]:
    """The number of this process and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def own_device(device: torch.device) -> torch.device:
    """The device of this process: one GPU for each."""
    if device.type == "cuda" and rank_and_size()[1] > 1:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def barrier() -> None:
    """Wait for all processes."""
    if rank_and_size()[1] > 1:
        dist.barrier()


def sum_over_ranks(value: float, device: torch.device) -> float:
    """The sum of a number over all processes."""
    if rank_and_size()[1] == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total)


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be shared out over the processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def shard(llama: Llama, device: torch.device, autocast: bool) -> None:
    """Share the model out over all processes. Does nothing in a single one.

    autocast  the blocks gather their weights in bfloat16, in which autocast multiplies; gradients are added in float32
    """
    _, size = rank_and_size()
    if size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (size,))
    dtype = torch.bfloat16 if autocast else None
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in llama.layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(llama, mesh=mesh)


def reshard(model: nn.Module) -> None:
    """Free the gathered weights of the outermost modules, which FSDP2 keeps for a backward pass until one comes.

    Until then the model has other parameters than those of the optimizer.
    """
    if rank_and_size()[1] > 1:
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(model, FSDPModule)
        model.reshard()


def copy_into(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into one that may be shared out."""
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        source = distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
    target.copy_(source)
