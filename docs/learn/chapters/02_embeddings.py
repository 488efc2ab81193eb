"""The numbers, the picture and the claims of chapter 2: embeddings and the residual stream."""

from __future__ import annotations

import torch
from demo import Demo, fixed
from drawing import Picture
from torch import Tensor

LAND, SEA = ["クマ", "パンダ", "たぬき", "キツネ"], ["アザラシ", "ラッコ"]
PLACES = ["海辺", "海", "森", "丘", "牧場"]
PERSONS = ["ぼく", "わたし"]
PARTS = ("self_attn", "mlp")


def embedding(demo: Demo, word: str) -> Tensor:
    return demo.weights["embed_tokens.weight"][demo.id_of(word)]


def cosine(x: Tensor, y: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(x, y, dim=-1).item()


def similarity(demo: Demo, one: str, other: str) -> float:
    return cosine(embedding(demo, one), embedding(demo, other))


def additions(demo: Demo) -> list[float]:
    """What reaches the first feature of the first クマ: the embedding, and each layer's attention and MLP."""
    seen, place = demo.trace(), demo.where("クマ")[0]
    points = ["embed_tokens", *(f"layers.{i}.{part}" for i in range(6) for part in PARTS)]
    return [seen[point][0, place, 0].item() for point in points]


def bears(demo: Demo, point: str) -> float:
    """The cosine of the first and the last クマ at a point."""
    places = demo.where("クマ")
    return cosine(demo.trace()[point][0, places[0]], demo.trace()[point][0, places[-1]])


def numbers(demo: Demo) -> dict[str, str]:
    bear, panda = embedding(demo, "クマ"), embedding(demo, "パンダ")
    added, table = additions(demo), demo.weights["embed_tokens.weight"].numel()
    names = ["add.embedding", *(f"add.{i}.{part}" for i in range(6) for part in PARTS)]
    return {
        "dot": fixed(bear @ panda, 4),
        "length.bear": fixed(bear.norm(), 4),
        "length.panda": fixed(panda.norm(), 4),
        "lengths": fixed(bear.norm() * panda.norm(), 4),
        "bear.panda": fixed(similarity(demo, "クマ", "パンダ"), 2),
        "i.me": fixed(similarity(demo, "ぼく", "わたし"), 2),
        "toy": fixed(24 / 25, 2),
        **{name: fixed(value, 3) for name, value in zip(names, added, strict=True)},
        "sum": fixed(sum(added), 2),
        "bears": str(len(demo.where("クマ"))),
        "bears.0": fixed(bears(demo, "layers.0"), 2),
        "bears.2": fixed(bears(demo, "layers.2"), 2),
        "bears.5": fixed(bears(demo, "layers.5"), 2),
        "table": f"{table:,}",
        "share": fixed(100 * 2 * table / 6_393_088, 1),
        "share.7b": fixed(100 * 2 * 32_000 * 4096 / 6_738_415_616, 1),
    }


def pictures(demo: Demo) -> dict[str, str]:
    return {
        "02-similar": draw(demo, "Cosine of every two embeddings. Orange: alike; blue: opposite"),
        "02-similar.ja": draw(demo, "埋め込みどうしのコサイン類似度。橙は似ている、青は逆向き"),
    }


def draw(demo: Demo, title: str) -> str:
    words = [*LAND, *SEA, *PLACES, *PERSONS]
    cell, left, top = 38, 76, 52
    picture = Picture(title, left + cell * len(words) + 84, top + cell * len(words) + 36)
    for i, one in enumerate(words):
        picture.text(left - 8, top + cell * i + 23, one, "small", anchor="end")
        picture.text(left + cell * i + 19, top + cell * len(words) + 16, one, "small")
        for j, other in enumerate(words):
            value = similarity(demo, one, other)
            x, y = left + cell * j, top + cell * i
            kind = "b" if value > 0 else "a"
            picture.box(x, y, cell - 1, cell - 1, "soft", opacity=0.35)
            picture.box(x, y, cell - 1, cell - 1, kind, f"{one} {other}: {fixed(value, 2)}", min(abs(value), 0.8))
            if i != j:
                picture.text(
                    x + 18, y + 23, fixed(value, 1).replace("0.", "."), "small" + " paper-fill" * (value > 0.6)
                )
    for place, value in enumerate((0.8, 0.6, 0.4, 0.2, 0.0, -0.2)):
        x, y = left + cell * len(words) + 16, top + 30 * place
        picture.box(x, y, 22, 28, "soft", opacity=0.35)
        picture.box(x, y, 22, 28, "b" if value > 0 else "a", opacity=abs(value))
        picture.text(x + 28, y + 18, fixed(value, 1), "faint small", anchor="start")
    return str(picture)


def claims(demo: Demo) -> None:
    def values(rows: list[str], columns: list[str]) -> list[float]:
        return [similarity(demo, one, other) for one in rows for other in columns if one != other]

    for group in (LAND, SEA, PLACES, PERSONS):
        assert min(values(group, group)) > 0.15, "the words of a group are alike"
    apart = values(LAND, PLACES) + values(SEA, PLACES) + values(PERSONS, LAND + SEA + PLACES)
    assert max(apart) < 0.16, "words of other groups are not"
    assert sum(values(LAND, SEA)) / 8 < 0.1, "nor are the two groups of animals"
    assert similarity(demo, "ぼく", "わたし") > max(values(LAND + SEA, LAND + SEA)), "the two words for I are closest"
    table = demo.weights["embed_tokens.weight"]
    likeness = torch.nn.functional.cosine_similarity(table, embedding(demo, "アザラシ")[None], dim=1)
    nearest = demo.tokenizer.pieces(likeness.topk(4).indices.tolist())
    assert nearest == ["アザラシ", "ラッコ", "鹿", "ブタ"], "after the sea otter come deer and pig"
    printed = [round(value, 3) for value in additions(demo)]
    seen, place = demo.trace(), demo.where("クマ")[0]
    assert f"{sum(printed):.2f}" == f"{seen['layers.5'][0, place, 0].item():.2f}", "the thirteen numbers add up"
    assert max(additions(demo)) == additions(demo)[2], "the MLP of layer 0 adds the most"
    starts = [seen["embed_tokens"][0, place] for place in demo.where("クマ")]
    assert all(torch.equal(starts[0], other) for other in starts), "every クマ starts as the same vector"
    assert bears(demo, "layers.0") > bears(demo, "layers.2") > bears(demo, "layers.5"), "then they drift apart"
    assert demo.weights["embed_tokens.weight"].shape == (3072, 256)
    assert sum(weight.numel() for weight in demo.weights.values()) == 6_393_088
