"""Chapter 9: the choices in a story, and what temperature and top-p do to one of them."""

from __future__ import annotations

import math

import torch
from demo import Demo, fixed
from drawing import Picture
from torch import Tensor

from llama_jp.generation.filters import keep_min_p, keep_top_p

SHOWN = ("クマ", "「", "ある日", "ある夜", "毎日同じ", "大好きな", "そこへ")  # most probable first
TEMPERATURES = {"cold": 0.5, "plain": 1.0, "hot": 2.0}


def fork(demo: Demo) -> Tensor:
    """The logits (V,) after 「…あいさつをしました。」"""
    return demo.logits[demo.where("をしました")[0] + 1]


def log_probabilities(demo: Demo, temperature: float = 1.0) -> Tensor:
    """log p of each token of the story."""
    story = torch.tensor(demo.story)
    logits = demo.logits[len(demo.prompt) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(1, story[:, None])[:, 0]


def pencil(demo: Demo) -> tuple[Tensor, list[float], list[float]]:
    """The four largest logits, their distances from the largest, and e to that power, each with three decimals."""
    four = fork(demo).topk(4).values
    differences = [round(round(x, 3) - round(four[0].item(), 3), 3) for x in four.tolist()]
    return four, differences, [round(math.exp(x), 3) for x in differences]


def odd(demo: Demo) -> float:
    """How many pieces below a hundredth of the best one's probability a story has on average, if all is sampled."""
    p = demo.logits[len(demo.prompt) - 1 : -1].softmax(-1)
    return (p * (p < 0.01 * p.amax(-1, keepdim=True))).sum().item()


def kept(filtered: Tensor) -> int:
    return int(filtered.isfinite().sum())


def rounded(x: float) -> str:
    """Two digits, the rest zeros: 2,600,000,000."""
    size = 10 ** (math.floor(math.log10(x)) - 1)
    return f"{round(x / size) * size:,}"


def numbers(demo: Demo) -> dict[str, str]:
    logits, p, story = fork(demo), fork(demo).softmax(-1), log_probabilities(demo).exp()
    best, at = logits.topk(len(SHOWN)).indices, p.topk(len(SHOWN)).values
    four, differences, exponentials = pencil(demo)
    printed = {
        "choices": str(int((story < 0.5).sum())),
        "tokens": str(len(story)),
        "sure": fixed(100 * (story > 0.99).double().mean(), 0),
        "rest": fixed(1 - at.sum(), 3),
        "rest.pieces": f"{len(p) - len(SHOWN):,}",
        "odd": fixed(odd(demo), 1),
        "exp.sum": fixed(sum(exponentials), 3),
        "minp.threshold": fixed(0.15 * p.max(), 3),
        "draws": fixed(1 / p[best[2]], 0),
        "draw.p": fixed(p[best[2]], 3),
        "story": rounded(1 / log_probabilities(demo).sum().exp().item()),
    }
    for i in range(len(SHOWN)):
        printed |= {f"logit.{i}": fixed(logits[best[i]], 3), f"p.{i}": fixed(at[i], 3)}
        if i < 6:
            printed[f"sum.{i}"] = fixed(at[: i + 1].sum(), 3)
    for i in range(4):
        printed |= {f"minus.{i}": fixed(differences[i], 3), f"exp.{i}": fixed(exponentials[i], 3)}
    for name, temperature in TEMPERATURES.items():
        printed[f"kept.{name}"] = str(kept(keep_top_p((logits / temperature)[None], 0.9)))
        printed |= {f"{name}.{i}": fixed(x, 3) for i, x in enumerate((four / temperature).softmax(-1))}
    return printed


def pictures(demo: Demo) -> dict[str, str]:
    english = "Probability of each token that demo wrote: 13 forks below 1/2", "token of the story", "probability"
    japanese = "demo が書いた各トークンの確率。1/2 より低い 13 の分かれ道", "お話のトークン", "確率"
    return {"09-forks": draw(demo, *english), "09-forks.ja": draw(demo, *japanese)}


def draw(demo: Demo, title: str, across: str, upwards: str) -> str:
    probabilities = log_probabilities(demo).exp().tolist()
    picture = Picture(title, 860, 340)
    x = picture.x_axis([0, 20, 40, 60, 80, 100, 120, 134], across)
    y = picture.y_axis([0, 0.25, 0.5, 0.75, 1], upwards)
    names = demo.spell(demo.story)
    for i, p in enumerate(probabilities):
        fork = p < 0.5
        if fork:
            picture.line([(x(i), y(1)), (x(i), y(p))], "b", 1)
            left = i > 0 and probabilities[i + 1] < 0.5  # the next fork needs the room on the right
            picture.text(x(i) + (-7 if left else 7), y(p) + 4, names[i], "small", anchor="end" if left else "start")
        picture.dot(x(i), y(p), "b" if fork else "a", 4 if fork else 2.5, f"{names[i]}: {fixed(p, 2)}")
    return str(picture)


def claims(demo: Demo) -> None:
    logits, p = fork(demo), fork(demo).softmax(-1)
    assert tuple(demo.spell(logits.topk(len(SHOWN)).indices.tolist())) == SHOWN, "the seven most probable pieces"
    assert demo.spell([demo.ids[demo.where("をしました")[0] + 2]]) == ["クマ"], "greedy decoding takes クマ"
    assert int((log_probabilities(demo).exp() < 0.5).sum()) == 13, "thirteen forks"
    assert kept(keep_top_p(logits[None], 0.9)) == 6 and p.topk(5).values.sum() < 0.9 < p.topk(6).values.sum(), "top-p"
    assert kept(keep_min_p(logits[None], 0.15)) == 3, "min-p keeps three"
    four, _, exponentials = pencil(demo)
    assert [fixed(x / sum(exponentials), 3) for x in exponentials] == [fixed(x, 3) for x in four.softmax(-1)], (
        "pencil and model agree in three decimals"
    )
