"""Train the demo checkpoint on the story grammar. Nothing is read but this folder, nothing is downloaded.

    python weights/demo/train.py                 # the real thing; a run that was killed goes on where it was
    python weights/demo/train.py --quick         # two minutes, to see the loss fall; leaves the weights alone

Everything follows from the seed and the number of the step: documents are drawn anew for each step and never stored, so
a resumed run sees what the uninterrupted one would have seen, and ends with the same bits.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

# Waiting threads sleep instead of spinning; on two cores shared with anything else, spinning costs a factor of four.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import corpus
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from llama_jp import Llama, Tokenizer, generate, instruct_prompt
from llama_jp.checkpoint import file_name, multiplies_bfloat16, read_config

HERE = Path(__file__).resolve().parent
IGNORE = -100  # a target that costs nothing


def encode(tokenizer: Tokenizer, turns: corpus.Turns) -> tuple[list[int], list[bool]]:
    """Ids of a document, and which of them the model has to learn: stories and answers with their EOS, not requests."""
    if turns[0][0] is None:
        ids = [*tokenizer.encode(turns[0][1]), tokenizer.eos_id]
        return ids, [False] + [True] * (len(ids) - 1)  # BOS is given
    ids: list[int] = []
    learn: list[bool] = []
    for i, (request, answer) in enumerate(turns):
        prompt = instruct_prompt(tokenizer, request, history=turns[:i])
        own = tokenizer.encode(answer, bos=False)[1:]  # without the ▁ in front, which the prompt ends with
        assert prompt[: len(ids)] == ids, "past turns are cut as they were when they were answered"
        learn += [False] * (len(prompt) - len(ids)) + [True] * len(own)
        ids = prompt + own
    return [*ids, tokenizer.eos_id], [*learn, True]


def pack(
    documents: Iterator[corpus.Turns], tokenizer: Tokenizer, rows: int, length: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fill rows with whole documents, each into the first row with room, until one fits nowhere.

    Shapes: ids (B, T) int64, targets (B, T) int64 (the next id, or IGNORE), owner (B, T) int64: whose token this is.
    """
    ids = torch.full((rows, length), tokenizer.eos_id)
    targets = torch.full((rows, length), IGNORE)
    owner = torch.zeros(rows, length, dtype=torch.int64)
    used = [0] * rows
    for number, turns in enumerate(documents, start=1):
        tokens, learn = encode(tokenizer, turns)
        if len(tokens) > length:
            continue
        row = next((row for row in range(rows) if used[row] + len(tokens) <= length), None)
        if row is None:
            break
        at = slice(used[row], used[row] + len(tokens))
        ids[row, at] = torch.tensor(tokens)
        owner[row, at] = number
        following = [token if learnt else IGNORE for token, learnt in zip(tokens[1:], learn[1:], strict=True)]
        targets[row, at] = torch.tensor([*following, IGNORE])
        used[row] = at.stop
    return ids, targets, owner


class WithinDocuments:
    """Attention for rows that hold several documents: a token sees its own document, up to itself.

    Positions run on through a row. Rotary embeddings only know distances, so a document does not notice where it lies.
    """

    visible: Tensor  # (B, 1, T, T)

    def look_at(self, owner: Tensor) -> None:
        self.visible = (owner[:, :, None] == owner[:, None, :]).tril()[:, None]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, self.visible)


def new_model(folder: Path, seed: int) -> tuple[Llama, WithinDocuments]:
    """A model with small random weights; smaller where a layer writes to the residual stream, as GPT-2 has it."""
    attention = WithinDocuments()
    config = read_config(folder)
    model = Llama(config, attention=attention)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            writes = name.endswith(("o_proj.weight", "down_proj.weight"))
            std = 0.02 / math.sqrt(2 * config.num_hidden_layers) if writes else 0.02
            torch.nn.init.normal_(weight, std=std, generator=generator)
    return model, attention


def mean_loss(model: Llama, attention: WithinDocuments, ids: Tensor, targets: Tensor, owner: Tensor) -> Tensor:
    """Cross entropy in nats per token that has to be learned."""
    attention.look_at(owner)
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
        logits = model(ids)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)


