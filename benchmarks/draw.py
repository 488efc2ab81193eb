"""Draw the results of compare.py: the share of the memory bandwidth that each contender reaches in decoding.

    python benchmarks/compare.py > comparison.txt
    python benchmarks/draw.py comparison.txt --out docs/speed.svg

Uses the JSON line at the end of the file. The comparison must be one of ELYZA's width.
"""

from __future__ import annotations

import argparse
import json
from html import escape
from pathlib import Path

from llama_jp.checkpoint.random_checkpoint import random_config

# Bits per weight in memory, including its share of the scales. The int4 files of llama_jp have an int8 head.
BITS = {"Q8_0": 8.5, "Q4_0": 4.5, "Q4_K_M": 4.85, "int8": 8, "int4": 4.25, "F32": 32}
BITS_OF_DTYPE = {"bfloat16": 16, "float16": 16, "float32": 32}
ROW, LEFT, WIDTH, TOP = 24, 210, 420, 44


def weights_per_step(shape: str, layers: int) -> int:
    """The number of weights that a decoding step loads: all matrices except the embedding."""
    c = random_config(shape, layers)
    attention = c.hidden_size * c.head_dim * (2 * c.num_attention_heads + 2 * c.num_key_value_heads)
    mlp = 3 * c.hidden_size * c.intermediate_size
    return layers * (attention + mlp) + c.hidden_size * c.vocab_size


def bits_of(name: str, dtype: str) -> float:
    return next((bits for kind, bits in BITS.items() if kind in name), BITS_OF_DTYPE[dtype])


def draw(result: dict) -> str:
    settings, bandwidth = result["settings"], result["limits"]["bandwidth"]
    weights = weights_per_step(settings["shape"], settings["layers"])
    # Speculation computes several tokens per step, so its tokens per second do not give a share of the bandwidth.
    drafts = ("lookup", "self:int8", "self:int4")
    found = {name: columns for name, columns in result["rates"].items() if not name.endswith(drafts)}
    rates = {name: columns["decode 1"][0] for name, columns in found.items() if "decode 1" in columns}
    shares = {name: r * weights * bits_of(name, settings["dtype"]) / 8 / bandwidth for name, r in rates.items()}
    most = max(1.0, *shares.values())
    lines = []
    for i, name in enumerate(sorted(shares, key=lambda name: (bits_of(name, settings["dtype"]) < 16, -rates[name]))):
        y, width = TOP + i * ROW, WIDTH * shares[name] / most
        kind = "ours" if name.startswith("llama_jp") else "theirs"
        lines += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{ROW - 7}"/>',
            f'<text x="{LEFT + width + 6:.1f}" y="{y + 13}">{shares[name]:.0%}, {rates[name]:.1f} tokens/s</text>',
        ]
    height = TOP + len(shares) * ROW + 28
    full = LEFT + WIDTH / most
    cpu = result["environment"].get("cpu", "this machine")
    title = f"Decoding one text: share of the memory bandwidth ({bandwidth / 1e9:.0f} GB/s, {cpu}, 2 threads)"
    style = "text{font:12px sans-serif;fill:#222}.ours{fill:#c0392b}.theirs{fill:#9aa3ab}.limit{stroke:#222}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" width="800" height="{height}">\n'
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="12" y="24" style="font-weight:bold">{escape(title)}</text>\n'
        + "\n".join(lines)
        + f'\n<path class="limit" d="M{full:.1f} {TOP - 6}V{height - 24}" stroke-dasharray="3 3"/>\n'
        f'<text x="12" y="{height - 8}">{settings["layers"]} layers of ELYZA\'s width; above weights of 16 bits, '
        "below of 8 and 4</text>\n</svg>\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="the output of compare.py")
    parser.add_argument("--out", type=Path, default=Path("speed.svg"))
    parser.add_argument(
        "--bandwidth", type=float, metavar="BYTES", help="bytes per second, if another run measured more"
    )
    args = parser.parse_args()
    result = json.loads(args.file.read_text(encoding="utf-8").splitlines()[-1])
    if args.bandwidth:
        result["limits"]["bandwidth"] = args.bandwidth
    args.out.write_text(draw(result), encoding="utf-8")


if __name__ == "__main__":
    main()
