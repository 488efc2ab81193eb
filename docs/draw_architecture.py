"""Draw docs/architecture.svg and docs/architecture.ja.svg: the model with its shapes at ELYZA's sizes.

    python docs/draw_architecture.py

Every number is computed from the configuration and from the shapes of the model's weights, and every name of code is
the name of an object in llama_jp. The picture has a light and a dark version, and the reader's system chooses.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from llama_jp import model as code
from llama_jp.cache import LayerCache
from llama_jp.config import LlamaConfig
from llama_jp.model import Llama, SwiGLU
from llama_jp.rope import make_rope

SIZES = LlamaConfig(
    vocab_size=32000,
    hidden_size=4096,
    intermediate_size=11008,
    num_hidden_layers=32,
    num_attention_heads=32,
    rms_norm_eps=1e-6,
    max_position_embeddings=4096,
)
FAST_VOCABULARY = 45043  # of the two "fast" models, which are equal otherwise

WIDTH, MARGIN, RAIL = 640, 28, 40  # of the picture, of its margin; x of the residual stream
LEFT, RIGHT, NOTES = 76, 436, 452  # the boxes; the names of code beside them
CENTRE = (LEFT + RIGHT) / 2
HIGH, GAP = 46, 20  # of a box; between two boxes, for the arrow

JAPANESE = {
    "ids": "トークンの id",
    "embedding": "埋め込み",
    "residual stream": "残差ストリーム",
    "attention": "アテンション",
    "rotation (RoPE)": "回転（RoPE）",
    "KV cache": "KV キャッシュ",
    "{} KiB per token": "トークンあたり {} KiB",
    "scores": "スコア",
    "mask": "マスク",
    "logits": "ロジット",
    "parameters": "パラメーター",
    "B batch · T new tokens · S visible tokens (with the cached ones)": "B バッチ・T 新しいトークン・S 見えるトークン",
    "with the vocabulary of the fast models": "語彙の大きい fast モデルでは",
    "where the parameters are": "パラメーターの内訳",
    "embedding and head": "埋め込みとヘッド",
}

PLAIN = ("paper", "ink", "muted", "line", "frame", "accent")  # the other colours are a fill and an edge
LIGHT = {
    "paper": "#fdfcf9", "ink": "#1f2328", "muted": "#667085",
    "line": "#98a2b3", "frame": "#d5d0c5", "accent": "#d9480f",
    "plain": "#f4f1ea #d3cdbf", "attention": "#e6effa #8fb4e0", "mlp": "#e6f4e8 #8fc197", "cache": "#f0e9fb #b79ee2",
}  # fmt: skip
DARK = {
    "paper": "#14171c", "ink": "#e8eaed", "muted": "#9aa4b2",
    "line": "#6b7686", "frame": "#3a414c", "accent": "#ff8a4c",
    "plain": "#22262d #4b5361", "attention": "#16283d #3f72aa", "mlp": "#16301d #4c8a5a", "cache": "#281f3d #7d62bd",
}  # fmt: skip


def style(colours: dict[str, str]) -> str:
    """The rules for one theme."""
    paper, ink, muted, line, frame, accent = (colours[name] for name in PLAIN)
    rules = {
        "text": f"fill:{ink}",
        ".muted": f"fill:{muted}",
        ".paper": f"fill:{paper};stroke:{frame}",
        ".frame": f"fill:none;stroke:{frame}",
        ".line": f"fill:none;stroke:{line}",
        ".tip": f"fill:{line}",
        ".rail": f"fill:none;stroke:{accent}",
        ".accent": f"fill:{accent}",
        ".sum": f"fill:{paper};stroke:{accent}",
    }
    for name in colours.keys() - set(PLAIN):
        fill, edge = colours[name].split()
        rules[f".{name}"] = f"fill:{fill};stroke:{edge}"
    return "".join(f"{selector}{{{rules[selector]}}}" for selector in sorted(rules))


FONTS = (
    "text{font:15px system-ui,-apple-system,'Segoe UI','Hiragino Sans','Noto Sans JP','Noto Sans CJK JP',sans-serif}"
    ".code{font:13px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}"
    ".title{font-size:24px;font-weight:700}.name{font-weight:600}.small{font-size:13px}.narrow{font-size:12px}"
    ".m{text-anchor:middle}"
)


class Picture:
    """The lines of an SVG, drawn from the top; `y` is the height of the next line."""

    def __init__(self, japanese: bool) -> None:
        self.japanese = japanese
        self.lines: list[str] = []
        self.y = 0.0

    def word(self, english: str) -> str:
        return JAPANESE[english] if self.japanese else english

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        self.lines.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(words)}</text>')

    def line(self, path: str, kind: str = "line", width: float = 1.5) -> None:
        self.lines.append(f'<path class="{kind}" stroke-width="{width}" d="{path}"/>')

    def arrow(self, x: float, y: float, to_x: float, to_y: float, kind: str = "line") -> None:
        """A horizontal or vertical line with its tip at the end."""
        dx, dy = (to_x > x) - (to_x < x), (to_y > y) - (to_y < y)
        width, tip = (3, "accent") if kind == "rail" else (1.5, "tip")
        self.line(f"M{x:g} {y:g}L{to_x - 6 * dx:g} {to_y - 6 * dy:g}", kind, width)
        back_x, back_y = to_x - 8 * dx, to_y - 8 * dy
        wings = f"L{back_x - 4 * dy:g} {back_y - 4 * dx:g}L{back_x + 4 * dy:g} {back_y + 4 * dx:g}"
        self.lines.append(f'<path class="{tip}" d="M{to_x:g} {to_y:g}{wings}Z"/>')

    def rect(self, kind: str, x: float, y: float, width: float, height: float, more: str = "") -> None:
        size = f'x="{x:.4g}" y="{y:g}" width="{width:.4g}" height="{height:g}"'
        self.lines.append(f'<rect class="{kind}" {size} {more} stroke-width="1.5"/>')

    def box(self, kind: str, name: str, detail: str, left: float = LEFT, right: float = RIGHT) -> float:
        """A box with a name and a line of code inside. Returns the y of its middle."""
        self.rect(kind, left, self.y, right - left, HIGH, 'rx="7"')
        self.text((left + right) / 2, self.y + 19, name, "name m")
        self.text((left + right) / 2, self.y + 37, detail, "code m")
        return self.y + HIGH / 2

    def notes(self, *lines: str, muted: str = "", skip: int = 0) -> None:
        """The names of code beside a box, and a number below them. `skip` leaves lines free above them."""
        for i, line in enumerate(lines, skip):
            self.text(NOTES, self.y + 18 + 18 * i, line, "code")
        self.text(NOTES, self.y + 18 + 18 * (len(lines) + skip), muted, "small muted")

    def down(self, x: float = CENTRE) -> None:
        """Leave a box by an arrow to the next one."""
        self.y += HIGH + GAP
        self.arrow(x, self.y - GAP, x, self.y)

    def fork(self, columns: list[float]) -> None:
        """Leave a box by one arrow to each of several."""
        self.y += HIGH
        self.line(f"M{CENTRE:g} {self.y:g}v8M{columns[0]:g} {self.y + 8:g}H{columns[-1]:g}")
        for x in columns:
            self.arrow(x, self.y + 8, x, self.y + GAP)
        self.y += GAP

    def norm(self, module: nn.Module, parent: nn.Module, skip: int = 0) -> float:
        """The box of a norm. Returns the y of its middle."""
        self.notes(call(code.rms_norm), skip=skip)
        return self.box("plain", type(module).__name__, name_of(module, parent))

    def add(self, y: float, module: nn.Module, block: nn.Module) -> None:
        """The arrow from a box to the residual stream, its plus, and the line of `Block.forward`."""
        self.arrow(LEFT, y, RAIL + 11, y)
        self.lines.append(f'<circle class="sum" cx="{RAIL}" cy="{y:g}" r="10" stroke-width="2.5"/>')
        self.line(f"M{RAIL - 5} {y:g}h10m-5 -5v10", "rail", 2.5)
        self.notes(f"{type(block).__name__}.forward", muted=f"x + {name_of(module, block)}(…)")


def call(function: Callable[..., object]) -> str:
    return f"{function.__name__}()"


def name_of(module: nn.Module, parent: nn.Module) -> str:
    """The name of a module in its parent."""
    return next(name for name, child in parent.named_children() if child is module)


def weights(*modules: nn.Module) -> int:
    """The number of weights in some modules."""
    return sum(weight.numel() for module in modules for weight in module.parameters())


def millions(*modules: nn.Module) -> str:
    return f"{weights(*modules) / 1e6:,.1f} M"


def shape(linear: nn.Module) -> str:
    """The sizes of a linear layer's input and output."""
    outputs, inputs = linear.weight.shape
    return f"{inputs} → {outputs}"