def learning_rate(step: int, o: argparse.Namespace) -> float:
    """Linear warm-up, then half a cosine down to a twentieth."""
    if step < o.warmup:
        return o.lr * (step + 1) / o.warmup
    done = (step - o.warmup) / max(1, o.steps - o.warmup)
    return o.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def replace(file: Path, write) -> None:
    """Write beside the file, then rename: whoever reads it finds the old one or the new one, never half of one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.new")
    write(beside)
    beside.replace(file)


def train(o: argparse.Namespace) -> tuple[Llama, Tokenizer, list[dict]]:
    """The whole run, from the newest checkpoint on if there is one."""
    torch.set_num_threads(o.threads)
    tokenizer = Tokenizer.from_pretrained(o.folder)
    model, attention = new_model(o.folder, o.seed)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    norms = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": norms, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=o.lr, betas=(0.9, 0.95), fused=True)

    settings = {key: getattr(o, key) for key in ("steps", "rows", "length", "lr", "warmup", "seed")}
    start, log, seconds = 0, [], 0.0
    if o.checkpoint.is_file():
        saved = torch.load(o.checkpoint, weights_only=True)
        if saved["settings"] != settings:
            raise SystemExit(f"{o.checkpoint} is of another run: {saved['settings']}, not {settings}; remove it")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start, log, seconds = saved["step"], saved["log"], saved["seconds"]

    unseen = pack(corpus.documents("evaluation", "held-out"), tokenizer, o.rows * 2, o.length)
    began, losses = time.monotonic() - seconds, []
    bar = tqdm(range(start, o.steps), desc="training", initial=start, total=o.steps)
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, o)
        loss = mean_loss(model, attention, *pack(corpus.documents(f"{o.seed}/{step}"), tokenizer, o.rows, o.length))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")

        if (step + 1) % o.every == 0 or step + 1 == o.steps:
            with torch.no_grad():
                held_out = mean_loss(model, attention, *unseen).item()
            seconds = time.monotonic() - began
            log.append({"step": step + 1, "train": sum(losses) / len(losses), "held_out": held_out, "seconds": seconds})
            tqdm.write(
                f"step {step + 1:5d}   training {log[-1]['train']:.4f}   held-out {held_out:.4f}   {seconds:6.0f} s"
            )
            losses = []
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            state |= {"log": log, "seconds": seconds, "settings": settings}
            replace(o.checkpoint, lambda file, state=state: torch.save(state, file))
    return model, tokenizer, log


def keep(model: Llama, log: list[dict], folder: Path) -> None:
    """Write the weights in float16, under the names of the published checkpoints, and the log of the run."""
    tensors = {file_name(name): tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    replace(folder / "model.safetensors", lambda file: save_file(tensors, file, metadata={"format": "pt"}))
    replace(folder / "training_log.json", lambda file: file.write_text(json.dumps(log, indent=1) + "\n"))


def promises_kept(folder: Path, count: int) -> int:
    """Of so many requests for combinations that training never saw: how many stories have everything, and an end."""
    model, tokenizer = Llama.from_pretrained(folder), Tokenizer.from_pretrained(folder)
    asked = list(islice(corpus.requests("table", "held-out"), count))
    answers = generate(model, [instruct_prompt(tokenizer, request) for _, request in asked], max_new_tokens=400)
    return sum(
        answer.finish_reason == "eos" and all(corpus.keeps_promise(plan, tokenizer.decode(answer.ids)).values())
        for (plan, _), answer in zip(asked, answers, strict=True)
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument("--folder", type=Path, default=HERE, help="has config.json and the tokenizer; gets the weights")
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/demo.pt"), help="to resume from")
    parser.add_argument("--quick", action="store_true", help="two minutes; weights are not kept")
    for name, value in {
        "steps": 1600,
        "rows": 8,
        "length": 512,
        "warmup": 100,
        "every": 100,
        "threads": 2,
        "seed": 0,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--lr", type=float, default=2e-3)
    o = parser.parse_args(argv)
    if o.quick:
        o.steps, o.rows, o.warmup, o.every = 60, 4, 10, 10
        o.checkpoint = o.checkpoint.with_name(f"{o.checkpoint.stem}-quick.pt")
    model, _, log = train(o)

    last = log[-1]
    table = {"parameters": f"{sum(p.numel() for p in model.parameters()):,}", "steps": o.steps}
    table |= {"training loss": f"{last['train']:.4f}", "held-out loss": f"{last['held_out']:.4f}"}
    table |= {"held-out perplexity": f"{math.exp(last['held_out']):.3f}", "minutes": f"{last['seconds'] / 60:.1f}"}
    if o.quick:
        o.checkpoint.unlink()
    else:
        keep(model, log, o.folder)
        table["promises kept"] = f"{promises_kept(o.folder, 50)} of 50"
    for key, value in table.items():
        print(f"{key:20}  {value}")


if __name__ == "__main__":
    main()
