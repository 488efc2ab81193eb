"""Added tokens: tokens that the files of a checkpoint add to the vocabulary, and the split of a text at them.

Fine-tunes add `<pad>`, `<|im_start|>` and the like. Four files can declare them: added_tokens.json,
tokenizer_config.json (`added_tokens_decoder`, `pad_token`, …), special_tokens_map.json and tokenizer.json. The rules
and the ids are those of transformers 5 (`PreTrainedTokenizerBase._from_pretrained`, `TokenizersBackend.__init__`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from ..checkpoint.json_files import read_json

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True)
class AddedTokens:
    """The added tokens that the files of a checkpoint declare.

    declared      id -> token, from added_tokens_decoder, or else from added_tokens.json; and from tokenizer.json
    named         the special tokens with a role: "pad_token" -> token; a token without an id gets one
    extra         more special tokens, without a role and without an id
    only_in_json  the names of the tokens that tokenizer.json alone declares
    """

    declared: dict[int, AddedToken]
    named: dict[str, AddedToken]
    extra: list[AddedToken]
    only_in_json: frozenset[str]

    @classmethod
    def of(cls, folder: Path, spec: Mapping[str, Any]) -> AddedTokens:
        """Read the files in a folder.

        spec  the content of tokenizer.json, or an empty object

        Raises ValueError, with the file and the token, for a value of another form.
        """
        config_file, map_file = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
        config = read_json(config_file, missing_ok=True)
        in_json = json_tokens(spec, folder / "tokenizer.json")
        named, extra = special_tokens(config, config_file)
        if config.get("added_tokens_decoder") is not None:
            # special_tokens_map.json and added_tokens.json are older, and do not count beside it
            beside = decoder_tokens(config["added_tokens_decoder"], config_file)
            declared = in_json | beside
        else:
            content_of_map = read_json(map_file, missing_ok=True)
            names_in_map, extra_in_map = special_tokens(content_of_map, map_file)
            named, extra = named | names_in_map, extra + extra_in_map
            # As in transformers 5, two forms do not make a token of added_tokens.json special: an object in
            # tokenizer_config.json, and additional_special_tokens in special_tokens_map.json.
            plain = {key for key in named if key in names_in_map or isinstance(config.get(key), str)}
            special = {named[key].content for key in plain}
            special |= {each for each in more_special_tokens(config, config_file) if isinstance(each, str)}
            if "extra_special_tokens" in content_of_map:
                special |= {token.content for token in extra_in_map}
            beside = added_tokens_file(folder / "added_tokens.json", special)
            declared = beside | in_json
        elsewhere = {token.content for token in [*beside.values(), *named.values(), *extra]}
        only_in_json = frozenset(token.content for token in in_json.values()) - elsewhere
        return cls(declared, named, extra, only_in_json)

    def missing_from(self, existing: Iterable[AddedToken]) -> list[AddedToken]:
        """The tokens to add to a tokenizer with these added tokens, in the order of their ids."""
        same = {repr(token) for token in existing}
        names = {token.content for token in existing} | {token.content for token in self.declared.values()}
        tokens = [token for _, token in sorted(self.declared.items()) if repr(token) not in same]
        for token in [*self.named.values(), *self.extra]:
            if token.content not in names:
                names.add(token.content)
                tokens.append(token)
        roles = {token.content for token in self.named.values()}
        for token in tokens:
            token.special = token.special or token.content in roles
        return tokens


def make_token(value: object, file: Path, special: bool | None = None) -> AddedToken:
    """An added token from its name or from an object with its name and flags.

    special  the flag in the place of the object's; None keeps it
    """
    fields = {"content": value} if isinstance(value, str) else value
    flags = {flag: fields[flag] for flag in FLAGS if flag in fields} if isinstance(fields, dict) else {}
    if special is not None:
        flags["special"] = special
    content = fields.get("content") if isinstance(fields, dict) else None
    if not isinstance(content, str) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise ValueError(
            f"{file}: a token is {value!r}, but it has to be a string, or an object with content and flags"
        )
    return AddedToken(content, **flags)


def special_tokens(content: Mapping[str, Any], file: Path) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """The special tokens that tokenizer_config.json or special_tokens_map.json names: (with a role, more of them)."""
    in_map = file.name == "special_tokens_map.json"
    more = more_special_tokens(content, file)
    named = {key: value for key, value in content.items() if key in NAMES and value}
    # models with images and the like name tokens of their own: image_token, …
    named |= {
        key: value for key, value in content.items() if key.endswith("_token") and isinstance(value, str) and value
    }
    if isinstance(more, dict):
        named, more = named | more, []
    tokens = {key: make_token(value, file, special_flag(value, in_map)) for key, value in named.items()}
    roles = {key: tokens[key] for key in NAMES if key in tokens}  # in the order of their ids
    return roles | tokens, [make_token(value, file, special_flag(value, in_map)) for value in more]


def more_special_tokens(content: Mapping[str, Any], file: Path) -> list[Any] | dict[str, Any]:
    """The special tokens without a role, under the newer or the older name of the key; an object gives them names."""
    more = content.get("extra_special_tokens") or content.get("additional_special_tokens") or []
    if not isinstance(more, list | dict):
        raise ValueError(f"{file}: extra_special_tokens is {more!r}, but it has to be a list or an object")
    return more


def special_flag(value: object, in_map: bool) -> bool | None:
    """The flag `special` of a named token: an object in tokenizer_config.json has its own."""
    return True if in_map or isinstance(value, str) else None


def json_tokens(spec: Mapping[str, Any], file: Path) -> dict[int, AddedToken]:
    """The `added_tokens` of tokenizer.json: id -> token."""
    tokens = spec.get("added_tokens") or []
    if not isinstance(tokens, list) or not all(isinstance(each, dict) and is_id(each.get("id")) for each in tokens):
        raise ValueError(f"{file} is damaged: added_tokens has to be a list of objects with an id")
    return {each["id"]: make_token(each, file) for each in tokens}


def is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def decoder_tokens(decoder: object, file: Path) -> dict[int, AddedToken]:
    """The tokens of `added_tokens_decoder`: id -> token."""
    if not isinstance(decoder, dict) or not all(str(key).isdecimal() for key in decoder):
        raise ValueError(f"{file}: added_tokens_decoder has to be an object with ids as keys")
    return {int(key): make_token(value, file) for key, value in decoder.items()}


def added_tokens_file(file: Path, special: set[str]) -> dict[int, AddedToken]:
    """The tokens of added_tokens.json: id -> token. The file has no flags, and `special` holds the special ones."""
    content = read_json(file, missing_ok=True)
    for token, token_id in content.items():
        if not is_id(token_id):
            raise ValueError(f"{file}: the id of {token!r} is {token_id!r}, but it has to be a whole number")
    return {
        token_id: AddedToken(token, special=token in special, normalized=token not in special)
        for token, token_id in content.items()
    }


class TokenSplitter:
    """Splits a text at added tokens, by the rules of the `tokenizers` library for their flags.

    The library's own search is used: its model here has one entry, which stands for any text between two tokens.
    """

    TEXT = "\0"

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
        self._parsing, self._text_only = self._make_tokenizer(tokens), self._make_tokenizer(tokens)
        self._text_only.encode_special_tokens = True  # <s> in a text stays text
        self._always_splits = not all(token.special for token in tokens.values())
        ids = {token.content: token_id for token_id, token in tokens.items()}
        found = self._parsing.get_added_tokens_decoder()
        self._ids: dict[int, int] = {i: ids[token.content] for i, token in found.items()}

    def _make_tokenizer(self, tokens: Mapping[int, AddedToken]) -> tokenizers.Tokenizer:
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({self.TEXT: 0}, unk_token=self.TEXT))
        tokenizer.add_tokens(list(tokens.values()))
        return tokenizer

    def split(self, text: str, parse_special: bool) -> Iterator[tuple[int, str, int | None]]:
        """Split a text at the added tokens: (start, part, id or None for text).

        parse_special  True splits at special tokens as well
        """
        if not parse_special and not self._always_splits:
            if text:
                yield 0, text, None
            return
        tokenizer = self._parsing if parse_special else self._text_only
        encoding = tokenizer.encode(text, add_special_tokens=False)
        for found, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            yield start, text[start:end], self._ids.get(found)
