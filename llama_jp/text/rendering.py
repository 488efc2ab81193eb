"""Render a conversation with a checkpoint's chat template, as transformers' `apply_chat_template` does.

A template is a program from somebody else's file, so it runs in Jinja's sandbox, and it gets copies of plain data only.

A template writes special tokens by name (`<s>`), and a user can type the same names. After rendering, they look alike.
So each name in a text of the conversation first gets a mark, a character that occurs nowhere else. In the rendered
text, names without a mark are the template's. A conversation without such names is rendered exactly as it is.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import jinja2
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..checkpoint.chat_template import ChatTemplate

Message = Mapping[str, Any]

PRIVATE_USE = range(0xE000, 0xF900)  # characters that Unicode leaves to applications


def render(
    template: ChatTemplate, messages: Sequence[Message], special: Mapping[str, int], variables: Mapping[str, Any]
) -> tuple[str, dict[str, int]]:
    """Render a conversation: (text, the special tokens in it).

    special    name -> id of the tokens that only the template may write, such as the special tokens
    variables  further variables of the template, such as add_generation_prompt

    The second result maps each spelling of a special token in the text to its id. It is `special` itself, except for a
    conversation with such names: the template's tokens then have other spellings, and the names are ordinary text.

    Raises ValueError for messages that are no conversation, and for a template that is not valid or fails.
    """
    check_messages(messages)
    known = json.dumps([template.text, plain([*messages]), plain(dict(variables))], ensure_ascii=False)
    mark, quote = [c for c in map(chr, PRIVATE_USE) if c not in known][:2]
    names = re.compile("|".join(map(re.escape, sorted(special, key=len, reverse=True))) or "(?!)")

    def protect(text: str) -> str:
        return names.sub(lambda match: match[0][0] + mark + match[0][1:], text)

    # As in transformers, a key with the value None counts as missing.
    conversation = [{key: plain(value, protect) for key, value in m.items() if value is not None} for m in messages]
    text = run(template, {"tools": None, "documents": None} | plain(dict(variables)) | {"messages": conversation})
    if mark not in text:
        return text, dict(special)
    text = names.sub(lambda match: f"{quote}{special[match[0]]}{quote}", text).replace(mark, "")
    return text, {f"{quote}{token_id}{quote}": token_id for token_id in special.values()}


def check_messages(messages: Sequence[Message]) -> None:
    """Raise ValueError for anything that is not a list of messages with a role."""
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(
            f'a conversation is a list of messages such as {{"role": "user", "content": "…"}}: {messages!r}'
        )
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f'message {i} is no {{"role": "user", "content": "…"}}: {message!r}')
        content = message.get("content")
        if isinstance(content, str):
            try:
                content.encode("utf-8")
            except UnicodeEncodeError as error:
                code = ord(content[error.start])
                raise ValueError(
                    f"character {error.start} of message {i} is U+{code:04X}, half a surrogate pair"
                ) from None


def plain(value: Any, change: Callable[[str], str] = str) -> Any:
    """A copy of JSON data in plain types, with each text changed. Raises ValueError for any other object.

    Objects of other classes have methods, which a template could call.
    """
    if isinstance(value, str):
        return change(value)
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(each, change) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each, change) for each in value]
    raise ValueError(f"a conversation holds text, numbers, lists and dicts; {value!r} is a {type(value).__name__}")


def run(template: ChatTemplate, variables: dict[str, Any]) -> str:
    """Run a template. Raises the errors of `one_sentence`."""
    with one_sentence(template):
        return compile_template(template.text).render(variables)


@contextmanager
def one_sentence(template: ChatTemplate) -> Iterator[None]:
    """Turn every failure of a template into a ValueError that names its file."""
    try:
        yield
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(
            f"{template.file}: the chat template is not valid Jinja: line {error.lineno}: {error}"
        ) from error
    except jinja2.UndefinedError as error:
        raise ValueError(f"{template.file}: the chat template needs more than it is given: {error}") from error
    except jinja2.TemplateError as error:  # raise_exception, and what the sandbox forbids
        raise ValueError(f"{template.file}: the chat template refuses this conversation: {error}") from error
    except Exception as error:  # a template is a program, and can fail like any other
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{template.file}: the chat template fails on this conversation: {reason}") from error


@functools.lru_cache(maxsize=8)
def compile_template(text: str) -> jinja2.Template:
    """Compile a template in the environment of transformers' `apply_chat_template`."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"raise_exception": raise_exception, "strftime_now": strftime_now}
    return environment.from_string(text)


@functools.lru_cache(maxsize=8)
def literal_text(template: ChatTemplate) -> str:
    """The literal texts of a template, joined with null characters. A failure is that of `run`."""
    with one_sentence(template):
        tree = compile_template(template.text).environment.parse(template.text)
    texts = [node.data for node in tree.find_all(nodes.TemplateData)]
    texts += [node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)]
    return "\0".join(texts)


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's tokens for training; the text is unchanged."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`: Jinja's own escapes HTML and Japanese."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message: str) -> None:
    """The function by which a template refuses a conversation."""
    raise jinja2.TemplateError(message)


def strftime_now(format: str) -> str:
    """The function by which a template writes today's date."""
    return datetime.now().strftime(format)
