"""Chapter 8: a logit as a sum of everything that was written, and the logit lens."""

from __future__ import annotations

from functools import lru_cache

import torch
from demo import Demo, fixed
from drawing import Picture
from torch import Tensor

LAYERS = range(6)
POINTS = ("embed_tokens", *(f"layers.{layer}" for layer in LAYERS))
FRIEND = "アザラシ"
COLUMNS = range(100, 110)  # of the picture: 。ふりむくと、アザラシが立っていました。「ぼくは、


def before_friend(demo: Demo) -> int:
    """The position in the story whose next token is the friend's name for the first time."""
    return demo.where(FRIEND)[1] - 1


@lru_cache
def lens(demo: Demo, point: str) -> Tensor:
    """The logits (T, V) if the last norm and lm_head came right after this point."""
    return demo.model.lm_head(demo.model.norm(demo.trace()[point][0]))


def parts(demo: Demo) -> dict[str, float]:
    """The logit of the friend's name before its first appearance, as a sum of what each part wrote."""
    seen, at, model = demo.trace(), before_friend(demo), demo.model
    scale = (seen["layers.5"][0, at].pow(2).mean() + model.norm.eps).rsqrt()
    direction = model.lm_head.weight[demo.id_of(FRIEND)] * model.norm.weight * scale  # (C,)

    def written(*points: str) -> float:
        return sum((direction @ seen[point][0, at]).item() for point in points)

    output = model.layers[5].self_attn.o_proj.weight[:, 64:128]  # of head 1: (C, D)
    head = direction @ output @ seen["layers.5.self_attn.attn_output"][0, 1, at]
    return {
        "embedding": written("embed_tokens"),
        "attention.0": written("layers.0.self_attn"),
        "mlp.0": written("layers.0.mlp"),
        "middle": written(*(f"layers.{i}.{part}" for i in range(1, 5) for part in ("self_attn", "mlp"))),
        "head": head.item(),
        "heads": written("layers.5.self_attn") - head.item(),
        "mlp.5": written("layers.5.mlp"),
    }


def agreement(demo: Demo, point: str) -> float:
    """The share of the story's tokens for which the lens has the same first choice as the whole model, in percent."""
    story = slice(len(demo.prompt) - 1, -1)
    same = lens(demo, point)[story].argmax(-1) == demo.logits[story].argmax(-1)
    return 100 * same.double().mean().item()


def without(demo: Demo, *points: str) -> float:
    """The perplexity of the story when these points are zero."""
    with demo.edited(**dict.fromkeys(points, torch.zeros_like)) as model:
        return demo.perplexity(demo.logits_of(model))


def numbers(demo: Demo) -> dict[str, str]:
    at, friend = before_friend(demo), demo.id_of(FRIEND)
    written = parts(demo)
    printed = {f"part.{name}": fixed(value, 1) for name, value in written.items()}
    printed |= {
        "logit": fixed(demo.logits[at, friend], 1),
        "second": fixed(demo.logits[at].topk(2).values[1], 1),
        "perplexity": fixed(demo.perplexity(demo.logits), 2),
        "without.middle": fixed(without(demo, *(f"layers.{i}.mlp" for i in range(1, 5))), 2),
    }
    for i, point in enumerate(POINTS):
        logits = lens(demo, point)[at]
        printed |= {
            f"rank.{i}": str(int((logits > logits[friend]).sum()) + 1),
            f"p.{i}": fixed(logits.softmax(-1)[friend], 4),
            f"agree.{i}": fixed(agreement(demo, point), 0),
        }
    return printed


def pictures(demo: Demo) -> dict[str, str]:
    english = (
        "The first choice after each layer, if no other layer came",
        "token",
        "embedding",
        "layer {}",
        "next token",
    )
    japanese = "各層の直後に出口をつないだときの第一候補", "トークン", "埋め込み", "第 {} 層", "次のトークン"
    return {"08-lens": draw(demo, *english), "08-lens.ja": draw(demo, *japanese)}


def draw(demo: Demo, title: str, token: str, embedding: str, layer: str, following: str) -> str:
    picture = Picture(title, 900, 360, left=84, right=16)
    wide, high = (picture.right - picture.left) / len(COLUMNS), (picture.bottom - picture.top - 24) / len(POINTS)

    def write(column: int, y: float, piece: str, kind: str) -> None:
        text = piece if len(piece) <= 6 else piece[:5] + "…"
        picture.text(picture.left + wide * (column + 0.5), y, text, kind)

    picture.text(picture.left - 10, picture.top + 14, following, "faint small", anchor="end")
    picture.text(picture.left - 10, picture.bottom + 26, token, "faint small", anchor="end")
    for column, at in enumerate(COLUMNS):
        final, piece = int(demo.logits[at].argmax()), demo.spell([demo.ids[at]])[0]
        write(column, picture.top + 14, demo.spell([final])[0], "small")
        write(column, picture.bottom + 26, piece, "small")
        for i, point in enumerate(POINTS):
            y = picture.bottom - high * (i + 1)
            p = lens(demo, point)[at].softmax(-1)
            first = int(p.argmax())
            hover = f"{demo.spell([first])[0]}: {fixed(p[first], 2)}"
            picture.box(picture.left + wide * column + 1, y + 1, wide - 2, high - 2, "soft", hover)
            opacity = round(float(p[final]), 2)
            if opacity:
                picture.box(picture.left + wide * column + 1, y + 1, wide - 2, high - 2, "c", hover, min(opacity, 0.6))
            kind = "small" if first == final else "faint small"
            write(column, y + high / 2 + 4, demo.spell([first])[0], kind)
    for i in range(len(POINTS)):
        name = embedding if i == 0 else layer.format(i - 1)
        picture.text(picture.left - 10, picture.bottom - high * (i + 0.5) + 4, name, "faint small", anchor="end")
    return str(picture)


def claims(demo: Demo) -> None:
    at, written = before_friend(demo), parts(demo)
    logit = demo.logits[at, demo.id_of(FRIEND)].item()
    assert abs(sum(written.values()) - logit) < 1e-3, "the logit is the sum of what was written"
    assert fixed(sum(round(value, 1) for value in written.values()), 1) == fixed(logit, 1), "with a pencil, too"
    assert written["head"] + written["mlp.5"] > logit * 2 / 3, "two parts of the last layer wrote two thirds"

    def first(point: str, position: int) -> str:
        return demo.spell([int(lens(demo, point)[position].argmax())])[0]

    period = demo.where("声がしました")[0] + 1
    assert [first(point, period) == "ふりむくと" for point in POINTS] == [False, False, *[True] * 5], "from layer 1 on"
    comma, never = demo.where("ふりむくと")[0], demo.where("ここから出た")[0]
    assert [first(point, comma) == "、" for point in POINTS] == [False, False, *[True] * 5], "after two layers"
    assert {first(point, never) for point in POINTS} == {"ことがないの"}, "the embedding alone decides"
    assert [first(point, at) == FRIEND for point in POINTS] == [*[False] * 6, True], "the name comes in the last layer"
    assert first("layers.4", at) == "葉っぱ", "before the last layer, the first choice is a leaf"
    assert without(demo, "layers.0.mlp") > 1000 * demo.perplexity(demo.logits), "the MLP of layer 0 carries everything"
    place = demo.where("絵本で")[0]
    assert [first(point, place) == "海辺" for point in POINTS] == [False, False, *[True] * 5], (
        "the place comes in layer 1"
    )
