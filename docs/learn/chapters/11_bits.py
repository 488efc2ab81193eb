"""The numbers, the picture and the claims of chapter 11: bits."""

from __future__ import annotations

import inspect

import torch
from demo import Demo, fixed
from drawing import Picture

import llama_jp
import llama_jp.model

FORK = 69  # the token of the story, counted from 0, where float32 and bfloat16 part
FORMATS = {"float32": (8, 23), "bfloat16": (8, 7), "float16": (5, 10)}  # bits of exponent and fraction


def story_logits(demo: Demo) -> torch.Tensor:
    """Row t scores token t of the story: (134, V)."""
    return demo.logits[len(demo.prompt) - 1 : -1]


def fork(demo: Demo) -> tuple[list[float], list[int]]:
    """The two largest logits at the fork, and their ids."""
    logits, ids = story_logits(demo)[FORK].topk(2)
    return logits.tolist(), ids.tolist()


def step(name: str) -> float:
    """The distance of neighbouring numbers from 8 to 16."""
    return 8 / 2 ** FORMATS[name][1]


def rounded(x: float, name: str) -> float:
    return torch.tensor(x).to(getattr(torch, name)).item()


def bits(x: float, name: str) -> tuple[str, str, str]:
    """Sign, exponent and fraction of a number with four decimals, in a format. More may differ on another CPU."""
    exponent, fraction = FORMATS[name]
    size = 1 + exponent + fraction
    integer = torch.int32 if size == 32 else torch.int16
    number = torch.tensor(round(x, 4)).to(getattr(torch, name)).view(integer).item()
    text = f"{number % 2**size:0{size}b}"
    return text[0], text[1 : 1 + exponent], text[1 + exponent :]


def sentence(demo: Demo, ids: list[int]) -> str:
    """The sentence of a story that the fork is in."""
    text = demo.tokenizer.decode(ids)
    start = text.index("「ぼくは、")
    return text[start : text.index("」", start) + 1]


def numbers(demo: Demo) -> dict[str, str]:
    (first, second), (first_id, second_id) = fork(demo)
    probabilities = story_logits(demo)[FORK].softmax(-1)
    told = demo.prompt + demo.story[:FORK] + [second_id]
    rest = llama_jp.generate(demo.model, [told], max_new_tokens=60)[0].ids
    small = step("bfloat16")
    return {
        "sentence.first": sentence(demo, demo.story),
        "sentence.second": sentence(demo, demo.story[:FORK] + [second_id] + rest),
        "logit.first": fixed(first, 4),
        "logit.second": fixed(second, 4),
        "difference": fixed(first - second, 4),
        "p.first": fixed(100 * probabilities[first_id], 1),
        "p.second": fixed(100 * probabilities[second_id], 1),
        "step": fixed(small, 4),
        "quotient.first": fixed(first / small, 2),
        "quotient.second": fixed(second / small, 2),
        "whole": fixed(round(first / small), 0),
        "product": fixed(round(first / small) * small, 3),
        "ratio": fixed(round(small / (first - second), -1), 0),
        "fraction": fixed(int(bits(first, "bfloat16")[2], 2) / 128, 6),
        "bfloat16": fixed(rounded(first, "bfloat16"), 3),
        "f16.step": fixed(step("float16"), 4),
        "f16.first": fixed(rounded(first, "float16"), 4),
        "f16.second": fixed(rounded(second, "float16"), 4),
        "rounding.comments": str(inspect.getsource(llama_jp.model).count("rounding:")),
    }


def pictures(demo: Demo) -> dict[str, str]:
    return {
        "11-bits": draw(demo, "The bits of one logit in three formats, and the numbers that each format has near it",
                        "logit", "sign", "exponent", "fraction"),
        "11-bits.ja": draw(demo, "一つのロジットを三つの形式で表したビットと、そのあたりで表せる数",
                           "ロジット", "符号", "指数", "仮数"),
    }  # fmt: skip


