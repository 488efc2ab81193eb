"""Chapter 6: what each of demo's 24 heads does, and what shared keys and values cost."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import torch
from demo import ASK, Demo, fixed
from drawing import Picture
from torch import Tensor

import llama_jp
from llama_jp import Llama

FRIEND, NAMES, PLACE = "アザラシ", ("クマ", "アザラシ"), "海辺"
LAST = 5  # the last layer, where the names are written
CARRIER = (LAST, 1)  # the head that this chapter finds


class Head(NamedTuple):
    """The weight of one head on the same name, and what the story is without this head."""

    weight: float  # mean over all names of the story
    name_without: float  # mean p over all names of the story
    friend_without: float  # p of the friend's name at its first place
    place_without: float  # p of the place at its first place
    perplexity_without: float


def before(demo: Demo, *pieces: str) -> list[int]:
    """The positions in the story whose next token is one of these pieces."""
    return [i for i in range(len(demo.prompt) - 1, len(demo.ids) - 1) if demo.pieces[i + 1] in pieces]


def zero(head: int, x: Tensor) -> Tensor:
    return x.index_fill(1, torch.tensor([head]), 0)  # (B, H, T, D)


def without(demo: Demo, layer: int, head: int) -> Tensor:
    """The logits (T, V) of request and story with one head off."""
    with demo.edited(**{f"layers.{layer}.self_attn.attn_output": partial(zero, head)}) as model:
        return demo.logits_of(model)


def weights(demo: Demo, layer: int) -> Tensor:
    return demo.trace()[f"layers.{layer}.self_attn.probabilities"][0]  # (H, T, T)


def on_same_piece(demo: Demo, layer: int, head: int, at: int) -> float:
    """The weight of the query at `at` on all earlier copies of the piece that comes next."""
    earlier = [i for i in demo.where(demo.pieces[at + 1]) if i <= at]
    return weights(demo, layer)[head, at, earlier].sum().item()


def probabilities(demo: Demo, logits: Tensor, at: list[int]) -> list[float]:
    """p of the tokens that come next."""
    return [logits[i].softmax(-1)[demo.ids[i + 1]].item() for i in at]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@lru_cache
def head_off(demo: Demo, layer: int, head: int) -> Head:
    names, friend, place = before(demo, *NAMES), before(demo, FRIEND)[:1], before(demo, PLACE)[:1]
    logits = without(demo, layer, head)
    weight = mean([on_same_piece(demo, layer, head, i) for i in names])
    means = (mean(probabilities(demo, logits, at)) for at in (names, friend, place))
    return Head(weight, *means, demo.perplexity(logits))


def heads(demo: Demo) -> dict[tuple[int, int], Head]:
    config = demo.model.config
    every = product(range(config.num_hidden_layers), range(config.num_attention_heads))
    return {(layer, head): head_off(demo, layer, head) for layer, head in every}


def written(demo: Demo) -> list[float]:
    """What each head of the last layer adds to the logit of the friend's name, before its first appearance."""
    at, model = before(demo, FRIEND)[0], demo.model
    scale = (demo.trace()[f"layers.{LAST}"][0, at].pow(2).mean() + model.norm.eps).rsqrt()
    direction = model.lm_head.weight[demo.id_of(FRIEND)] * model.norm.weight * scale  # (C,)
    mixed = demo.trace()[f"layers.{LAST}.self_attn.attn_output"][0, :, at]  # (H, D)
    columns = model.layers[LAST].self_attn.o_proj.weight.split(model.config.head_dim, dim=1)  # H times (C, D)
    return [(direction @ part @ one).item() for part, one in zip(columns, mixed, strict=True)]


