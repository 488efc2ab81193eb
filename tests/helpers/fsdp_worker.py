"""One process of a test: shard a model with FSDP2 and save it. `python fsdp_worker.py FOLDER OUT`, under torchrun."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import llama_jp
from helpers.checkpoint_files import IDS
from llama_jp.checkpoint import save


def main(folder: str, out: str) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = llama_jp.Llama.from_pretrained(folder, dtype="float32", device="cpu")
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    model(IDS).sum().backward()
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    with torch.no_grad():
        logits = model(IDS)
    write = save.write_checkpoint
    save.write_checkpoint = lambda *args: (time.sleep(2), write(*args))  # the others have to wait
    model.save_pretrained(out)
    assert (Path(out) / "config.json").is_file(), "every process leaves when the files are there"
    if dist.get_rank() == 0:
        torch.save(logits, Path(out) / "logits.pt")
    dist.barrier()
    dist.destroy_process_group()


main(*sys.argv[1:])
