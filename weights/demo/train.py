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
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

# Idle threads sleep and do not spin: on two shared cores, spinning made training four times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import corpus
import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from llama_jp import Llama, Tokenizer
from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.load import multiplies_bfloat16
from llama_jp.checkpoint.tensors import checkpoint_name
from llama_jp.training import example, initialise, loss, pack
from llama_jp.training.examples import Example
from llama_jp.training.optimization import learning_rate, make_optimizer, update
from llama_jp.training.state import (
    LOG_FILE,
    check_settings,
    load_state,
    read_log,
    replace_file,
    save_state,
    start_run,
)

HERE = Path(__file__).resolve().parent
ROW = 640  # tokens; the longest document has about 460


def encode(tokenizer: Tokenizer, turns: corpus.Turns) -> Example:
    """The ids and labels of a document: a plain story, or a conversation of requests and answers."""
    if turns[0][0] is None:
        return example(tokenizer, turns[0][1])
    roles = [pair for turn in turns for pair in zip(("user", "assistant"), turn, strict=True)]
    return example(tokenizer, [{"role": role, "content": content} for role, content in roles])


def make_batch(documents: Iterator[corpus.Turns], tokenizer: Tokenizer, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """As many whole documents as `tokens` tokens hold, in rows. Shapes: ids, labels and mask, each (B, ROW) int64."""
    examples: list[Example] = []
    for turns in documents:
        document = encode(tokenizer, turns)
        tokens -= len(document.ids)
        if tokens < 0:
            break
        examples.append(document)
    return pack(examples, ROW)


def new_model(folder: Path, seed: int) -> Llama:
    """A model with small random weights, smaller in layers that write to the residual stream, as in GPT-2."""
    model = Llama(read_config(folder))
    initialise(model, seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight /= math.sqrt(2 * model.config.num_hidden_layers)
    return model


def mean_loss(model: Llama, ids: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """Cross entropy in nats per token, over stories and answers."""
    with torch.autocast("cpu", torch.bfloat16, enabled=multiplies_bfloat16()):
        logits = model(ids, mask=mask)
    return loss(logits, labels)


def train(o: argparse.Namespace) -> tuple[Llama, list[dict]]:
    """Run the training, from the last checkpoint if there is one. Returns the model and a log of its losses.

    The learning rate has a warm-up and half a cosine in each cycle. A run can end after any cycle, and more cycles can
    extend it: a longer run begins with the steps of a shorter one.
    """
    torch.set_num_threads(o.threads)
    tokenizer = Tokenizer.from_pretrained(o.folder)
    settings = {key: getattr(o, key) for key in ("tokens", "cycle", "lr", "warmup", "seed")}
    check_settings(o.checkpoint, settings)
    start_run(o.checkpoint, settings)
    model = new_model(o.folder, o.seed)
    optimizer = make_optimizer(model, o.lr, weight_decay=0.1)
    start = load_state(o.checkpoint, model, optimizer)
    log = read_log(o.checkpoint, start)

    unseen = make_batch(corpus.documents("evaluation", "held-out"), tokenizer, 3 * o.tokens)
    began, losses = time.monotonic() - (log[-1]["seconds"] if log else 0.0), []
    bar = tqdm(range(start, o.steps), desc="training", initial=start, total=o.steps)
    for step in bar:
        # A story has only one ending, which makes endings hard to learn; later cycles add exercises for them.
        documents = corpus.documents(f"{o.seed}/{step}", exercises=0.4 if step >= o.cycle else 0.0)
        training_loss = mean_loss(model, *make_batch(documents, tokenizer, o.tokens))
        training_loss.backward()
        update(model, optimizer, learning_rate(step % o.cycle, o.lr, o.cycle, o.warmup, floor=0.05))
        losses.append(training_loss.item())
        bar.set_postfix(loss=losses[-1])
        if (step + 1) % o.every == 0 or step + 1 == o.steps:
            with torch.no_grad():
                held_out = mean_loss(model, *unseen).item()
            entry = {"step": step + 1, "train": sum(losses) / len(losses), "held_out": held_out}
            log.append(entry | {"seconds": time.monotonic() - began})
            tqdm.write(
                "step {step:5}  training {train:.4f}  held-out {held_out:.4f}  {seconds:6.0f} s".format(**log[-1])
            )
            losses = []
            lines = "".join(json.dumps(each) + "\n" for each in log)
            replace_file(o.checkpoint / LOG_FILE, lambda file, lines=lines: file.write_text(lines))
            save_state(o.checkpoint, model, optimizer, step + 1)
    return model, log


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Train the demo checkpoint.")
    parser.add_argument(
        "--folder",
        type=Path,
        default=HERE,
        help="folder of config.json, tokenizer and new weights",
    )
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoints/demo"), help="folder to resume from")
    parser.add_argument("--quick", action="store_true", help="two minutes; the weights are not saved")
    parser.add_argument("--lr", type=float, default=2e-3)
    numbers = {"steps": 2400, "cycle": 1200, "tokens": 4096, "warmup": 60, "every": 100, "threads": 2, "seed": 0}
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    o = parser.parse_args(argv)
    if o.quick:
        o.steps, o.cycle, o.tokens, o.warmup, o.every = 60, 60, 2048, 10, 10
        o.checkpoint = o.checkpoint.with_name(f"{o.checkpoint.name}-quick")
    model, log = train(o)
    if o.quick:
        shutil.rmtree(o.checkpoint)
    else:  # in float16, with the names of the published checkpoints
        tensors = {checkpoint_name(name): tensor.half().contiguous() for name, tensor in model.state_dict().items()}
        replace_file(o.folder / "model.safetensors", lambda file: save_file(tensors, file, metadata={"format": "pt"}))
        replace_file(o.folder / "training_log.json", lambda file: file.write_text(json.dumps(log, indent=1) + "\n"))
    last = log[-1]
    print(f"{'parameters':20}{sum(p.numel() for p in model.parameters()):>12,}\n{'steps':20}{o.steps:>12}")
    print(f"{'training loss':20}{last['train']:>12.4f}\n{'held-out loss':20}{last['held_out']:>12.4f}")
    print(f"{'held-out perplexity':20}{math.exp(last['held_out']):>12.4f}\n{'minutes':20}{last['seconds'] / 60:>12.1f}")


if __name__ == "__main__":
    main()
