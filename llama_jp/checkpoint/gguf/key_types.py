"""The types of the values of the keys that this project uses. A damaged file may have others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple


class KeyType(NamedTuple):
    """A type in words, the test of a value, and the keys that have it."""

    in_words: str
    holds: Callable[[Any], bool]
    keys: re.Pattern[str]


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, float) or is_whole(value)


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_list(value: Any, is_element: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(is_element, value))


KEY_TYPES = (
    KeyType(
        "a whole number",
        is_whole,
        re.compile(
            r"general\.alignment|split\.count|tokenizer\.ggml\.\w+_token_id|llama\.((context|embedding)_length"
            r"|block_count|expert_count|rope\.dimension_count|attention\.(key_length|value_length|sliding_window)"
            r"|rope\.scaling\.original_context_length)"
        ),
    ),
    KeyType(
        "a whole number, or one for each layer",
        lambda value: is_whole(value) or is_list(value, is_whole),
        re.compile(r"llama\.(feed_forward_length|attention\.head_count(_kv)?)"),
    ),
    KeyType(
        "a number",
        is_number,
        re.compile(
            r"llama\.(attention\.layer_norm_rms_epsilon|rope\.(freq_base|scale_linear"
            r"|scaling\.(factor|attn_factor|yarn_\w+)))"
        ),
    ),
    KeyType(
        "true or false",
        lambda value: isinstance(value, bool),
        re.compile(r"tokenizer\.ggml\.(add_\w+|remove_extra_whitespaces)|llama\.attention\.causal"),
    ),
    KeyType(
        "a string",
        is_text,
        re.compile(
            r"general\.(architecture|type)|tokenizer\.ggml\.(model|pre)|tokenizer\.chat_template(\..+)?"
            r"|llama\.rope\.scaling\.type"
        ),
    ),
    KeyType(
        "a list of strings",
        lambda value: is_list(value, is_text),
        re.compile(r"tokenizer\.ggml\.(tokens|merges)|tokenizer\.chat_templates"),
    ),
    KeyType("a list of numbers", lambda value: is_list(value, is_number), re.compile(r"tokenizer\.ggml\.scores")),
    KeyType(
        "a list of whole numbers",
        lambda value: is_list(value, is_whole),
        re.compile(r"tokenizer\.ggml\.(token_type|precompiled_charsmap)"),
    ),
)


def needed_type(key: str, value: Any) -> str | None:
    """The type that the value of a key has to have, in words; None for a value that has it, and for other keys."""
    found = next((each for each in KEY_TYPES if each.keys.fullmatch(key)), None)
    return found.in_words if found is not None and not found.holds(value) else None
