"""torch's packed layout of int4 weights as a permutation of 4-bit numbers, and floats from it.

A stored byte holds two neighbouring inputs of one output. A packed byte holds one input of two outputs. Packing is
therefore a transposition of 4-bit numbers. It works on words of eight bytes, since a weight unpacked to one number per
byte, or per int32 as torch's own conversion needs it, takes several times as long and as much memory.

The letters in the shapes:

    N outputs   K inputs   H half of a block of outputs   B blocks, N / 2H   W words of a stored row, K / 16   G groups
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

WORD = 8  # bytes

BYTES_AT_ONCE = 1 << 21  # stay in the CPU cache

LOW_HALVES = {4: 0x0F0F0F0F0F0F0F0F, 8: 0x00FF00FF00FF00FF, 16: 0x0000FFFF0000FFFF, 32: 0x00000000FFFFFFFF}


def interleave_int4(values: Tensor, half: int) -> Tensor:
    """Stored weights (N, K / 2) uint8 -> packed weights (N, K / 2) uint8, seen as (B, K, H):

        packed[b, k, h] = q[2H b + h, k] | q[2H b + H + h, k] << 4

    half  H, a multiple of eight; 2H divides N, and 16 divides K
    """
    packed = torch.empty_like(values)
    for rows in row_blocks(values, half):
        block = values[rows]
        if block.storage_offset() % WORD or block.data_ptr() % WORD:  # a memory-mapped tensor may start anywhere
            block = block.clone()
        packed_words(packed[rows], half).copy_(transpose_numbers(stored_words(block, half)))
    return packed


def deinterleave_int4(packed: Tensor, half: int) -> Tensor:
    """The inverse of `interleave_int4`."""
    values = torch.empty_like(packed)
    for rows in row_blocks(packed, half):
        stored_words(values[rows], half).copy_(transpose_numbers(packed_words(packed[rows], half)))
    return values


def row_blocks(values: Tensor, half: int) -> Iterator[slice]:
    """The rows of a stored or packed weight, some blocks of outputs at a time."""
    rows = 2 * half * max(1, BYTES_AT_ONCE // (2 * half * values.shape[1]))
    for begin in range(0, len(values), rows):
        yield slice(begin, begin + rows)


def stored_words(values: Tensor, half: int) -> Tensor:
    """A view of stored bytes as words (output of eight, B, W, first or second half of a block, groups of eight)."""
    words = values.view(torch.int64).view(-1, 2, half // WORD, WORD, values.shape[1] // WORD)
    return words.permute(3, 0, 4, 1, 2)


def packed_words(packed: Tensor, half: int) -> Tensor:
    """A view of packed bytes as words (byte of a stored word, B, W, even or odd input, groups of eight outputs)."""
    words = packed.view(torch.int64).view(-1, packed.shape[1] // WORD, WORD, 2, half // WORD)
    return words.permute(2, 0, 1, 3, 4)


def transpose_numbers(words: Tensor) -> Tensor:
    """Transpose the numbers of `stored_words` into those of `packed_words`, or the reverse: it is its own inverse.

    The two inputs of a stored byte and the two outputs of a packed byte are a matrix of 2 x 2 numbers. Eight rows of
    eight bytes are a matrix of 8 x 8 bytes.
    """
    words = words.clone(memory_format=torch.contiguous_format)
    exchange(words[:, :, :, 0], words[:, :, :, 1], 4)
    for bits in (8, 16, 32):
        pairs = words.view(-1, 2, bits // 8, *words.shape[1:])
        exchange(pairs[:, 0], pairs[:, 1], bits)
    return words


def exchange(a: Tensor, b: Tensor, bits: int) -> None:
    """Exchange the high half of each 2 * `bits` bits in `a` with the low half of the same bits in `b`, in place."""
    different = ((a >> bits) ^ b) & LOW_HALVES[bits]
    b ^= different
    a ^= different << bits


def dequantize_interleaved(packed: Tensor, scale_and_zero: Tensor, half: int) -> Tensor:
    """The bfloat16 values of packed weights (N, K / 2), bit-identical to `dequantize`, transposed: (2, K, N / 2).

    The first matrix holds the first H outputs of each block, the second the others.

    scale_and_zero  (G, N, 2) bfloat16
    """
    (N, K), G = (len(packed), 2 * packed.shape[1]), len(scale_and_zero)
    blocks = packed.view(torch.int64).view(-1, K, half // WORD)  # (B, K, words of H bytes)
    words = blocks.transpose(0, 1).reshape(K, -1)
    numbers = torch.stack((words, words >> 4)).bitwise_and_(LOW_HALVES[4]).view(torch.int8)  # (2, K, N / 2)
    q = numbers.sub_(8).to(torch.bfloat16).view(2, G, -1, N // 2)
    scale, zero = scale_and_zero.view(G, -1, 2, half, 2).permute(4, 2, 0, 1, 3).reshape(2, 2, G, 1, N // 2)
    # rounding: q and its product with scale are exact; addcmul computes in float32 and rounds once
    return torch.addcmul(zero, q, scale, out=q).view(2, K, N // 2)
