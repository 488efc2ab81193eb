"""The numbers, the picture and the claims of chapter 4: attention."""

from __future__ import annotations

import math

from demo import Demo, fixed
from drawing import Picture
from torch import Tensor

WORDS = "むかしむかし"
ATTENTION = "layers.5.self_attn"
HEAD = 1
NAMES = ("クマ", "アザラシ")


def of_head(demo: Demo, name: str, text: str | None = None) -> Tensor:
    """A point of the chapter's head, such as the (T, S) weights."""
    return demo.trace(text)[f"{ATTENTION}.{name}"][0, HEAD]


def names_in_story(demo: Demo) -> list[int]:
    """The places of the names that the model wrote."""
    return [i for i, piece in enumerate(demo.pieces) if piece in NAMES and i >= len(demo.prompt)]


def numbers(demo: Demo) -> dict[str, str]:
    query, keys = of_head(demo, "q_rot", WORDS)[-1], of_head(demo, "keys", WORDS)
    products = keys @ query
    scores, weights = of_head(demo, "scores", WORDS)[-1], of_head(demo, "probabilities", WORDS)[-1]
    exponentials, values = scores.exp(), of_head(demo, "values", WORDS)[:, 0]
    table = {
        f"{name}.{i}": fixed(column[i], 3)
        for name, column in (("score", scores), ("exp", exponentials), ("weight", weights), ("value", values))
        for i in range(3)
    }
    unscaled = products.softmax(-1)
    seal = demo.where("アザラシ")
    second = of_head(demo, "scores", WORDS)[1, :2]
    return table | {
        **{f"product.{i}": fixed(products[i], 2) for i in range(3)},
        "sum": fixed(exponentials.sum(), 3),
        "output": fixed(of_head(demo, "attn_output", WORDS)[-1, 0], 2),
        "distance": str(seal[1] - 1 - seal[0]),
        "seal.weight": fixed(of_head(demo, "probabilities")[seal[1] - 1, seal[0]], 3),
        "second.0": fixed(second[0], 3),
        "second.1": fixed(second[1], 3),
        "second.exp.0": fixed(second[0].exp(), 3),
        "second.exp.1": fixed(second[1].exp(), 3),
        "second.weight.0": fixed(second.softmax(-1)[0], 3),
        "second.weight.1": fixed(second.softmax(-1)[1], 3),
        **{f"unscaled.{i}": fixed(unscaled[i], 3) for i in range(3)},
    }


def pictures(demo: Demo) -> dict[str, str]:
    return {
        "04-names": draw(demo, "Layer 5, head 1: where the token before a name looks (weights in %)", "the rest",
                         "names so far, from left to right", "request"),
        "04-names.ja": draw(demo, "第 5 層のヘッド 1: 名前を書く直前に、どこを見るか（重み、%）", "その他",
                            "それまでに出てきた名前。左から順に", "依頼"),
    }  # fmt: skip


def draw(demo: Demo, title: str, rest: str, label: str, request: str) -> str:
    """A row for each name of the story, a column for each name before it."""
    weights, rows = of_head(demo, "probabilities"), names_in_story(demo)
    columns = [i for name in NAMES for i in demo.where(name) if i < rows[-1]]
    columns.sort()
    cell, height, left, top = 36, 28, 250, 92
    picture = Picture(title, left + cell * (len(columns) + 1) + 30, top + height * len(rows) + 34)
    kinds = {"クマ": "b", "アザラシ": "a"}
    for j, column in enumerate(columns):
        x = left + cell * j + cell / 2 + 4
        picture.text(x, top - 10, demo.pieces[column], f"small {kinds[demo.pieces[column]]}-fill", "start", -48)
    picture.text(left + cell * len(columns) + cell / 2 + 4, top - 10, rest, "small faint", "start", -48)
    for i, row in enumerate(rows):
        y, name = top + height * i, demo.pieces[row]
        before = demo.tokenizer.decode(demo.ids[max(len(demo.prompt), row - 5) : row]).replace("\n", "")[-11:]
        picture.text(left - 78, y + 19, f"…{before}", "small", "end")
        picture.text(left - 10, y + 19, f"→ {name}", f"small {kinds[name]}-fill", "end")
        shown = [weights[row - 1, column].item() if column < row else None for column in columns]
        for j, value in enumerate([*shown, 1 - sum(value or 0 for value in shown)]):
            if value is None:
                continue
            kind = kinds[demo.pieces[columns[j]]] if j < len(columns) else "faint"
            x = left + cell * j
            picture.box(x, y, cell - 2, height - 2, "soft", opacity=0.35)
            picture.box(x, y, cell - 2, height - 2, kind, opacity=0.9 * value)
            if value >= 0.005:
                picture.text(x + cell / 2 - 1, y + 18, f"{100 * value:.0f}", "small" + " paper-fill" * (value > 0.6))
    end = left + cell * sum(column < len(demo.prompt) for column in columns)
    bottom = top + height * len(rows)
    picture.line([(left, bottom + 5), (end - 3, bottom + 5)], "faint", 1)
    picture.text((left + end) / 2, bottom + 20, request, "small faint")
    picture.text(end + 16, bottom + 20, label, "small faint", "start")
    return str(picture)


def claims(demo: Demo) -> None:
    scores, weights = of_head(demo, "scores", WORDS), of_head(demo, "probabilities", WORDS)
    printed = [round(score, 3) for score in scores[-1].tolist()]
    exponentials = [round(math.exp(score), 3) for score in printed]
    pencil = [round(value / sum(exponentials), 3) for value in exponentials]
    assert pencil == [round(weight, 3) for weight in weights[-1].tolist()], "the weights by pencil are the model's"
    values = [round(value, 3) for value in of_head(demo, "values", WORDS)[:, 0].tolist()]
    output = sum(weight * value for weight, value in zip(pencil, values, strict=True))
    assert f"{output:.2f}" == f"{of_head(demo, 'attn_output', WORDS)[-1, 0]:.2f}", "and so is the sum"
    assert scores[1, 2] < -1e38 and weights[1, 2] == 0, "a masked score becomes a weight of zero"

    every, rows = of_head(demo, "probabilities"), names_in_story(demo)
    for row in rows:
        best = int(every[row - 1].argmax())
        assert demo.pieces[best] == demo.pieces[row], "before each name, the head looks most at that name"
    shares = [sum(every[row - 1, i].item() for i in demo.where(demo.pieces[row]) if i < row) for row in rows]
    assert len(shares) == 11 and sorted(shares)[1] > 0.98 and min(shares) > 0.6, (
        "ten of eleven times with more than 98 %, and once with more than 60 %"
    )
    other = [i for i in demo.where("クマ") if i < demo.where("アザラシ")[1]]
    assert sum(every[demo.where("アザラシ")[1] - 1, i] for i in other) < 0.001, "the bear gets nothing"
