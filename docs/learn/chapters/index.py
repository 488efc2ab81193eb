"""The numbers and the picture of the tour's first page."""

from __future__ import annotations

import torch
from demo import Demo, fixed
from drawing import Picture


def movement(demo: Demo) -> float:
    """How far a second <s> moves the logits after the prompt."""
    wrong = [demo.tokenizer.bos_id, *demo.prompt]
    logits = demo.model(torch.tensor([wrong + demo.story]))[0, len(wrong) :]
    return (logits - demo.logits[len(demo.prompt) :]).abs().max().item()


def numbers(demo: Demo) -> dict[str, str]:
    return {
        "parameters": f"{sum(weight.numel() for weight in demo.weights.values()):,}",
        "moved": fixed(movement(demo), 2),
    }


def pictures(demo: Demo) -> dict[str, str]:
    english = {
        "title": "The way of a text through demo. Numbers in circles are chapters",
        "text": "text",
        "ids": "ids",
        "next": "next token",
        "table": "embedding",
        "attention": "attention",
        "head": "logits",
        "choose": "choose",
        "layers": f"× {len(demo.model.layers)} layers",
        "stream": "residual stream",
    }
    japanese = english | {
        "title": "demo の中の、文章の通り道。丸の中は章の番号",
        "text": "文章",
        "next": "次のトークン",
        "table": "埋め込み",
        "attention": "アテンション",
        "head": "ロジット",
        "choose": "選ぶ",
        "layers": f"× {len(demo.model.layers)} 層",
        "stream": "残差ストリーム",
    }
    return {"00-map": draw(demo, english), "00-map.ja": draw(demo, japanese)}


def draw(demo: Demo, words: dict[str, str]) -> str:
    config = demo.model.config
    C, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    H, D = config.num_attention_heads, config.head_dim
    picture = Picture(words["title"], 760, 470)

    def box(x: float, y: float, text: str, shape: str, chapters: list[int], kind: str = "a", width: int = 124) -> None:
        picture.box(x, y, width, 44, kind, opacity=0.18)
        picture.text(x + width / 2, y + 19, text)
        picture.text(x + width / 2, y + 36, shape, "faint small")
        for place, chapter in enumerate(chapters):
            picture.dot(x + width - 2 - 22 * place, y - 4, kind, 10)
            picture.text(x + width - 2 - 22 * place, y, str(chapter), "small paper-fill")

    middle, left = 380, 150
    picture.text(left - 84, 82, words["text"])
    picture.arrow((left - 62, 78), (left - 8, 78), "faint")
    box(left, 56, words["ids"], "(B, T)", [1], "c")
    picture.arrow((left + 124, 78), (middle - 64, 78), "faint")
    box(middle - 62, 56, words["table"], f"{V:,} × {C}", [2])
    # the residual stream, with two branches that come back to it
    picture.box(72, 126, 640, 194, "soft", opacity=0.35)
    picture.line([(middle, 100), (middle, 344)], "b", 3)
    picture.text(704, 144, words["layers"], "faint", "end")
    picture.text(middle + 10, 122, f"{words['stream']} (B, T, {C})", "small b-fill", "start")
    for y, name, shape, chapters in (
        (152, words["attention"], f"{H} × {D}", [6, 5, 4]),
        (244, "SwiGLU", f"{C} → {F} → {C}", [7]),
    ):
        picture.arrow((middle, y + 22), (middle - 50, y + 22), "b")
        box(middle - 156, y, "RMSNorm", str(C), [3], width=104)
        picture.line([(middle - 156, y + 22), (middle - 174, y + 22)], "faint")
        picture.arrow((middle - 174, y + 22), (middle - 180, y + 22), "faint")
        box(middle - 306, y, name, shape, chapters)
        picture.line([(middle - 244, y + 44), (middle - 244, y + 60), (middle - 30, y + 60)], "faint")
        picture.arrow((middle - 30, y + 60), (middle - 11, y + 60), "faint")
        picture.dot(middle, y + 60, "b", 10)
        picture.text(middle, y + 65, "+", "paper-fill")
    box(middle + 90, 152, "KV", f"2 × (B, {config.num_key_value_heads}, S, {D})", [10], "c")
    picture.line([(middle + 90, 174), (middle + 40, 174), (middle + 40, 134), (middle - 288, 134)], "faint", 1, True)
    picture.arrow((middle - 288, 134), (middle - 288, 151), "faint", 1)
    box(middle - 62, 344, "RMSNorm", str(C), [3])
    picture.arrow((middle + 62, 366), (middle + 96, 366), "faint")
    box(middle + 98, 344, words["head"], f"(B, T, {V:,})", [8])
    picture.arrow((middle + 160, 388), (middle + 160, 408), "faint")
    box(middle + 98, 410, words["choose"], "", [9], "c")
    picture.line([(middle + 98, 432), (30, 432), (30, 110), (left - 40, 110)], "faint", 1, True)
    picture.line([(left - 40, 110), (left + 62, 110)], "faint", 1, True)
    picture.arrow((left + 62, 110), (left + 62, 101), "faint", 1)
    picture.text(middle - 150, 426, words["next"], "faint small")
    return str(picture)
