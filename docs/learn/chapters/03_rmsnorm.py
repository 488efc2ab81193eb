"""The numbers, the picture and the claims of chapter 3: RMSNorm."""

from __future__ import annotations

import torch
from demo import Demo, close, fixed, row
from drawing import Picture

from llama_jp.model import rms_norm

FIRST = "layers.0.input_layernorm"
LAYERS = range(6)


def bear(demo: Demo) -> tuple[torch.Tensor, torch.Tensor]:
    """The embedding of クマ and the weight of the first norm, both (C,)."""
    return demo.weights["embed_tokens.weight"][demo.id_of("クマ")], demo.weights[f"{FIRST}.weight"]


def median_norm(demo: Demo, point: str) -> float:
    return demo.trace()[point][0].norm(dim=-1).median().item()


def without_the_mean(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """LayerNorm without a bias."""
    return rms_norm(x - x.mean(-1, keepdim=True), weight, eps)


def numbers(demo: Demo) -> dict[str, str]:
    x, weight = bear(demo)
    mean_square = x.pow(2).mean()
    y = demo.model.layers[0].input_layernorm(x)
    return {
        "norm.embedding": fixed(median_norm(demo, "embed_tokens"), 2),
        "norm.layer0": fixed(median_norm(demo, "layers.0"), 1),
        "norm.layer5": fixed(median_norm(demo, "layers.5"), 1),
        "toy.ms": fixed((9 + 16) / 4, 2),
        "toy.rms": fixed((25 / 4) ** 0.5, 1),
        "toy.y": row([3 / 2.5, -4 / 2.5], 1).replace(" ", ", "),
        "x": row(x[:4], 4),
        "sum": fixed(x.pow(2).sum(), 4),
        "ms": fixed(mean_square, 6),
        "ms.eps": fixed(mean_square + 1e-6, 6),
        "rms": fixed((mean_square + 1e-6).sqrt(), 4),
        "factor": fixed((mean_square + 1e-6).rsqrt(), 3),
        "weight": row(weight[:4], 4),
        "y": row(y[:4], 3),
        "before.ratio": fixed(median_norm(demo, "layers.4") / median_norm(demo, "embed_tokens"), 0),
        "after.ratio": fixed(median_norm(demo, "layers.5.input_layernorm") / median_norm(demo, FIRST), 1),
        "factor.10eps": fixed((mean_square + 1e-5).rsqrt(), 2),
    }


def pictures(demo: Demo) -> dict[str, str]:
    return {
        "03-norms": draw(demo, "Length of each token's vector, before and after each norm (request and story)",
                         "which norm: attention (a) and MLP (m) of layers 0 to 5, and the last one", "length",
                         "before the norm", "after it"),
        "03-norms.ja": draw(demo, "各トークンのベクトルの長さ。ノルムの前と後（依頼とお話の全部）",
                            "どのノルムか。第 0 層から第 5 層のアテンション（a）と MLP（m）、最後は出力の前", "長さ",
                            "ノルムの前", "ノルムの後"),
    }  # fmt: skip


def draw(demo: Demo, title: str, x_label: str, y_label: str, before: str, after: str) -> str:
    seen = demo.trace()
    streams = ["embed_tokens", *(f"layers.{i}{part}" for i in LAYERS for part in (".after_attention", ""))]
    norms = [f"layers.{i}.{part}_layernorm" for i in LAYERS for part in ("input", "post_attention")] + ["norm"]
    names = [f"{i}{part}" for i in LAYERS for part in "am"] + ["→"]
    picture = Picture(title, 720, 360)
    y = picture.y_axis([0.1, 1, 10, 100, 1000], y_label, log=True)
    step = (picture.right - picture.left) / len(norms)
    for column, (stream, norm, name) in enumerate(zip(streams, norms, names, strict=True)):
        middle = picture.left + step * (column + 0.5)
        for point, kind, shift in ((stream, "b", -8), (norm, "a", 8)):
            lengths = seen[point][0].norm(dim=-1)
            for length in lengths[::12]:
                picture.dot(middle + shift, y(length.item()), kind, 2.5, opacity=0.35)
            level = y(lengths.median().item())
            picture.line([(middle + shift - 7, level), (middle + shift + 7, level)], kind, 2.5)
        picture.text(middle, picture.bottom + 17, name, "small")
    picture.text((picture.left + picture.right) / 2, picture.bottom + 40, x_label, "faint small")
    for place, (kind, name) in enumerate((("b", before), ("a", after))):
        picture.dot(picture.right - 130, picture.bottom - 34 + 20 * place, kind, 4)
        picture.text(picture.right - 118, picture.bottom - 30 + 20 * place, name, anchor="start")
    return str(picture)


def claims(demo: Demo) -> None:
    seen, (x, weight) = demo.trace(), bear(demo)
    lengths = [median_norm(demo, name) for name in ("embed_tokens", *(f"layers.{i}" for i in LAYERS))]
    assert lengths == sorted(lengths), "the vectors grow in every layer"
    assert lengths[1] / lengths[0] > 45, "the first layer makes them almost fifty times as long"
    attention = [median_norm(demo, f"layers.{i}.input_layernorm") for i in LAYERS]
    assert max(attention) / min(attention) < 2, "after the norm the lengths differ by less than a factor of two"
    pencil = [round(x, 4) * 18.118 * round(w, 4) for x, w in zip(x[:4].tolist(), weight[:4].tolist(), strict=True)]
    model = demo.model.layers[0].input_layernorm(x)[:4].tolist()
    assert [f"{p:.3f}" for p in pencil] == [f"{m:.3f}" for m in model], "pencil and model agree in three decimals"
    assert close(1 / 0.003046**0.5, 18.118, 1e-4), "1 / √0.003046 is 18.12"
    assert torch.equal(seen[FIRST][0, demo.where("クマ")[0]], demo.model.layers[0].input_layernorm(x)), (
        "the model's first norm has exactly this input"
    )
    stream = seen["layers.2"][0]
    share = stream.mean(-1).pow(2) / stream.pow(2).mean(-1)
    assert share.median() < 0.01, "the mean of a vector is near zero: without it, its mean square hardly changes"
    weights = torch.stack([w for name, w in demo.weights.items() if name.endswith("norm.weight")])
    assert weights.min() > 0, "no weight is negative: the norm turns no feature over"
    assert demo.model.config.rms_norm_eps == 1e-6
