"""Chapter 7: the gate of SwiGLU, one feature at a time."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from demo import Demo, fixed
from drawing import Picture
from torch import Tensor
from torch.nn.functional import silu

from llama_jp import trace

OPEN, CLOSED = 317, 105  # two features of layer 0: their gates at クマ are wide open and nearly closed
SHOWN = (317, 689, 700, 453, 505)  # the five largest products


def at_bear(demo: Demo, part: str) -> Tensor:
    """A point of layer 0's MLP at the first クマ of the request: (F,)."""
    return demo.trace()[f"layers.0.mlp.{part}"][0, demo.where("クマ")[0]]


@lru_cache
def alone(demo: Demo) -> Tensor:
    """The products silu(gate) * up of layer 0, for every piece of the vocabulary alone after <s>: (V, F)."""
    pieces = torch.arange(demo.model.config.vocab_size)
    with torch.no_grad(), trace(demo.model, ["layers.0.mlp.mlp_act"], stop_after="layers.0") as seen:
        demo.model(torch.stack([torch.ones_like(pieces), pieces], dim=1))
    return seen["layers.0.mlp.mlp_act"][:, 1]


def fires(demo: Demo, feature: int, above: float = 5) -> list[str]:
    """The pieces whose product is larger than `above`, largest first."""
    products = alone(demo)[:, feature].abs()
    return demo.spell([i for i in products.argsort(descending=True).tolist() if products[i] > above])


def numbers(demo: Demo) -> dict[str, str]:
    gate, up, product = at_bear(demo, "gate_proj"), at_bear(demo, "up_proj"), at_bear(demo, "mlp_act")
    at, config = demo.where("クマ")[0], demo.model.config
    mlp, everything = (sum(p.numel() for n, p in demo.weights.items() if part in n) for part in ("mlp.", ""))
    largest = product.abs().topk(10).indices
    columns = demo.model.layers[0].mlp.down_proj.weight
    printed = {
        "mlp": f"{mlp:,}",
        "all": f"{everything:,}",
        "share": fixed(100 * mlp / everything, 0),
        "before": fixed(demo.trace()["layers.0.after_attention"][0, at].norm(), 1),
        "after": fixed(demo.trace()["layers.0"][0, at].norm(), 0),
        "negative": str(int((gate < 0).sum())),
        "small": fixed(100 * (product.abs() < 0.1).double().mean(), 0),
        "silu.min": fixed(silu(torch.linspace(-2, 0, 2001, dtype=torch.float64)).min(), 2),
        "cosine": fixed(torch.cosine_similarity(columns[:, largest] @ product[largest], columns @ product, dim=0), 2),
        "tenth": fixed(0.1, 1),
        "e": fixed(math.e, 3),
        "sigma.one": fixed(1 / (1 + math.e), 3),
        "product.one": fixed(-10 / (1 + math.e), 2),
        "fires": str(len(fires(demo, OPEN))),
        "vocabulary": f"{config.vocab_size:,}",
    }
    for name, feature in (("open", OPEN), ("closed", CLOSED)):
        printed |= {
            f"{name}.gate": fixed(gate[feature], 3),
            f"{name}.sigmoid": fixed(gate[feature].sigmoid(), 4),
            f"{name}.silu": fixed(silu(gate[feature]), 3),
            f"{name}.up": fixed(up[feature], 3),
            f"{name}.product": fixed(product[feature], 2),
        }
    return printed


def pictures(demo: Demo) -> dict[str, str]:
    return {
        "07-gates": draw(demo, "704 features at クマ, layer 0: gate and up", "gate", "up", "closed", "open"),
        "07-gates.ja": draw(demo, "「クマ」での 704 の特徴（第 0 層）: ゲートと up", "ゲート", "up", "閉", "開"),
    }


def draw(demo: Demo, title: str, across: str, upwards: str, closed: str, opened: str) -> str:
    gate, up, product = (at_bear(demo, part) for part in ("gate_proj", "up_proj", "mlp_act"))
    picture = Picture(title, 640, 400)
    x = picture.x_axis([-4, -2, 0, 2, 4, 6], across, room=0.04)
    y = picture.y_axis([-6, -4, -2, 0, 2, 4, 6], upwards, room=0.08)
    picture.line([(x(0), picture.top), (x(0), picture.bottom)], "faint", 1, dashed=True)
    picture.text(x(0) - 8, picture.top + 12, f"← {closed}", "faint small", anchor="end")
    picture.text(x(0) + 8, picture.top + 12, f"{opened} →", "faint small", anchor="start")
    for feature in product.abs().argsort().tolist():
        size = 1.2 + 1.6 * product[feature].abs().sqrt().item()
        kind = "b" if product[feature].abs() > 10 else "a"
        picture.dot(x(gate[feature].item()), y(up[feature].item()), kind, round(size, 1), opacity=0.6)
    for feature in SHOWN:
        place = x(gate[feature].item()) - 14, y(up[feature].item()) + 4
        picture.text(*place, f"{feature}: {fixed(product[feature], 0)}", "small", anchor="end")
    return str(picture)


def claims(demo: Demo) -> None:
    gate, up, product = (at_bear(demo, part) for part in ("gate_proj", "up_proj", "mlp_act"))
    for feature in (OPEN, CLOSED):
        g, u = round(gate[feature].item(), 3), round(up[feature].item(), 3)
        assert fixed(g / (1 + math.exp(-g)) * u, 2) == fixed(product[feature], 2), "pencil and model agree"
    assert 0.1 < gate[CLOSED].sigmoid() < 0.12, "the gate is open by a tenth"
    assert product.abs().topk(5).indices.tolist() == list(SHOWN), "the five largest products"
    assert product.abs().argmax() == OPEN and gate.argmax() == OPEN, "feature 317 has the widest gate"
    animals = "キツネ 猿 豚 クマ イヌ たぬき 犬 ヒヨコ カンガルー 象 ナマケモノ ニワトリ きつね"
    assert sorted(fires(demo, OPEN)) == sorted(animals.split()), "every piece that feature 317 answers to is an animal"
    assert gate[SHOWN[1]] > 4 > gate[product.abs().argsort(descending=True)[200:]].max(), "large products, open gates"
    assert (silu(torch.tensor([10.0, -10.0])) - torch.tensor([10.0, 0.0])).abs().max() < 1e-3, "silu far from 0"
    wide, narrow = 2 * 256 * 1024, sum(p.numel() for p in demo.model.layers[0].mlp.parameters())
    assert abs(wide - narrow) / wide < 0.04, "about as many weights as two matrices of a four-fold width"
    share = (product.abs() < 0.1).float().mean()
    assert 0.4 < share < 0.5, "more than two in five products are close to 0"
