"""Chapter 10: what the KV cache keeps, what it saves, and what it costs."""

from __future__ import annotations

import torch
from demo import Demo, fixed
from drawing import Picture
from torch import Tensor

from llama_jp.cache import Cache

SHOWN_ROWS, SHOWN_NUMBERS = 4, 24  # of the picture


def filled(demo: Demo, steps: int) -> Cache:
    """A cache filled as in generation: the prompt at once, then some tokens of the story one by one."""
    cache, ids = demo.model.new_cache(1, 256), torch.tensor([demo.ids])
    demo.model(ids[:, : len(demo.prompt)], cache)
    for i in range(len(demo.prompt), len(demo.prompt) + steps):
        demo.model(ids[:, i : i + 1], cache)
    return cache


def bytes_per_token(cache: Cache) -> int:
    tensors = cache.tensors().values()
    return sum(tensor.element_size() * tensor.numel() // tensor.shape[2] for tensor in tensors)


def seven_b() -> Cache:
    """The cache of ELYZA's 7B in bfloat16, without memory."""
    return Cache(32, 1, 32, 4096, 128, torch.bfloat16, torch.device("meta"))


def numbers(demo: Demo) -> dict[str, str]:
    config, prompt, story = demo.model.config, len(demo.prompt), len(demo.story)
    without = sum(range(prompt, prompt + story))
    small = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return {
        "prompt": str(prompt),
        "story": str(story),
        "last": str(prompt + story - 1),
        "without": f"{without:,}",
        "with": str(prompt + story - 1),
        "ratio": fixed(without / (prompt + story - 1), 0),
        "numbers": f"{small:,}",
        "bytes": f"{4 * small:,}",
        "whole": fixed(4 * small * (prompt + story - 1) / 2**20, 1),
        "big": f"{bytes_per_token(seven_b()):,}",
        "big.full": fixed(bytes_per_token(seven_b()) * 4096 / 2**30, 0),
    }


def pictures(demo: Demo) -> dict[str, str]:
    english = "Keys in the cache (layer 0, head 0, the first 24 of 64 numbers)", "after prefill", "step 1", "step 2"
    japanese = (
        "キャッシュの中のキー（第 0 層、ヘッド 0、64 個の数の先頭 24 個）",
        "プリフィルの後",
        "ステップ 1",
        "ステップ 2",
    )
    return {"10-cache": draw(demo, *english), "10-cache.ja": draw(demo, *japanese)}


def draw(demo: Demo, title: str, *panels: str) -> str:
    cache = filled(demo, steps=len(panels) - 1)
    keys: Tensor = cache.keys[0][0, 0]  # (positions, D)
    picture = Picture(title, 900, 256)
    names, first = demo.spell(demo.ids), len(demo.prompt) - SHOWN_ROWS
    high, wide, labels = 24, 7.6, 76
    scale = keys[first : first + SHOWN_ROWS + 2, :SHOWN_NUMBERS].abs().max()
    for panel, label in enumerate(panels):
        left, rows = 16 + panel * 295 + labels, SHOWN_ROWS + panel
        picture.text(left, 66, f"{label}: {len(demo.prompt) + panel}", "faint", anchor="start")
        for row in range(rows):
            y, position = 78 + high * row, first + row
            picture.text(left - 6, y + 16, f"{position} {names[position]}", "small", anchor="end")
            for column in range(SHOWN_NUMBERS):
                value = (keys[position, column] / scale).item()
                kind, opacity = "b" if value > 0 else "a", round(abs(value), 2)
                picture.box(left + wide * column, y + 1, wide, high - 2, kind, opacity=opacity)
            if panel and row == rows - 1:
                right = left + wide * SHOWN_NUMBERS
                frame = [(left, y), (right, y), (right, y + high), (left, y + high), (left, y)]
                picture.line(frame, "c", 2)
        for column in (0, SHOWN_NUMBERS - 1):
            picture.text(left + wide * (column + 0.5), 92 + high * rows, str(column), "faint small")
    return str(picture)


def claims(demo: Demo) -> None:
    cache, trace = filled(demo, len(demo.story)), demo.trace()
    assert cache.length == len(demo.ids)
    for layer in range(demo.model.config.num_hidden_layers):
        for name, stored in (("keys", cache.keys), ("values", cache.values)):
            whole = trace[f"layers.{layer}.self_attn.{name}"]
            apart = (stored[layer][:, :, : cache.length] - whole).abs().max()
            assert apart < 1e-3, "keys and values of a token do not depend on the tokens after it"
    assert bytes_per_token(cache) == 6 * 2 * 4 * 64 * 4 == 12288, "the pencil's bytes are the cache's"
    assert bytes_per_token(seven_b()) == 32 * 2 * 32 * 128 * 2
    assert sum(range(40, 174)) == 134 * (40 + 173) // 2, "the sum by pencil"
