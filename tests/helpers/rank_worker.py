"""One rank of the tests: `python rank_worker.py TASK WORDS…` with torchrun's variables in the environment.

logits DTYPE OUT FOLDER…      load a share of each checkpoint, make every kind of call, and save the results in OUT
command N FAILURE WORDS…      run the command line with a timeout of N seconds; rank 1 fails: `hang`, `die` or `other`
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import torch

import llama_jp
from llama_jp.checkpoint import tensors
from llama_jp.cli import main, ranks
from llama_jp.speed.tensor_parallel import ShardedLlama

HANGING = 300  # seconds; a process that takes longer, even on a busy machine, hangs


class CountingFile:
    """A safetensors file that counts the elements loaded from it."""

    elements = 0
    open = staticmethod(tensors.safe_open)

    def __init__(self, *args, **kwargs):
        self.file = CountingFile.open(*args, **kwargs)

    def __enter__(self):
        self.content = self.file.__enter__()
        return self

    def __exit__(self, *error):
        return self.file.__exit__(*error)

    def keys(self):
        return self.content.keys()

    def get_tensor(self, name):
        tensor = self.content.get_tensor(name)
        CountingFile.elements += tensor.numel()
        return tensor

    def get_slice(self, name):
        return CountingSlice(self.content.get_slice(name))


class CountingSlice:
    def __init__(self, content):
        self.content = content
        self.get_shape, self.get_dtype = content.get_shape, content.get_dtype

    def __getitem__(self, part):
        tensor = self.content[part]
        CountingFile.elements += tensor.numel()
        return tensor


@torch.no_grad()
def every_call(model: llama_jp.Llama) -> dict:
    """Logits of whole texts, of cached steps and of a padded batch; tokens by greedy decoding and by sampling."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, model.config.vocab_size, (2, 20), generator=generator)
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[1, :7] = 0
    cache = model.new_cache(2, 20)
    found = {"whole": model(ids), "padded": model(ids, mask=mask)[mask.bool()]}
    found["steps"] = torch.cat([model(part, cache) for part in ids.split([5, 1, 1, 13], dim=1)], dim=1)
    prompts = [ids[0, :9].tolist(), ids[1, :4].tolist()]
    plain = llama_jp.generate(model, prompts, max_new_tokens=8, do_sample=False, eos_token_id=None)
    sampled = llama_jp.generate(model, prompts, max_new_tokens=8, do_sample=True, eos_token_id=None, seed=3)
    for name, answers in (("greedy", plain), ("sampled", sampled)):
        found[name] = [answer.ids for answer in answers]
    return found


def logits(words: list[str]) -> None:
    ranks.start(timedelta(seconds=HANGING))
    tensors.safe_open = CountingFile
    mesh = ranks.make_mesh("cpu")
    found = {}
    for folder in words[2:]:
        CountingFile.elements = 0
        model = ShardedLlama.from_pretrained(folder, words[0], mesh=mesh)
        own = [p.to_local() if hasattr(p, "to_local") else p for p in model.parameters()]
        found[folder] = every_call(model) | {
            "read": CountingFile.elements,
            "held": sum(p.numel() for p in own),
            "heads in the cache": model.new_cache(1, 4).keys[0].shape[1],
            "shapes": {name: tuple(p.shape) for name, p in model.named_parameters()},
            "contiguous": all(p.is_contiguous() for p in own),
        }
    torch.save(found, Path(words[1]) / f"rank{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()


def wait_for_all_ranks() -> None:
    """Wait until all ranks have finished their imports, so that the timeout does not include these."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = torch.distributed.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=HANGING))
    if store.add("ready", 1) == int(os.environ["WORLD_SIZE"]):
        store.set("all are ready", "")
    store.wait(["all are ready"])


def command(words: list[str]) -> int:
    seconds, failure, *sys.argv[1:] = words
    wait_for_all_ranks()

    def failing_main() -> int:
        if os.environ["RANK"] == "1":
            if failure == "hang":
                os.read(0, 1)  # until the test closes standard input
            elif failure == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            elif failure == "other":
                sys.argv += ["--model", "nowhere"]
        return main()

    return ranks.run(failing_main, timedelta(seconds=float(seconds)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit({"logits": logits, "command": command}[sys.argv[1]](sys.argv[2:]))
