"""The numbers, the picture and the claims of chapter 13: training."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from demo import ASK, REQUEST, Demo, fixed, row
from drawing import Picture
from torch import Tensor

import llama_jp
from llama_jp.training import example, loss

CAT = ASK.format("ネコ", "森", "リス")
ENDING = "めでたし、めでたし。"
RATE, STEPS = 3e-4, 6
STREAM = ["embed_tokens", *(f"layers.{i}" for i in range(6))]


def end_logits(demo: Demo) -> Tensor:
    """The logits after the story's last sentence, where it ends: (V,)."""
    return demo.logits[-2]


@lru_cache
def lesson(demo: Demo, request: str) -> tuple[Tensor, Tensor]:
    """Request and demo's own story with the ending, as ids and labels: both (1, T)."""
    prompt = llama_jp.instruct_prompt(demo.tokenizer, request)
    told = demo.story if request == REQUEST else llama_jp.generate(demo.model, [prompt], max_new_tokens=300)[0].ids
    ids, labels = example(demo.tokenizer, {"instruction": request, "output": demo.tokenizer.decode(told) + ENDING})
    return torch.tensor([ids]), torch.tensor([labels])


@lru_cache
def stream_gradients(demo: Demo) -> list[float]:
    """The length of the lesson's gradient at each point of the residual stream."""
    model = demo.load().requires_grad_(True)
    ids, labels = lesson(demo, REQUEST)
    with llama_jp.trace(model, STREAM, keep_graph=True) as seen:
        value = loss(model(ids), labels)
    return [each.norm().item() for each in torch.autograd.grad(value, [seen[name] for name in STREAM])]


def numbers(demo: Demo) -> dict[str, str]:
    z, wanted = end_logits(demo), demo.id_of("めでたし")
    p = z.softmax(-1)
    best, end = p.argmax().item(), p.max().item()
    target = p[wanted].item()
    up, down = torch.tensor(1 - target).exp().item(), torch.tensor(-end).exp().item()
    rest = 1 - target - end
    pencil = target * up / (target * up + end * down + rest)
    gradients = stream_gradients(demo)
    weight = demo.weights["layers.0.self_attn.q_proj.weight"].abs().median().item()
    count = sum(each.numel() for each in demo.model.parameters())
    assert best == demo.tokenizer.eos_id
    return {
        "p.end": fixed(end, 4),
        "p.wanted": fixed(target, 4),
        "loss": fixed(-torch.tensor(target).log(), 2),
        "gradient.wanted": fixed(target - 1, 4),
        "gradient.end": fixed(end, 4),
        "rest": fixed(rest, 3),
        "push": fixed(1 - target, 4),
        "up": fixed(up, 3),
        "down": fixed(down, 3),
        "wanted.up": fixed(target * up, 3),
        "end.down": fixed(end * down, 3),
        "total": fixed(target * up + end * down + rest, 3),
        "pencil": fixed(pencil, 2),
        "stream.layers": row(gradients[1:], 4),
        "stream.embedding": fixed(gradients[0], 3),
        "loss.random": fixed(torch.tensor(3072.0).log(), 2),
        "weight": fixed(weight, 4),
        "step.percent": fixed(100 * RATE / weight, 1),
        "large.percent": fixed(100 * 1e-2 / weight, 0),
        "parameters": fixed(count, 0),
        "layer.percent": fixed(100 * sum(each.numel() for each in demo.model.layers[5].parameters()) / count, 1),
        "lora.percent": fixed(100 * 118272 / count, 2),
    }


@lru_cache
def train(demo: Demo) -> list[tuple[float, float, float]]:
    """Before each step and at last: the losses of cat and bear, and p(めでたし) where the bear's story ends."""
    model = demo.load().requires_grad_(True)
    (ids, labels), (bear, bear_labels) = lesson(demo, CAT), lesson(demo, REQUEST)
    wanted = demo.id_of("めでたし")
    place = bear[0].tolist().index(wanted) - 1
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    history = []
    for step in range(STEPS + 1):
        value = loss(model(ids), labels)
        with torch.no_grad():
            logits = model(bear)
        history.append((value.item(), loss(logits, bear_labels).item(), logits[0, place].softmax(-1)[wanted].item()))
        if step < STEPS:
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
    return history


def pictures(demo: Demo) -> dict[str, str]:
    history = train(demo)
    return {
        "13-training": draw(history, "Six steps on the cat's story, and what they do to the bear's", "step", "loss",
                            "the cat's story (trained)", "the bear's story (not trained)",
                            "p of めでたし at the end of the bear's story"),
        "13-training.ja": draw(history, "ネコのお話で 6 ステップ学習すると、クマのお話はどうなるか", "ステップ", "損失",
                               "ネコのお話（学習した）", "クマのお話（学習していない）",
                               "クマのお話の最後で「めでたし」を選ぶ確率"),
    }  # fmt: skip


def draw(history: list[tuple[float, float, float]], title: str, x_label: str, y_label: str, *names: str) -> str:
    picture = Picture(title, 720, 440)
    picture.top, picture.bottom = 64, 196
    y = picture.y_axis([0, 0.05, 0.1, 0.15, 0.2], y_label, room=0.05)
    top, picture.top, picture.bottom = picture.top, 248, 388
    p = picture.y_axis([0, 0.5, 1], "p", room=0.05)
    x = picture.x_axis(list(range(STEPS + 1)), x_label, room=0.03)
    for scale, column, kind in ((y, 0, "b"), (y, 1, "a"), (p, 2, "c")):
        points = [(x(step), scale(each[column])) for step, each in enumerate(history)]
        picture.line(points, kind, 2)
        for place in points:
            picture.dot(*place, kind, 3.5)
    for place, (kind, name) in enumerate(zip("ba", names[:2], strict=True)):
        picture.dot(picture.right - 230, top + 4 + 20 * place, kind, 4)
        picture.text(picture.right - 218, top + 8 + 20 * place, name, "small", anchor="start")
    picture.text(picture.left + 12, picture.top + 30, names[2], "small", anchor="start")
    return str(picture)


def claims(demo: Demo) -> None:
    z, wanted = end_logits(demo), demo.id_of("めでたし")
    p = z.softmax(-1)
    assert p.topk(2).indices[0] == demo.tokenizer.eos_id and p.topk(4).indices[3] == wanted, "めでたし is fourth"
    variable = z.clone().requires_grad_(True)
    value = F.cross_entropy(variable[None], torch.tensor([wanted]))
    [gradient] = torch.autograd.grad(value, variable)
    assert torch.allclose(gradient, p - F.one_hot(torch.tensor(wanted), len(p)), atol=1e-6), "the gradient is p − y"
    after = (z - gradient).softmax(-1)[wanted].item()
    assert f"{after:.2f}" == numbers(demo)["pencil"], "pencil and model agree in two decimals"
    layers = stream_gradients(demo)[1:]
    assert max(layers) < 1.25 * min(layers), "the gradient is equally long after every layer"
    model = demo.load().requires_grad_(True)
    ids, labels = lesson(demo, REQUEST)
    loss(model(ids), labels).backward()
    assert all(each.grad.abs().sum() > 0 for each in model.parameters()), "it reaches every matrix"
    assert len(list(model.parameters())) == 57
    matrices = [each for layer in model.layers for each in layer.parameters() if each.dim() == 2]
    assert sum(4 * sum(each.shape) for each in matrices) == 118272, "the size of LoRA"
