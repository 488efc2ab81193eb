"""Tensors in JSON, as base64, each with a check of its bytes and one of its values."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np
from torch import Tensor

STEPS = 65535  # of a weight or probability in 16 bits: exact to 1e-5

# How page/decode.js decodes each kind.
KINDS = {
    "unit16": "<u2",  # numbers from 0 to 1, as multiples of 1 / STEPS
    "float32": "<f4",
    "uint32": "<u4",
}


def encode(tensor: Tensor, kind: str) -> dict[str, Any]:
    """A tensor for the page: its kind, shape and data, and two checks.

    `crc` is the CRC-32 of the stored bytes: it finds a damaged file. `sum` is computed from the numbers themselves and
    not from the bytes: it finds an encoder and a decoder that do not belong together.
    """
    values = stored = tensor.detach().cpu().numpy()
    if kind == "unit16":
        stored = np.rint(values.astype(np.float64) * STEPS)
        values = stored / STEPS
    data = np.ascontiguousarray(stored, dtype=KINDS[kind]).tobytes()
    return {
        "kind": kind,
        "shape": list(tensor.shape),
        "data": base64.b64encode(data).decode("ascii"),
        "crc": zlib.crc32(data),
        "sum": weighted_sum(values),
    }


def weighted_sum(values: np.ndarray) -> float:
    """The sum of all values, each with a weight from 0 to 1 that its index decides. Infinity and NaN count as 0.

    The weights differ, so that values in another order have another sum.
    """
    flat = values.astype(np.float64).ravel()
    weights = (np.arange(flat.size, dtype=np.int64) * 40503 & 0xFFFF) / 0x10000
    return float(np.where(np.isfinite(flat), flat, 0.0) @ weights)