def spread(count: int, space: float = 12) -> list[tuple[float, float]]:
    """The left and right edges of boxes side by side."""
    width = (RIGHT - LEFT - (count - 1) * space) / count
    return [(LEFT + i * (width + space), LEFT + i * (width + space) + width) for i in range(count)]


def middle(edges: tuple[float, float]) -> float:
    return sum(edges) / 2


def draw_title(picture: Picture, llama: Llama, fast_vocabulary: int) -> None:
    total, C = weights(llama), llama.config.hidden_size
    more = 2 * (fast_vocabulary - llama.config.vocab_size) * C  # rows of the embedding and of the head
    picture.text(MARGIN, 46, "ELYZA-japanese-Llama-2-7b", "title")
    picture.text(MARGIN, 72, f"{total:,} {picture.word('parameters')}", "name")
    fast = picture.word("with the vocabulary of the fast models")
    picture.text(MARGIN, 93, f"{fast}: {total + more:,}", "small muted")
    legend = picture.word("B batch · T new tokens · S visible tokens (with the cached ones)")
    picture.text(MARGIN, 114, legend, "small muted")
    picture.y = 134


def draw_attention(picture: Picture, block: nn.Module, config: LlamaConfig) -> None:
    attention, word = block.self_attn, picture.word
    H, K, D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    y = picture.norm(block.input_layernorm, block, skip=1)
    picture.arrow(RAIL, y, LEFT, y)
    columns = spread(3)
    q, k, v = map(middle, columns)
    picture.fork([q, k, v])
    for edges, name in zip(columns, ("q_proj", "k_proj", "v_proj"), strict=True):
        picture.box("attention", name, shape(getattr(attention, name)), *edges)
    picture.notes(type(attention).__name__, muted=millions(attention))
    picture.y += HIGH
    for x, heads in ((q, H), (k, K), (v, K)):
        picture.text(x, picture.y + 15, f"(B, {heads}, T, {D})", "code narrow muted m")
    projected = picture.y + 20
    picture.y += 34

    for x in (q, k):
        picture.arrow(x, projected, x, picture.y)
    picture.box("attention", word("rotation (RoPE)"), f"cos, sin (B, T, {D})", columns[0][0], columns[1][1])
    picture.notes(call(code.rotate), call(make_rope))
    rotated = picture.y + HIGH
    picture.down(k)

    cached = 2 * config.num_hidden_layers * K * D * 2 // 1024  # keys and values of all layers, two bytes each
    picture.arrow(v, projected, v, picture.y)
    picture.box("cache", word("KV cache"), f"k, v (B, {K}, S, {D})", columns[1][0], columns[2][1])
    append = f"{LayerCache.__name__}.{call(LayerCache.append)}"
    picture.notes(append, muted=word("{} KiB per token").format(cached))
    picture.down(k)

    picture.arrow(q, rotated, q, picture.y)
    picture.arrow(v, picture.y - GAP, v, picture.y)
    scores = f"{word('scores')} (B, {H}, T, S) → (B, {H}, T, {D})"
    picture.box("attention", f"softmax(q kᵀ / √{D} + {word('mask')}) v", scores)
    picture.notes(call(code.attend_sdpa), call(code.attend_eager), call(code.positions_and_mask))
    picture.down()
    picture.add(picture.box("attention", "o_proj", shape(attention.o_proj)), attention, block)
    picture.y += HIGH


