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
EXTRA, ADDITIONAL = MORE = ("extra_special_tokens", "additional_special_tokens")  # the newer and the older name
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
        in_config, in_map = special_tokens(config, config_file), {}
        if config.get("added_tokens_decoder") is not None:
            # special_tokens_map.json and added_tokens.json are older, and do not count beside it
            beside = decoder_tokens(config["added_tokens_decoder"], config_file)
            declared = in_json | beside
        else:
            in_map = special_tokens(read_json(map_file, missing_ok=True), map_file)
            beside = added_tokens_file(folder / "added_tokens.json", special_names(config, in_config, in_map))
            declared = beside | in_json
        named, extra = merge_special_tokens(config, in_config, in_map)
        elsewhere = {token.content for token in [*beside.values(), *named.values(), *extra]}
        only_in_json = frozenset(token.content for token in in_json.values()) - elsewhere
        return cls(declared, named, extra, only_in_json)

    def missing_from(self, existing: Iterable[AddedToken]) -> list[AddedToken]:
        """The tokens to add to a tokenizer with these added tokens, in the order of their ids.

        A token with a role is special, whatever its file says. Of two tokens with one name, the later one counts.
        """
        tokens = [token for _, token in sorted(self.declared.items())]
        names = {token.content for token in [*existing, *tokens]}
        tokens += [token for token in [*self.named.values(), *self.extra] if token.content not in names]
        roles = {token.content for token in self.named.values()}
        for token in tokens:
            token.special = token.special or token.content in roles
        same = {repr(token) for token in existing}
        return [token for token in tokens if repr(token) not in same]


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


def special_tokens(content: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """The special tokens that tokenizer_config.json or special_tokens_map.json names.

    A role has a token, or None: "pad_token" -> token. The keys in MORE have a list of tokens without a role, or an
    object with roles. Models with images and the like name roles of their own: image_token, …
    """
    in_map = file.name == "special_tokens_map.json"

    def token(value: object) -> AddedToken:
        # an object in tokenizer_config.json has a flag `special` of its own
        return make_token(value, file, True if in_map or isinstance(value, str) else None)

    found: dict[str, Any] = {}
    for key, value in content.items():
        if key in MORE:
            if not isinstance(value, list | dict | None):
                raise ValueError(f"{file}: {key} is {value!r}, but it has to be a list or an object")
            if isinstance(value, dict):
                found[key] = {role: token(each) for role, each in value.items()}
            else:
                found[key] = [token(each) for each in value or []]
        elif key in NAMES:
            found[key] = token(value) if value else None
        elif key.endswith("_token") and value and (isinstance(value, str) or is_token_object(value, in_map)):
            found[key] = token(value)
    if ADDITIONAL in found and not found.get(EXTRA) and not in_map:
        found[EXTRA] = found.pop(ADDITIONAL)
    return found


def merge_special_tokens(
    config: Mapping[str, Any], in_config: Mapping[str, Any], in_map: Mapping[str, Any]
) -> tuple[dict[str, AddedToken], list[AddedToken]]:
    """The special tokens of both files: (with a role, in the order of their ids; without a role).

    config             the content of tokenizer_config.json
    in_config, in_map  the results of `special_tokens`; a role in special_tokens_map.json has precedence
    """
    roles = {key: token for key, token in in_config.items() if key not in MORE}
    last = {key: token for key, token in roles.items() if key not in NAMES and isinstance(config[key], str)}
    merged = {key: value for key, value in in_config.items() if key not in last} | dict(in_map)
    if isinstance(in_map.get(EXTRA), list) and isinstance(in_config.get(EXTRA), list):
        merged[EXTRA] = [*in_config[EXTRA], *in_map[EXTRA]]
    for more in (in_config.get(EXTRA), in_map.get(EXTRA)):
        last |= more if isinstance(more, dict) else {}
    lists = [merged[key] for key in MORE if isinstance(merged.get(key), list)]
    merged = {key: merged.get(key) for key in (*NAMES, *merged) if key not in MORE} | last
    return {key: token for key, token in merged.items() if token is not None}, lists[0] if lists else []


def special_names(config: Mapping[str, Any], in_config: Mapping[str, Any], in_map: Mapping[str, Any]) -> set[str]:
    """The names that make a token of added_tokens.json special.

    As in transformers 5, two forms do not: an object in tokenizer_config.json, and additional_special_tokens in
    special_tokens_map.json.
    """
    of_map = [in_map.get(key) for key in NAMES] + [*in_map.get(EXTRA, [])]
    of_config = [config.get(key) for key in NAMES if key not in in_map]
    of_config += config.get(EXTRA) or config.get(ADDITIONAL) or []
    return {each.content for each in of_map if isinstance(each, AddedToken)} | {
        each for each in of_config if isinstance(each, str)
    }


def is_token_object(value: object, in_map: bool) -> bool:
    """Whether a value is a token as an object: any object in special_tokens_map.json, else one with its `__type`."""
    return isinstance(value, dict) and (in_map or value.get("__type") == "AddedToken")


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
