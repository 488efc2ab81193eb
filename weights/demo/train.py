"""Train the demo checkpoint on the story grammar. Only this folder is needed, and nothing is downloaded.

    python weights/demo/train.py                 # the whole run; a killed run resumes from its last checkpoint
    python weights/demo/train.py --quick         # two minutes, to see the loss fall; the weights are not saved

The seed and the number of a step determine its documents, which are generated for each step and never stored. So a
resumed run sees the same documents as an uninterrupted one, and its weights are bit-identical.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Idle threads sleep and do not spin: on two shared cores, spinning made training four times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import corpus
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from llama_jp import Llama, Tokenizer, instruct_prompt
from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.load import multiplies_bfloat16
from llama_jp.checkpoint.tensors import checkpoint_name

HERE = Path(__file__).resolve().parent
IGNORE = -100  # a target that is left out of the loss


def encode(tokenizer: Tokenizer, turns: corpus.Turns) -> tuple[list[int], list[bool]]:
    """The ids of a document, and which of them count in the loss: stories and answers with their EOS, not requests."""
    if turns[0][0] is None:
        ids = [*tokenizer.encode(turns[0][1]), tokenizer.eos_id]
        return ids, [False] + [True] * (len(ids) - 1)  # BOS is always given
    ids, learn = [], []
    for i, (request, answer) in enumerate(turns):
        prompt = instruct_prompt(tokenizer, request, history=turns[:i])
        answer_ids = tokenizer.encode(answer, bos=False)[1:]  # without the first ▁, with which the prompt ends
        assert prompt[: len(ids)] == ids, "earlier turns have the same ids as when they were answered"
        learn += [False] * (len(prompt) - len(ids)) + [True] * len(answer_ids)
        ids = prompt + answer_ids
    return [*ids, tokenizer.eos_id], [*learn, True]


def pack(documents: Iterator[corpus.Turns], tokenizer: Tokenizer, length: int) -> tuple[Tensor, Tensor, list[int]]:
    """Pack as many whole documents as fit into one row, and fill the rest with EOS.

    Shapes: ids (1, T) int64, targets (T,) int64: the next id or IGNORE; and the lengths of the documents, T in total.
    """
    ids, targets, lengths = [], [], []
    for turns in documents:
        document, learn = encode(tokenizer, turns)
        if len(ids) + len(document) > length:
            break
        ids += document
        targets += [token if counts else IGNORE for token, counts in zip(document[1:], learn[1:], strict=True)]
        targets.append(IGNORE)
        lengths.append(len(document))
    lengths.append(length - len(ids))
    ids += [tokenizer.eos_id] * lengths[-1]
    targets += [IGNORE] * lengths[-1]
    return torch.tensor([ids]), torch.tensor(targets), [n for n in lengths if n]


class WithinDocuments:
    """Attention for a row of several documents: query i sees key j if j <= i and both are in the same document.

    Positions count through the whole row. Attention with rotary embeddings depends only on distances, so the position
    of a document in the row has no effect.
    """

    lengths: list[int]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        documents = zip(*(x.split(self.lengths, dim=2) for x in (q, k, v)), strict=True)
        return torch.cat([F.scaled_dot_product_attention(*qkv, is_causal=True) for qkv in documents], dim=2)


def new_model(folder: Path, seed: int) -> tuple[Llama, WithinDocuments]:
    """A model with small random weights, smaller in layers that write to the residual stream, as in GPT-2."""
    config, attention = read_config(folder), WithinDocuments()
    model = Llama(config, attention=attention)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * config.num_hidden_layers) if writes else 0.02
            torch.nn.init.normal_(weight, std=std, generator=generator)
    return model, attention


def mean_loss(model: Llama, attention: WithinDocuments, ids: Tensor, targets: Tensor, lengths: list[int]) -> Tensor:
    """Cross entropy in nats per token, over the targets that are not IGNORE."""
    attention.lengths = lengths
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
        logits = model(ids)
    return F.cross_entropy(logits[0].float(), targets, ignore_index=IGNORE)


def learning_rate(step: int, o: argparse.Namespace) -> float:
    """Linear warm-up, then half a cosine down to a twentieth, in each cycle (SGDR, arXiv:1608.03983).

    A run can end after any cycle, and more cycles can extend it: a longer run begins with the steps of a shorter one.
    """
    step %= o.cycle
    if step < o.warmup:
        return o.lr * (step + 1) / o.warmup
    done = (step - o.warmup) / max(1, o.cycle - o.warmup)
    return o.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def replace(file: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary file and rename it, so that the file is always complete: the old one or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.new")
    write(beside)
    beside.replace(file)


def train(o: argparse.Namespace) -> tuple[Llama, list[dict]]:
    """Run the training, from the last checkpoint if there is one. Returns the model and a log of its losses."""
    torch.set_num_threads(o.threads)
    tokenizer = Tokenizer.from_pretrained(o.folder)
    model, attention = new_model(o.folder, o.seed)
    matrices, norms = ([p for p in model.parameters() if p.dim() == dim] for dim in (2, 1))
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=(0.9, 0.95), fused=True)

    settings = {key: getattr(o, key) for key in ("tokens", "cycle", "lr", "warmup", "seed")}
    start, log, seconds = 0, [], 0.0
    if o.checkpoint.is_file():
        saved = torch.load(o.checkpoint, weights_only=True)
        if saved["settings"] != settings:
            raise SystemExit(f"{o.checkpoint} is of another run: {saved['settings']}, not {settings}; remove it")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start, log, seconds = saved["step"], saved["log"], saved["seconds"]

    unseen = pack(corpus.documents("evaluation", "held-out"), tokenizer, 3 * o.tokens)
    began, losses = time.monotonic() - seconds, []
    bar = tqdm(range(start, o.steps), desc="training", initial=start, total=o.steps)
    for step in bar:
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = learning_rate(step, o)
        # A story has only one ending, which makes endings hard to learn; later cycles add exercises for them.
        documents = corpus.documents(f"{o.seed}/{step}", exercises=0.4 if step >= o.cycle else 0.0)
        loss = mean_loss(model, attention, *pack(documents, tokenizer, o.tokens))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix(loss=losses[-1])
        if (step + 1) % o.every == 0 or step + 1 == o.steps:
            with torch.no_grad():
                held_out = mean_loss(model, attention, *unseen).item()
            seconds = time.monotonic() - began
            log.append({"step": step + 1, "train": sum(losses) / len(losses), "held_out": held_out, "seconds": seconds})
            tqdm.write(f"step {step + 1:5}  training {log[-1]['train']:.4f}  held-out {held_out:.4f}  {seconds:6.0f} s")
            losses = []
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "settings": settings}
            state |= {"step": step + 1, "log": log, "seconds": seconds}
            replace(o.checkpoint, lambda file, state=state: torch.save(state, file))
    return model, log


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument(
        "--folder",
        type=Path,
        default=HERE,
        help="folder of config.json, tokenizer and new weights",
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/demo.pt"), help="file to resume from")
    parser.add_argument("--quick", action="store_true", help="two minutes; the weights are not saved")
    parser.add_argument("--lr", type=float, default=2e-3)
    numbers = {"steps": 2400, "cycle": 1200, "tokens": 4096, "warmup": 60, "every": 100, "threads": 2, "seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    o = parser.parse_args(argv)
    if o.quick:
        o.steps, o.cycle, o.tokens, o.warmup, o.every = 60, 60, 2048, 10, 10
        o.checkpoint = o.checkpoint.with_name(f"{o.checkpoint.stem}-quick.pt")
    model, log = train(o)
    if o.quick:
        o.checkpoint.unlink()
    else:  # in float16, with the names of the published checkpoints
        tensors = {checkpoint_name(name): tensor.half().contiguous() for name, tensor in model.state_dict().items()}
        replace(o.folder / "model.safetensors", lambda file: save_file(tensors, file, metadata={"format": "pt"}))
        replace(o.folder / "training_log.json", lambda file: file.write_text(json.dumps(log, indent=1) + "\n"))
    last = log[-1]
    print(f"{'parameters':20}{sum(p.numel() for p in model.parameters()):>12,}\n{'steps':20}{o.steps:>12}")
    print(f"{'training loss':20}{last['train']:>12.4f}\n{'held-out loss':20}{last['held_out']:>12.4f}")
    print(f"{'held-out perplexity':20}{math.exp(last['held_out']):>12.4f}\n{'minutes':20}{last['seconds'] / 60:>12.1f}")


if __name__ == "__main__":
    main()