def draw_mlp(picture: Picture, block: nn.Module, config: LlamaConfig) -> None:
    mlp = block.mlp
    y = picture.norm(block.post_attention_layernorm, block)
    picture.arrow(RAIL, y, LEFT, y)
    columns = spread(2)
    picture.fork([*map(middle, columns)])
    for edges, name in zip(columns, ("gate_proj", "up_proj"), strict=True):
        picture.box("mlp", name, shape(getattr(mlp, name)), *edges)
        picture.arrow(middle(edges), picture.y + HIGH, middle(edges), picture.y + HIGH + GAP)
    picture.notes(type(mlp).__name__, muted=millions(mlp))
    picture.y += HIGH + GAP
    picture.box("mlp", f"{F.silu.__name__}(gate) · up", f"(B, T, {config.intermediate_size})")
    picture.down()
    picture.add(picture.box("mlp", "down_proj", shape(mlp.down_proj)), mlp, block)
    picture.y += HIGH


def draw_shares(picture: Picture, llama: Llama) -> None:
    """A bar with the parameters of each kind."""
    kinds = {
        "attention": (picture.word("attention"), [block.self_attn for block in llama.layers]),
        "mlp": (SwiGLU.__name__, [block.mlp for block in llama.layers]),
        "plain": (picture.word("embedding and head"), [llama.embed_tokens, llama.lm_head]),
    }
    picture.text(MARGIN, picture.y, picture.word("where the parameters are"), "small muted")
    x = float(MARGIN)
    for i, (kind, (name, modules)) in enumerate(kinds.items()):
        share = weights(*modules) / weights(llama)
        picture.rect(kind, x, picture.y + 10, (WIDTH - 2 * MARGIN) * share, 18)
        x += (WIDTH - 2 * MARGIN) * share
        picture.rect(kind, MARGIN + 190 * i, picture.y + 36, 12, 12, 'rx="3"')
        picture.text(MARGIN + 190 * i + 19, picture.y + 47, f"{name} {share:.1%}", "small")
    picture.y += 67


