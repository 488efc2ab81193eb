"""The numbers, the picture and the claims of chapter 14: quantisation."""

from __future__ import annotations

import inspect

import torch
from demo import Demo, fixed
from drawing import Picture
from torch import Tensor, nn

import llama_jp.model
from llama_jp.linear.weight import dequantize
from llama_jp.quantization.rounding import round_int4, round_int8

SHOWN = 64  # weights in the picture: one group


def first_row(demo: Demo) -> Tensor:
    """The first row of the first matrix, q_proj of layer 0: (256,) float32."""
    return demo.weights["layers.0.self_attn.q_proj.weight"][0].float()


def megabytes(demo: Demo, bits: int, group: int = 0) -> float:
    """The weights' size with the linear layers in int8 or int4 (lm_head int8), and the rest in float16."""
    linear = {name: each for name, each in demo.model.named_modules() if isinstance(each, nn.Linear)}
    size = 2 * sum(each.numel() for each in demo.model.parameters())
    for name, each in linear.items():
        (N, K), is_int4 = each.weight.shape, bits == 4 and name != "lm_head"
        size += (N * K // 2 + 4 * N * K // group if is_int4 else N * K + 4 * N) - 2 * N * K
    return size / 1e6


def numbers(demo: Demo) -> dict[str, str]:
    row = first_row(demo)
    largest, first = row.abs().max().item(), row[0].item()
    scale = largest / 127
    four = round_int4(row[None], SHOWN)
    step, zero = four.scale[0, 0].item(), four.zero[0, 0].item()
    return {
        "largest": fixed(largest, 5),
        "scale": fixed(scale, 6),
        "first": fixed(first, 5),
        "steps": fixed(first / scale, 2),
        "whole": fixed(round(first / scale), 0),
        "back": fixed(round(first / scale) * scale, 5),
        "low": fixed(row[:SHOWN].min(), 4),
        "high": fixed(row[:SHOWN].max(), 4),
        "fifteenth": fixed((row[:SHOWN].max() - row[:SHOWN].min()) / 15, 4),
        "int4.scale": fixed(step, 4),
        "int4.zero": fixed(zero, 4),
        "int4.steps": fixed((first - zero) / step, 2),
        "int4.back": fixed(dequantize(four, torch.float32)[0, 0], 4),
        "int4.more": fixed(100 * (dequantize(four, torch.float32)[0, 0] / first - 1), 0),
        "bits.64": fixed(4 + 32 / 64, 1),
        "mb.16": fixed(2 * sum(each.numel() for each in demo.model.parameters()) / 1e6, 1),
        "mb.8": fixed(megabytes(demo, 8), 1),
        "mb.4": fixed(megabytes(demo, 4, 64), 1),
        "logit.gap": fixed(demo.logits[len(demo.prompt) - 1 + 69].topk(2).values.diff().abs(), 4),
    }


def pictures(demo: Demo) -> dict[str, str]:
    return {
        "14-rounding": draw(demo, "64 weights of q_proj, layer 0, before and after rounding", "number of the weight",
                            "8 bits", "4 bits", "the weight", "rounded"),
        "14-rounding.ja": draw(demo, "第 0 層 q_proj の 64 個の重み。丸める前と後", "重みの番号",
                               "8 ビット", "4 ビット", "元の重み", "丸めた後"),
    }  # fmt: skip


def draw(demo: Demo, title: str, x_label: str, eight: str, four: str, *names: str) -> str:
    row = first_row(demo)
    int4 = round_int4(row[None], SHOWN)
    rounded = {eight: round_int8(row[None]), four: int4}
    picture = Picture(title, 720, 480)
    for place, (kind, name) in enumerate(zip("ab", names, strict=True)):
        picture.dot(picture.right - 180 + 100 * place, 22, kind, 4)
        picture.text(picture.right - 170 + 100 * place, 26, name, "small", anchor="start")
    for top, (name, weight) in zip((52, 250), rounded.items(), strict=True):
        values = dequantize(weight, torch.float32)[0]
        picture.top, picture.bottom = top, top + 174
        y = picture.y_axis([-0.1, 0, 0.1], name, room=0.15)
        if name == four:
            for q in range(-8, 8):
                level = y(int4.zero[0, 0].item() + q * int4.scale[0, 0].item())
                picture.line([(picture.left, level), (picture.right, level)], "b", 0.4)
        scale = (picture.right - picture.left) / SHOWN
        for i, (before, after) in enumerate(zip(row[:SHOWN].tolist(), values[:SHOWN].tolist(), strict=True)):
            x = picture.left + scale * (i + 0.5)
            picture.line([(x, y(before)), (x, y(after))], "b", 1.5)
            picture.dot(x, y(before), "a", 2.5, opacity=0.6)
            picture.dot(x, y(after), "b", 2)
    for i in range(0, SHOWN, 8):
        picture.text(picture.left + scale * (i + 0.5), picture.bottom + 19, str(i), "faint small")
    picture.text((picture.left + picture.right) / 2, picture.bottom + 40, x_label, "faint")
    return str(picture)


def claims(demo: Demo) -> None:
    row = first_row(demo)
    eight = round_int8(row[None])
    scale = eight.scale[0].item()
    assert eight.values[0, 0] == 10 and f"{10 * scale:.5f}" == numbers(demo)["back"], "pencil and code agree"
    four = round_int4(row[None], SHOWN)
    step, zero = four.scale[0, 0].item(), four.zero[0, 0].item()
    assert four.values[0, 0] % 16 == 9, "the first weight gets 1 of −8 … 7, which is stored as 9"
    assert f"{round(zero, 4) + round(step, 4):.4f}" == numbers(demo)["int4.back"], "pencil and code agree"
    assert len(set(dequantize(four, torch.float32)[0, :SHOWN].tolist())) <= 16, "sixteen values in a group"
    assert (row[:SHOWN].max() - row[:SHOWN].min()) / 15 > step > 0.9 * (row[:SHOWN].max() - row[:SHOWN].min()) / 15
    assert "quant" not in inspect.getsource(llama_jp.model).lower(), "model.py knows nothing of quantisation"
