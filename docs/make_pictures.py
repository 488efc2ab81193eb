"""Draw docs/filters.svg: what each filter does to one real distribution, the next token after a beginning.

    python docs/make_pictures.py --model demo --prompt むかしむかし、あるところに、

Each panel has the likeliest tokens from left to right; grey is what the model said, colour what the filter left. Needs
nothing but llama_jp itself.
"""

from __future__ import annotations

import argparse
from html import escape
from pathlib import Path

import torch
from torch import Tensor

import llama_jp
from llama_jp.generation.filter_chain import make_filters
from llama_jp.generation.options import Options

PANELS = [
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 8},
    {"top_p": 0.7},
    {"min_p": 0.1},
    {"typical_p": 0.5},
    {"epsilon_cutoff": 0.02},
    {"eta_cutoff": 0.1},
    {"top_h": 0.5},
    {"repetition_penalty": 1.5},
    {"frequency_penalty": 1.0},
    {"no_repeat_ngram_size": 1},
]
TOKENS, COLUMNS = 24, 3
BAR, HEIGHT, GAP = 11, 90, 34


def panel(title: str, before: Tensor, after: Tensor, names: list[str], x: int, y: int) -> list[str]:
    """One small bar chart, at (x, y): probabilities (TOKENS,), drawn against the same scale."""
    scale = HEIGHT / max(before.max(), after.max()).item()
    lines = [f'<text x="{x}" y="{y - 6}" class="title">{escape(title)}</text>']
    for i, (was, now, name) in enumerate(zip(before.tolist(), after.tolist(), names, strict=True)):
        left = x + i * BAR
        for value, kind in ((was, "was"), (now, "now")):
            if not value:
                continue
            width, inset = (BAR - 2, 0) if kind == "was" else (BAR - 5, 1.5)
            top = y + HEIGHT - value * scale
            lines.append(
                f'<rect class="{kind}" x="{left + inset}" y="{top:.1f}" width="{width}" height="{value * scale:.1f}">'
                f"<title>{escape(name)}: {was:.3f} → {now:.3f}</title></rect>"
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompt", default="むかしむかし、あるところに、")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "filters.svg")
    args = parser.parse_args()
    model, tokenizer = llama_jp.load(args.model, dtype="float32", device="cpu")
    ids = torch.tensor([tokenizer.encode(args.prompt)])
    with torch.no_grad():
        logits = model(ids, last_only=True)[:, -1].float()
    before = logits.softmax(-1)[0]
    order = before.topk(TOKENS).indices
    names = tokenizer.pieces(order.tolist())

    lines = []
    for number, options in enumerate(PANELS):
        scores = logits
        for filter in make_filters(Options(do_sample=True, **options)):
            scores = filter(ids, scores)
        ((name, value),) = options.items()
        x = 12 + number % COLUMNS * (TOKENS * BAR + GAP)
        y = 28 + number // COLUMNS * (HEIGHT + GAP)
        lines += panel(f"{name} {value}", before[order], scores.softmax(-1)[0][order], names, x, y)

    width = COLUMNS * (TOKENS * BAR + GAP)
    height = -(-len(PANELS) // COLUMNS) * (HEIGHT + GAP) + 40
    caption = f"after {args.prompt!r}: {' '.join(names[:8])} …"
    style = ".title{font:12px monospace}.was{fill:#bbb}.now{fill:#c0392b}.note{font:11px sans-serif;fill:#555}"
    args.out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(lines)
        + f'\n<text class="note" x="12" y="{height - 10}">{escape(caption)}</text>\n</svg>\n',
        encoding="utf-8",
    )
    print(args.out)


if __name__ == "__main__":
    main()