def draw(config: LlamaConfig, fast_vocabulary: int, japanese: bool) -> str:
    """The picture of a model as the text of an SVG."""
    picture = Picture(japanese)
    word = picture.word
    with torch.device("meta"):  # shapes without memory
        llama = Llama(config)
    C, V = config.hidden_size, config.vocab_size
    draw_title(picture, llama, fast_vocabulary)
    picture.text(CENTRE, picture.y + 12, f"{word('ids')} (B, T)", "m")
    picture.arrow(CENTRE, picture.y + 20, CENTRE, picture.y + 38)
    picture.y += 38
    embedding = name_of(llama.embed_tokens, llama)
    start = picture.box("plain", word("embedding"), f"{embedding} {V} (fast {fast_vocabulary}) × {C}")
    picture.notes(Llama.__name__, muted=millions(llama.embed_tokens))
    picture.y += HIGH + 22
    picture.text(RAIL + 14, picture.y, f"{word('residual stream')} (B, T, {C})", "small accent")
    picture.y += 16

    block, top = llama.layers[0], picture.y
    picture.text(NOTES, top + 27, f"{type(block).__name__} × {config.num_hidden_layers}", "name")
    picture.y += 14
    draw_attention(picture, block, config)
    picture.y += 26
    draw_mlp(picture, block, config)
    picture.y += 14
    bottom = picture.y
    picture.y += GAP

    end = picture.norm(llama.norm, llama)
    picture.arrow(RAIL, end, LEFT, end, "rail")
    picture.down()
    picture.box("plain", name_of(llama.lm_head, llama), f"{shape(llama.lm_head)} (fast {fast_vocabulary})")
    picture.notes(Llama.__name__, muted=millions(llama.lm_head))
    picture.down()
    picture.text(CENTRE, picture.y + 16, f"{word('logits')} (B, T, {V})", "m")
    picture.y += 50
    draw_shares(picture, llama)

    height = round(picture.y)
    below = Picture(japanese)  # what the boxes and arrows lie on
    below.rect("paper", 0.75, 0.75, WIDTH - 1.5, height - 1.5, 'rx="14"')
    below.rect("frame", 16, top, WIDTH - 32, bottom - top, 'rx="12" stroke-dasharray="5 4"')
    below.line(f"M{LEFT} {start:g}H{RAIL}V{end:g}", "rail", 3)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
            f' lang="{"ja" if japanese else "en"}">',
            f"<style>{FONTS}{style(LIGHT)}@media(prefers-color-scheme:dark){{{style(DARK)}}}</style>",
            *below.lines,
            *picture.lines,
            "</svg>\n",
        ]
    )


def main() -> None:
    for name, japanese in (("architecture.svg", False), ("architecture.ja.svg", True)):
        file = Path(__file__).parent / name
        file.write_text(draw(SIZES, FAST_VOCABULARY, japanese), encoding="utf-8")
        print(file)


if __name__ == "__main__":
    main()