def most_on_names(demo: Demo, hero: str, place: str, friend: str) -> list[tuple[int, int]]:
    """For each name of another story: the head with the most weight on earlier copies of it, one token before."""
    prompt = llama_jp.instruct_prompt(demo.tokenizer, ASK.format(hero, place, friend))
    ids = prompt + llama_jp.generate(demo.model, [prompt], max_new_tokens=300)[0].ids
    pieces = demo.tokenizer.pieces(ids)
    with torch.no_grad(), llama_jp.trace(demo.model, ["layers.*.self_attn.probabilities"]) as seen:
        demo.model(torch.tensor([ids]))
    maps = torch.cat(list(seen.values()))  # (layers, H, T, T)
    best = []
    for at in range(len(prompt), len(ids)):
        if pieces[at] in (hero, friend):
            copies = [i for i in range(at) if pieces[i] == pieces[at]]
            best.append(divmod(int(maps[:, :, at - 1, copies].sum(-1).argmax()), maps.shape[1]))
    return best


def textbook(demo: Demo) -> dict[str, float]:
    """The best of all heads at three jobs: mean weight on the token before, after an earlier copy, on the first."""
    T, start = len(demo.ids), len(demo.prompt)
    ids, index = torch.tensor(demo.ids), torch.arange(T)
    copies = (ids[:, None] == ids) & (index < index[:, None]) & (index > 0)  # (T, T): i has an earlier copy at j
    after_copy = copies.roll(1, dims=1)[start:]  # the token after that copy
    found = after_copy.any(-1)
    seen = torch.cat([weights(demo, layer) for layer in range(demo.model.config.num_hidden_layers)])[:, start:]
    jobs = {
        "previous": seen.diagonal(start - 1, 1, 2).mean(-1),
        "induction": (seen * after_copy).sum(-1)[:, found].mean(-1),
        "sink": seen[..., 0].mean(-1),
    }
    return {job: best.max().item() for job, best in jobs.items()}