def draw(demo: Demo, title: str, x_label: str, *parts: str) -> str:
    (first, second), _ = fork(demo)
    picture = Picture(title, 720, 370, left=84)
    for place, (name, kind) in enumerate(zip(parts, ("c", "b", "a"), strict=True)):
        picture.box(picture.left + 90 * place, 44, 11, 11, kind, opacity=0.45)
        picture.text(picture.left + 90 * place + 17, 54, name, "faint small", anchor="start")
    for row, name in enumerate(FORMATS):
        top = 66 + 34 * row
        picture.text(picture.left - 8, top + 17, name, "faint small", anchor="end")
        fields = zip(bits(first, name), ("c", "b", "a"), strict=True)
        for place, (bit, kind) in enumerate((bit, kind) for field, kind in fields for bit in field):
            picture.box(picture.left + 19 * place, top, 18, 24, kind, opacity=0.45 if bit == "1" else 0.15)
            picture.text(picture.left + 19 * place + 9, top + 17, bit, "small")
    ticks = [14.5625, 14.625, 14.6875]
    x = picture.x_axis(ticks, x_label, room=0.08)
    for row, name in enumerate(("bfloat16", "float16")):
        level, size = picture.bottom - 24 - 44 * row, step(name)
        picture.text(picture.left - 8, level + 4, name, "faint small", anchor="end")
        picture.line([(picture.left, level), (picture.right, level)], "soft", 1)
        for i in range(round((ticks[-1] - ticks[0]) / size) + 1):
            picture.line([(x(ticks[0] + i * size), level - 5), (x(ticks[0] + i * size), level + 5)], "a", 1.5)
    # the two logits stand a pixel or two apart, so their names lean away from each other
    top = picture.bottom - 92
    for value, anchor, shift in ((second, "end", -4), (first, "start", 4)):
        picture.line([(x(value), top), (x(value), picture.bottom - 24)], "b", 1.2)
        picture.text(x(value) + shift, top - 4, fixed(value, 4), "small", anchor=anchor)
    for row, name in enumerate(("bfloat16", "float16")):
        for value in (second, first):
            level, place = picture.bottom - 24 - 44 * row, x(rounded(value, name))
            picture.line([(x(value), level), (place, level)], "b", 2.5)
            picture.dot(place, level, "b", 4)
    return str(picture)


def claims(demo: Demo) -> None:
    logits = story_logits(demo)
    (first, second), (first_id, second_id) = fork(demo)
    assert demo.tokenizer.pieces([first_id, second_id]) == ["ここから出た", "大きな声で歌う"]
    assert rounded(first, "bfloat16") == rounded(second, "bfloat16") == 14.625, "bfloat16 has one number for both"
    assert bits(first, "bfloat16")[2] == "1101010" and int("1101010", 2) == 64 + 32 + 8 + 2 == 106
    assert 8 * (1 + 106 / 128) == 14.625, "the bits give the same number"
    half = llama_jp.Llama.from_pretrained("demo", dtype="bfloat16", attention="eager", device="cpu")
    with torch.no_grad():
        at_fork = half(torch.tensor([demo.ids]))[0, len(demo.prompt) - 1 + FORK]
    for id in (first_id, second_id):
        assert abs(at_fork[id].item() - 14.625) <= step("bfloat16"), "in the bfloat16 model it is within one step"
    assert torch.tensor([1.0, 3.0, 3.0]).argmax() == 1, "of equal numbers, argmax takes the first"
    assert second_id < first_id, "the smaller id is that of 大きな声で歌う"
    tied = [t for t, row in enumerate(logits.bfloat16()) if (row == row.max()).sum() > 1]
    assert tied == [4, FORK], "two places of the story are ties in bfloat16"
    assert rounded(first, "float16") > rounded(second, "float16"), "float16 keeps them apart"
    assert first - second < step("float16"), "though its step is larger than their difference"
    assert rounded(70000.0, "float16") == float("inf") and rounded(3e38, "bfloat16") < float("inf"), "the range"
