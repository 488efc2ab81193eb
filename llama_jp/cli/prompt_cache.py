"""Reuse a KV cache for the beginning of the next prompt."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..cache import Cache
from ..model import Llama


def open_cache(file: Path, model: Llama, ids: Sequence[int]) -> tuple[Cache, int]:
    """A KV cache with the prompt's first tokens from `file`, and their number; empty if there is no such file."""
    cache = model.new_cache(1, model.config.context_length)
    cached = common_prefix_length(cache.load(file), ids) if file.exists() else 0
    cache.crop(cached)
    return cache, cached


def save_cache(cache: Cache, file: Path, ids: Sequence[int]) -> None:
    """Save the cache, complete or not at all: a full disk or an interruption leaves an earlier file as it was."""
    with tempfile.TemporaryDirectory(prefix=f".{file.name}-", dir=file.absolute().parent) as folder:
        complete = Path(folder) / file.name
        cache.save(complete, ids)
        complete.replace(file)


def common_prefix_length(cached: Sequence[int], ids: Sequence[int]) -> int:
    """The number of tokens of the prompt `ids` that a cache of the tokens `cached` can serve.

    The prompt's last token never counts: the model has to process it, because its logits give the first new token.
    """
    longest = min(len(cached), len(ids) - 1)
    return next((i for i in range(longest) if cached[i] != ids[i]), longest)