def pooled(demo: Demo, heads: int, wrong_order: bool = False) -> Llama:
    """demo with fewer key/value heads: each is the mean of the heads that it replaces."""
    model = demo.load()
    attend = model.layers[0].self_attn.attend

    def attend_0101(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        times = q.shape[1] // k.shape[1]
        return attend(q, k.repeat(1, times, 1, 1), v.repeat(1, times, 1, 1), mask)

    changes = {"attention": attend_0101 if wrong_order else attend, "rope": model.rope, "norm": model.norm.norm}
    grouped = Llama(replace(model.config, num_key_value_heads=heads), **changes).to(demo.dtype)
    weights = model.state_dict()
    for name, weight in weights.items():
        if "k_proj" in name or "v_proj" in name:  # (H * D, C)
            weights[name] = weight.view(heads, -1, model.config.head_dim, weight.shape[1]).mean(1).flatten(0, 1)
    grouped.load_state_dict(weights)
    return grouped.requires_grad_(False)


def numbers(demo: Demo) -> dict[str, str]:
    friend, carrier, other = before(demo, FRIEND)[0], head_off(demo, *CARRIER), head_off(demo, LAST, 2)
    printed = {
        "p": fixed(probabilities(demo, demo.logits, [friend])[0], 4),
        "p.without": fixed(carrier.friend_without, 3),
        "names": str(len(before(demo, *NAMES))),
        "names.p": fixed(mean(probabilities(demo, demo.logits, before(demo, *NAMES))), 3),
        "names.without": fixed(carrier.name_without, 3),
        "names.weight": fixed(carrier.weight, 3),
        "look.0": fixed(weights(demo, LAST)[2, friend, demo.where(FRIEND)[0]], 2),
        "look.2": fixed(other.weight, 2),
        "look.2.names": fixed(other.name_without, 2),
        "sum": fixed(sum(round(value, 2) for value in written(demo)), 2),
        "logit": fixed(demo.logits[friend, demo.id_of(FRIEND)], 2),
        "perplexity": fixed(demo.perplexity(demo.logits), 2),
        "pairs": fixed(demo.perplexity(demo.logits_of(pooled(demo, 2))), 2),
        "wrong": fixed(demo.perplexity(demo.logits_of(pooled(demo, 2, wrong_order=True))), 1),
        "one": fixed(demo.perplexity(demo.logits_of(pooled(demo, 1))), 1),
    }
    printed |= {f"written.{head}": fixed(value, 2) for head, value in enumerate(written(demo))}
    return printed | {f"best.{job}": fixed(value, 2) for job, value in textbook(demo).items()}


def pictures(demo: Demo) -> dict[str, str]:
    english = "The 24 heads: where they look, and what they carry", "weight on the same name", "p(name), head off"
    japanese = "24 のヘッド: どこを見るか、何を運ぶか", "同じ名前への重み", "切ったときの p(名前)"
    return {
        "06-heads": draw(demo, *english, "layer {}, head {}"),
        "06-heads.ja": draw(demo, *japanese, "第 {} 層のヘッド {}"),
    }


def draw(demo: Demo, title: str, across: str, upwards: str, label: str) -> str:
    picture = Picture(title, 640, 360)
    x = picture.x_axis([0, 0.2, 0.4, 0.6, 0.8, 1], across, room=0.02)
    y = picture.y_axis([0, 0.2, 0.4, 0.6, 0.8, 1], upwards, room=0.02)
    for (layer, head), found in heads(demo).items():
        kind, name = "b" if (layer, head) == CARRIER else "a", label.format(layer, head)
        picture.dot(x(found.weight), y(found.name_without), kind, 5, name, opacity=0.8)
        if layer == LAST and head < 3:
            place = x(found.weight) - 10, y(found.name_without) + 4
            picture.text(*place, name, "small", anchor="end")
    return str(picture)


def claims(demo: Demo) -> None:
    found, friend = heads(demo), before(demo, FRIEND)[0]
    assert [key for key, head in found.items() if head.friend_without < 0.97] == [CARRIER], "one head carries the name"
    others = most_on_names(demo, "キツネ", "山", "ウサギ") + most_on_names(demo, "パンダ", "図書館", "ペンギン")
    assert len(others) == 18 and set(others) == {CARRIER}, "the same head in two other stories, for 18 names"
    assert weights(demo, LAST)[1, friend].argmax() == demo.where(FRIEND)[0], "head 1 looks at the name in the request"
    best = demo.spell(without(demo, *CARRIER)[friend].topk(5).indices.tolist())
    assert best == ["アザラシ", "スズメ", "フクロウ", "キリン", "コウモリ"], (
        "without the head, the best five are animals"
    )
    assert written(demo)[1] > 3 * sum(written(demo)[::2]) and all(value > 0 for value in written(demo)), "head 1 writes"
    assert fixed(sum(written(demo)), 2) == fixed(sum(round(value, 2) for value in written(demo)), 2), "the pencil's sum"
    assert sum(written(demo)) > demo.logits[friend, demo.id_of(FRIEND)] / 2, "more than half of the logit"
    lines = demo.model.layers[LAST].self_attn.o_proj.weight.shape, demo.model.config.num_attention_heads
    assert lines == ((256, 256), 4), "o_proj has 256 columns, 64 for each of four heads"
    assert found[LAST, 0].weight > 0.4 and found[LAST, 0].name_without > 0.9, "head 0 looks, but is not needed"
    assert min(found, key=lambda key: found[key].place_without) == (2, 1), "layer 2, head 1 carries the place"
    assert found[1, 3].place_without > 0.8 and on_same_piece(demo, 1, 3, before(demo, PLACE)[0]) > 0.9, (
        "layer 1, head 3 looks at the place, but is not needed"
    )
    worst = sorted(found, key=lambda key: -found[key].perplexity_without)[:3]
    assert worst == [(0, 0), CARRIER, (0, 2)], "the three heads that cost most"
    assert all(value < 0.35 for value in textbook(demo).values()), "no textbook head"
