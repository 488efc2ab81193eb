"""The numbers, the picture and the claims of chapter 12: mistakes, and whether anybody would notice them."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple
from unittest.mock import patch

import torch
import torch.nn.functional as F
from demo import Demo, fixed
from drawing import Picture
from torch import Tensor, nn

import llama_jp.model
from docs.learn import mystery
from llama_jp.cli import main
from llama_jp.rope import inverse_frequencies

EPS = 1e-6
EMBEDDING, DEEP = "embed_tokens", "layers.3.after_attention"  # what two of the norms get


class Effect(NamedTuple):
    """What a mistake does to the logits of the right story."""

    move: float  # the largest change of a logit
    turn: int | None  # the first token that greedy search would choose differently
    perplexity: float


def story_logits(model: llama_jp.Llama, prompt: list[int], story: list[int]) -> Tensor:
    """Row t scores token t of the story: (134, V)."""
    return model(torch.tensor([prompt + story]))[0, len(prompt) - 1 : -1]


# --- the mistakes: each computes the logits of the right story --------------------------------------------------------


def other_norm(change: Callable[..., tuple[Tensor, float]], demo: Demo) -> Tensor:
    """`change` turns (x, eps) into what RMSNorm gets."""
    right = demo.model.norm.norm

    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x, eps = change(x, eps)
        return right(x, weight, eps)

    return story_logits(demo.load(norm=norm), demo.prompt, demo.story)


def other_eps(eps: float) -> Callable[[Demo], Tensor]:
    return partial(other_norm, lambda x, _: (x, eps))


def other_rope(theta: float, first: int, demo: Demo) -> Tensor:
    def rope(positions: Tensor) -> tuple[Tensor, Tensor]:
        angles = (positions + first)[..., None].double() * inverse_frequencies(theta, 64).double()
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    return story_logits(demo.load(rope=rope), demo.prompt, demo.story)


def other_start(start: list[int], skip: int, demo: Demo) -> Tensor:
    return story_logits(demo.model, start + demo.prompt[skip:], demo.story)


def other_mlp(forward: Callable[[nn.Module, Tensor], Tensor], demo: Demo) -> Tensor:
    model = demo.load()
    for layer in model.layers:
        layer.mlp.forward = partial(forward, layer.mlp)
    return story_logits(model, demo.prompt, demo.story)


def other_rotation(rotate: Callable[..., Tensor], demo: Demo) -> Tensor:
    with patch.object(llama_jp.model, "rotate", rotate):
        return story_logits(demo.model, demo.prompt, demo.story)


def neighbours(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[2i], x[2i + 1])."""
    cos, sin = (each[:, None, :, : x.shape[-1] // 2].repeat_interleave(2, -1) for each in (cos, sin))
    return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin


def unscaled(demo: Demo) -> Tensor:
    right = demo.model.layers[0].self_attn.attend
    model = demo.load(attention=lambda q, k, v, mask: right(q * q.shape[-1] ** 0.5, k, v, mask))
    return story_logits(model, demo.prompt, demo.story)


def look_ahead(demo: Demo, whole: bool = False) -> Tensor:
    """Each query sees one key ahead, where there is one: in the prefill of the prompt, or in the whole text."""
    right = demo.model.layers[0].self_attn.attend

    def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        T, S = q.shape[2], k.shape[2]
        return right(q, k, v, torch.ones(T, S, dtype=torch.bool).tril(S - T + 1))

    model = demo.load(attention=attend)
    if whole:
        return story_logits(model, demo.prompt, demo.story)
    cache = model.new_cache(max_length=len(demo.ids))
    first = model(torch.tensor([demo.prompt]), cache, last_only=True)[0]
    return torch.cat((first, demo.model(torch.tensor([demo.story[:-1]]), cache)[0]))


MISTAKES: dict[str, Callable[[Demo], Tensor]] = {
    "from1": partial(other_rope, 10000.0, 1),
    "eps5": other_eps(1e-5),
    "eps4": other_eps(1e-4),
    "ahead": look_ahead,
    "bos2": partial(other_start, [1], 0),
    "theta9": partial(other_rope, 9000.0, 0),
    "bos0": partial(other_start, [], 1),
    "layernorm": partial(other_norm, lambda x, eps: (x - x.mean(-1, keepdim=True), eps)),
    "eps3": other_eps(1e-3),
    "gelu": partial(other_mlp, lambda mlp, x: mlp.down_proj(F.gelu(mlp.gate_proj(x)) * mlp.up_proj(x))),
    "theta500": partial(other_rope, 500000.0, 0),
    "swapped": partial(other_mlp, lambda mlp, x: mlp.down_proj(F.silu(mlp.up_proj(x)) * mlp.gate_proj(x))),
    "unscaled": unscaled,
    "neighbours": partial(other_rotation, neighbours),
    "norope": partial(other_rotation, lambda x, cos, sin: x),
}


@lru_cache
def effects(demo: Demo) -> dict[str, Effect]:
    return {name: effect(demo, logits(demo)) for name, logits in MISTAKES.items()}


def effect(demo: Demo, logits: Tensor) -> Effect:
    story = torch.tensor(demo.story)
    turned = (logits.argmax(-1) != story).nonzero().flatten().tolist()
    move = (logits - demo.logits[len(demo.prompt) - 1 : -1]).abs().max().item()
    return Effect(move, turned[0] if turned else None, F.cross_entropy(logits, story).exp().item())


def mean_square(demo: Demo, point: str) -> float:
    return demo.trace()[point][0, demo.where("クマ")[0]].pow(2).mean().item()


def numbers(demo: Demo) -> dict[str, str]:
    result = {}
    for name, each in effects(demo).items():
        result[f"{name}.move"] = fixed(each.move, 3 if each.move < 0.1 else 2 if each.move < 10 else 1)
        result[f"{name}.turn"] = "—" if each.turn is None else str(each.turn)
        result[f"{name}.perplexity"] = fixed(each.perplexity, 2)
    margins = demo.logits[len(demo.prompt) - 1 : -1].topk(2).values
    first, deep = mean_square(demo, EMBEDDING), mean_square(demo, DEEP)
    return result | {
        "right.perplexity": fixed(demo.perplexity(demo.logits), 2),
        "whole.move": fixed(effect(demo, look_ahead(demo, whole=True)).move, 1),
        "margin.above1": str(int((margins[:, 0] - margins[:, 1] > 1).sum())),
        "ms": fixed(first, 6),
        "ms.eps": fixed(first + EPS, 6),
        "ms.10eps": fixed(first + 10 * EPS, 6),
        "quotient": fixed((first + EPS) / (first + 10 * EPS), 5),
        "ratio": fixed(((first + EPS) / (first + 10 * EPS)) ** 0.5, 4),
        "deep.ms": fixed(deep, 1),
        "deep.change": f"{9 * EPS / deep / 2 * 1e7:.0f}",
    }


def pictures(demo: Demo) -> dict[str, str]:
    common = {
        "eps5": "eps 1e-5", "eps4": "eps 1e-4", "eps3": "eps 1e-3", "bos2": "<s> × 2", "bos0": "<s> × 0",
        "theta9": "θ 9,000", "theta500": "θ 500,000", "layernorm": "LayerNorm", "gelu": "GELU",
        "swapped": "up ↔ gate", "unscaled": "1/√D", "norope": "RoPE",
    }  # fmt: skip
    english = {"ahead": "mask +1", "neighbours": "neighbours", "norope": "no RoPE", "unscaled": "no 1/√D"}
    japanese = {"ahead": "マスク +1", "neighbours": "隣どうし", "norope": "RoPE なし", "unscaled": "1/√D なし"}
    return {
        "12-mistakes": draw(demo, "How far a mistake moves the logits, and where the story turns",
                            "largest change of a logit (log scale)", "token where the story turns", "never",
                            common | english),
        "12-mistakes.ja": draw(demo, "間違いはロジットをどれだけ動かし、お話はどこで変わるか",
                               "ロジットの動きの最大（対数）", "お話が変わるトークン", "不変", common | japanese),
    }  # fmt: skip


# Where a label stands, seen from its dot in pixels, and its anchor
LABELS = {
    "eps5": (9, 4, "start"), "eps4": (-9, 4, "end"), "ahead": (-6, 32, "end"), "bos2": (-3, 52, "end"),
    "theta9": (8, 36, "start"), "bos0": (9, 4, "start"), "layernorm": (-9, 4, "end"), "eps3": (-9, 4, "end"),
    "gelu": (-9, 4, "end"), "theta500": (-9, 4, "end"), "swapped": (-12, 4, "end"), "unscaled": (18, -62, "start"),
    "neighbours": (14, -41, "start"), "norope": (9, -20, "start"),
}  # fmt: skip


def draw(demo: Demo, title: str, x_label: str, y_label: str, never: str, labels: dict[str, str]) -> str:
    picture = Picture(title, 720, 420)
    lane = picture.top + 20
    picture.box(picture.left, lane - 12, picture.right - picture.left, 24, "soft", opacity=0.7)
    picture.text(picture.left - 8, lane + 4, never, "faint small", anchor="end")
    picture.top += 76
    x = picture.x_axis([0.01, 0.1, 1, 10, 100], x_label, log=True)
    y = picture.y_axis([0, 20, 40, 60, 80, 100, 120], y_label)
    for name, (dx, dy, anchor) in LABELS.items():
        each = effects(demo)[name]
        place = x(each.move), lane if each.turn is None else y(each.turn)
        if abs(dy) > 9:
            picture.line([place, (place[0] + dx, place[1] + dy - 4)], "faint", 0.8)
        picture.dot(*place, "a" if each.turn is None else "b", 4.5)
        picture.text(place[0] + dx, place[1] + dy, labels[name], "small", anchor=anchor)
    return str(picture)


def claims(demo: Demo) -> None:
    found, right = effects(demo), demo.perplexity(demo.logits)
    moves = [each.move for each in found.values()]
    assert moves == sorted(moves), "the table is in the order of the movement"
    assert [each.turn for each in found.values()][:7] == [None] * 7 and None not in list(found.values())[7:]
    assert all(abs(each.perplexity - right) < 0.01 for each in list(found.values())[7:10]), "the next three are fluent"
    assert found["layernorm"].perplexity < right, "LayerNorm is a little better"
    assert found["from1"].move < 1e-3, "positions from 1 move the logits by roundings only"
    squares = [mean_square(demo, point) for i in range(6) for point in (f"layers.{i}.after_attention", f"layers.{i}")]
    assert min(squares) > mean_square(demo, EMBEDDING), "the first norm is where the bear changes most"
    first = demo.model.rope
    shifted = demo.load(rope=lambda positions: first(positions + 1))
    cause = llama_jp.compare(shifted, demo.model, torch.tensor([demo.prompt])).bug.cause
    assert cause == "position offset: every position is off by +1", "parity names the shifted positions"
    for suspect in (mystery.one(), mystery.three()):
        predicted = story_logits(suspect, demo.prompt, demo.story).argmax(-1).tolist()
        assert predicted == demo.story, "the suspects tell the right story; the second one tells it in its exercise"
    command = "parity --model docs.learn.mystery:three --against demo --dtype float32 --attention eager"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(command.split()) == 0, "the command finds no difference in the third"
    assert "whole  equal" in printed.getvalue()
