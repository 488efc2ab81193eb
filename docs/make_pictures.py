"""Draw docs/filters.svg: the effect of each filter on the distribution of one next token.

    python docs/make_pictures.py

Each panel shows the most probable tokens from left to right. Grey bars are the model's probabilities, red bars the
probabilities after the filter. The default prompt has a next-token distribution that every filter changes.
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

PROMPT = "防犯登録の番号が分かると、手"
PANELS = [
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 4},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"typical_p": 0.5},
    {"epsilon_cutoff": 0.05},
    {"eta_cutoff": 0.2},
    {"top_h": 0.5},
    {"repetition_penalty": 1.5},
    {"frequency_penalty": 1.0},
    {"no_repeat_ngram_size": 1},
]
TOKENS, COLUMNS = 12, 3
BAR, HEIGHT = 20, 90
LEFT, RIGHT, ABOVE, BELOW = 40, 14, 30, 40  # around the bars of a panel
STYLE = (
    "text{font:11px sans-serif;fill:#444}.title{font:13px monospace;fill:#111}.token{font:10px sans-serif}"
    ".before{fill:#b5bac2}.after{fill:#c0392b}.axis{stroke:#888;stroke-width:1}.grid{stroke:#e4e4e4;stroke-width:1}"
)


def panel(title: str, before: Tensor, after: Tensor, tokens: list[str], x: int, y: int) -> list[str]:
    """One bar chart with axes, its bars at (x, y): probabilities (TOKENS,) in percent."""
    top = max(before.max().item(), after.max().item())
    step = next(step for step in (0.05, 0.1, 0.2, 0.5) if top / step <= 3)
    scale, bottom, right = HEIGHT / top, y + HEIGHT, x + TOKENS * BAR
    lines = [f'<text x="{x}" y="{y - 12}" class="title">{escape(title)}</text>']
    for tick in range(int(top / step) + 1):
        level = bottom - tick * step * scale
        lines.append(f'<line class="grid" x1="{x}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}"/>')
        lines.append(f'<text x="{x - 5}" y="{level + 4:.1f}" text-anchor="end">{tick * step:.0%}</text>')
    for i, (was, now, token) in enumerate(zip(before.tolist(), after.tolist(), tokens, strict=True)):
        for value, kind, inset in ((was, "before", 2), (now, "after", 6)):
            if value:
                lines.append(
                    f'<rect class="{kind}" x="{x + i * BAR + inset}" y="{bottom - value * scale:.1f}" '
                    f'width="{BAR - 2 * inset}" height="{value * scale:.1f}">'
                    f"<title>{escape(token)}: {was:.1%}, after the filter {now:.1%}</title></rect>"
                )
        middle = x + i * BAR + BAR / 2
        label = token if len(token) <= 2 else token[:1] + "…"
        lines.append(f'<text class="token" x="{middle}" y="{bottom + 14}" text-anchor="middle">{escape(label)}</text>')
    lines.append(f'<line class="axis" x1="{x}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "filters.svg")
    args = parser.parse_args()
    model, tokenizer = llama_jp.load(args.model, dtype="float32", device="cpu")
    ids = torch.tensor([tokenizer.encode(args.prompt)])
    with torch.no_grad():
        logits = model(ids, last_only=True)[:, -1].float()
    before = logits.softmax(-1)[0]
    order = before.topk(TOKENS).indices
    tokens = [tokenizer.vocabulary.text(i) for i in order.tolist()]

    lines = []
    wide, high = LEFT + TOKENS * BAR + RIGHT, ABOVE + HEIGHT + BELOW
    for number, options in enumerate(PANELS):
        scores = logits
        for filter in make_filters(Options(do_sample=True, **options)):
            scores = filter(ids, scores)
        ((name, value),) = options.items()
        x, y = LEFT + number % COLUMNS * wide, ABOVE + number // COLUMNS * high
        lines += panel(f"{name} {value}", before[order], scores.softmax(-1)[0][order], tokens, x, y)

    width, height = COLUMNS * wide, -(-len(PANELS) // COLUMNS) * high
    args.out.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">\n'
        f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(lines) + "\n</svg>\n",
        encoding="utf-8",
    )
    print(args.out)


if __name__ == "__main__":
    main()
