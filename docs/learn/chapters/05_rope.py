"""The numbers, the picture and the claims of chapter 5: RoPE."""

from __future__ import annotations

import math
from unittest.mock import patch

import torch
from demo import Demo, close, fixed
from drawing import Picture
from torch import Tensor

import llama_jp
from llama_jp.model import rotate

SENTENCE = "むかしむかし、クマが海辺に行きました。"
BEAR, SEASIDE = 4, 6  # positions in SENTENCE
ATTENTION = "layers.5.self_attn"
HEAD = 1
PAIRS = (0, 4, 8, 16, 31)
POSITIONS = range(13)


def head(demo: Demo, projection: str, position: int) -> Tensor:
    """A query or key of the chapter's head before the rotation: (D,)."""
    return demo.trace(SENTENCE)[f"{ATTENTION}.{projection}"][0, position].view(4, 64)[HEAD]


def turned(demo: Demo, x: Tensor, position: int) -> Tensor:
    """The vector (D,) of one head, rotated to a position."""
    cos, sin = demo.model.rope(torch.tensor([[position]]))
    return rotate(x[None, None, None], cos.to(x.dtype), sin.to(x.dtype)).flatten()


def score(demo: Demo, position: int, other: int) -> float:
    """The score of 海辺's query for クマ's key, were they at these positions."""
    query, key = head(demo, "q_proj", SEASIDE), head(demo, "k_proj", BEAR)
    return (turned(demo, query, position) @ turned(demo, key, other)).item() / 8


def frequency(pair: int) -> float:
    return 10000 ** (-2 * pair / 64)


def numbers(demo: Demo) -> dict[str, str]:
    key = head(demo, "k_proj", BEAR)
    rotated = demo.trace(SENTENCE)[f"{ATTENTION}.keys"][0, HEAD, BEAR]
    return {
        "first": fixed(key[0], 4),
        "second": fixed(key[32], 4),
        "cos4": fixed(math.cos(4), 4),
        "sin4": fixed(math.sin(4), 4),
        "first.turned": fixed(rotated[0], 3),
        "second.turned": fixed(rotated[32], 3),
        "length": fixed(math.hypot(key[0], key[32]), 2),
        "cos6": fixed(math.cos(6), 4),
        "sin6": fixed(math.sin(6), 4),
        "cos2": fixed(math.cos(2), 3),
        "score.2": fixed(score(demo, 6, 4), 4),
        "score.4": fixed(score(demo, 8, 4), 4),
        **{f"frequency.{pair}": f"{frequency(pair):.2g}" for pair in (4, 8, 16)},
        "frequency.31": fixed(frequency(31), 5),
        **{f"turn.{pair}": fixed(2 * math.pi / frequency(pair), 1 if pair < 16 else 0) for pair in PAIRS},
    }


def pictures(demo: Demo) -> dict[str, str]:
    return {
        "05-hands": draw(demo, "The hands of five pairs at positions 0 to 12", "pair", "one turn", "position"),
        "05-hands.ja": draw(demo, "五つの組の針。位置 0 から 12 まで", "組", "一周", "位置"),
    }


def draw(demo: Demo, title: str, pair_label: str, turn_label: str, position_label: str) -> str:
    """A row of clocks for each pair: the hand is (cos, sin) of the model's rotation."""
    cos, sin = (table[0] for table in demo.model.rope(torch.tensor([list(POSITIONS)])))
    step, left, top, radius = 46, 84, 82, 17
    picture = Picture(title, left + step * len(POSITIONS) + 96, top + 48 * len(PAIRS) - 6)
    picture.text(left - 40, top - 22, pair_label, "faint small")
    picture.text(left + step * len(POSITIONS) + 34, top - 22, turn_label, "faint small")
    for row, pair in enumerate(PAIRS):
        y = top + 48 * row + 12
        picture.text(left - 40, y + 5, str(pair))
        turn = 2 * math.pi / frequency(pair)
        picture.text(left + step * len(POSITIONS) + 34, y + 5, f"{turn:,.1f}" if turn < 100 else f"{turn:,.0f}")
        for position in POSITIONS:
            x = left + step * position + 10
            picture.dot(x, y, "soft", radius, opacity=0.6)
            tip = (x + radius * cos[position, pair].item(), y - radius * sin[position, pair].item())
            picture.arrow((x, y), tip, "b" if row == 0 else "a", 2)
    for position in POSITIONS:
        picture.text(left + step * position + 10, top - 22, str(position), "faint small")
    picture.text(picture.width - 16, 26, f"{position_label} 0 … {POSITIONS[-1]} →", "faint small", "end")
    return str(picture)


def claims(demo: Demo) -> None:
    key = head(demo, "k_proj", BEAR)
    x, y, cos, sin = round(key[0].item(), 4), round(key[32].item(), 4), round(math.cos(4), 4), round(math.sin(4), 4)
    rotated = demo.trace(SENTENCE)[f"{ATTENTION}.keys"][0, HEAD, BEAR]
    assert f"{x * cos - y * sin:.3f}" == f"{rotated[0]:.3f}", "the first number by pencil is the model's"
    assert f"{x * sin + y * cos:.3f}" == f"{rotated[32]:.3f}", "and so is the second"
    assert close(rotated.norm(), key.norm().item(), 1e-5), "a rotation keeps the length"
    pencil = 0.9602 * -0.6536 + -0.2794 * -0.7568
    assert f"{pencil:.3f}" == f"{math.cos(2):.3f}", "cos 6 cos 4 + sin 6 sin 4 is cos 2"
    assert close(score(demo, 6, 4), score(demo, 106, 104)) and close(score(demo, 6, 4), score(demo, 1000, 998)), (
        "the score depends on the distance only"
    )
    assert close(score(demo, 6, 4), demo.trace(SENTENCE)[f"{ATTENTION}.scores"][0, HEAD, SEASIDE, BEAR].item())
    assert abs(score(demo, 8, 4) - score(demo, 6, 4)) > 1, "and another distance gives another score"
    assert frequency(31) * 1023 / (2 * math.pi) < 0.1, "the slowest hand makes less than a tenth of a turn"

    with patch.object(llama_jp.model, "rotate", lambda x, cos, sin: x):
        model = demo.load()
        orders = (["クマ", "が", "アザラシ", "に"], ["アザラシ", "が", "クマ", "に"])
        ids = torch.tensor([[1, *map(demo.id_of, words)] for words in orders])
        with llama_jp.trace(model, ["layers.0.self_attn"]) as seen:
            model(ids)
    one, other = seen["layers.0.self_attn"][:, -1]
    assert torch.allclose(one, other, atol=1e-5), "without rotation, the order of earlier tokens does not matter"
