"""Draw docs/filters.svg: the effect of each filter on the distribution of one next token.

    python docs/make_pictures.py

Each panel shows the most probable pieces from left to right. Grey bars are the model's probabilities, narrow coloured
bars the probabilities after the filter. The token is a fork of demo's greedy story (docs/learn/09-choosing.md): several
pieces are probable there, and two of them occurred before, so every filter shows.
"""

from __future__ import annotations

import argparse
import sys
from html import escape
from pathlib import Path

import torch
from torch import Tensor

import llama_jp
from llama_jp.generation.filter_chain import make_filters
from llama_jp.generation.options import Options

sys.path.insert(0, str(Path(__file__).parent / "learn"))

from drawing import style

REQUEST = "クマが海辺に行ってアザラシと友達になり、最終的には家に帰るというプロットの短編小説を書いてください。"
ANSWERED = 12  # tokens of the greedy answer before the fork: 「おはよう。」はずかしがりやのクマは、…をしました。
PANELS = [
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 4},
    {"top_p": 0.9},
    {"min_p": 0.15},
    {"typical_p": 0.25},
    {"epsilon_cutoff": 0.1},
    {"eta_cutoff": 0.1},
    {"top_h": 0.8},
    {"repetition_penalty": 1.2},
    {"frequency_penalty": 1.0},
    {"no_repeat_ngram_size": 1},
]
PIECES, COLUMNS = 9, 3
BAR, HEIGHT = 28, 96
LEFT, RIGHT, ABOVE, BELOW = 52, 14, 38, 50  # around the bars of a panel
LONGEST = 4  # characters of a label, which are written downwards


def panel(title: str, before: Tensor, after: Tensor, pieces: list[str], x: int, y: int) -> list[str]:
    """One bar chart with axes, its bars at (x, y): probabilities (PIECES,)."""
    top = max(before.max().item(), after.max().item())
    step = next(step for step in (0.05, 0.1, 0.2, 0.5) if top / step <= 3)
    scale, bottom, right = HEIGHT / top, y + HEIGHT, x + PIECES * BAR
    lines = [f'<text x="{x}" y="{y - 14}">{escape(title)}</text>']
    for tick in range(int(top / step) + 1):
        level = bottom - tick * step * scale
        lines.append(f'<line class="soft" x1="{x}" x2="{right}" y1="{level:.1f}" y2="{level:.1f}"/>')
        lines.append(
            f'<text class="faint small" x="{x - 6}" y="{level + 4:.1f}" text-anchor="end">{tick * step:.0%}</text>'
        )
    for i, (was, now, piece) in enumerate(zip(before.tolist(), after.tolist(), pieces, strict=True)):
        for value, kind, inset in ((was, "faint-fill", 3), (now, "b-fill", 9)):
            if value:
                faded = ' fill-opacity="0.5"' if kind == "faint-fill" else ""
                lines.append(
                    f'<rect class="{kind}"{faded} x="{x + i * BAR + inset}" y="{bottom - value * scale:.1f}" '
                    f'width="{BAR - 2 * inset}" height="{value * scale:.1f}">'
                    f"<title>{escape(piece)}: {was:.1%}, after the filter {now:.1%}</title></rect>"
                )
        label = piece if len(piece) <= LONGEST else piece[: LONGEST - 1] + "…"
        middle = x + i * BAR + BAR / 2
        for row, character in enumerate(label):
            lines.append(
                f'<text class="small" x="{middle}" y="{bottom + 13 + 11 * row}" text-anchor="middle">'
                f"{escape(character)}</text>"
            )
    return [*lines, f'<path class="faint" d="M{x},{y} V{bottom} H{right}"/>']  # the axes


def next_logits(
    model: llama_jp.Llama, tokenizer: llama_jp.Tokenizer, request: str = REQUEST, answered: int = ANSWERED
) -> tuple[Tensor, Tensor]:
    """The ids (1, T) of the request and the begin of its greedy answer, and the logits (1, V) of the next token."""
    prompt = llama_jp.instruct_prompt(tokenizer, request)
    answer = llama_jp.generate(model, [prompt], max_new_tokens=answered, do_sample=False)[0].ids
    ids = torch.tensor([prompt + answer])
    with torch.no_grad():
        return ids, model(ids, last_only=True)[:, -1].float()


def probabilities(ids: Tensor, logits: Tensor, options: dict[str, float]) -> Tensor:
    """The probabilities (V,) after the filters of these options."""
    for filter in make_filters(Options(do_sample=True, **options)):
        logits = filter(ids, logits)
    return logits.softmax(-1)[0]


def draw(ids: Tensor, logits: Tensor, tokenizer: llama_jp.Tokenizer) -> str:
    """The picture as SVG text."""
    before = logits.softmax(-1)[0]
    order = before.topk(PIECES).indices
    pieces = [tokenizer.vocabulary.text(token_id) for token_id in order.tolist()]

    lines = []
    wide, high = LEFT + PIECES * BAR + RIGHT, ABOVE + HEIGHT + BELOW
    for number, options in enumerate(PANELS):
        after = probabilities(ids, logits, options)
        ((name, value),) = options.items()
        x, y = LEFT + number % COLUMNS * wide, ABOVE + number // COLUMNS * high
        lines += panel(f"{name} {value}", before[order], after[order], pieces, x, y)

    width, height = COLUMNS * wide, -(-len(PANELS) // COLUMNS) * high
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'xml:lang="ja">\n<style>{style()}</style>\n<rect class="paper" width="100%" height="100%" rx="6"/>\n'
        + "\n".join(lines)
        + "\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--request", default=REQUEST)
    parser.add_argument("--answered", type=int, default=ANSWERED, help="tokens of the greedy answer before the token")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "filters.svg")
    args = parser.parse_args()
    model, tokenizer = llama_jp.load(args.model, dtype="float32", device="cpu")
    args.out.write_text(draw(*next_logits(model, tokenizer, args.request, args.answered), tokenizer), encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
