"""A conversation or a text as training data: ids, and labels that mark what the model has to generate."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..text.rendering import Message, check_messages
from ..text.tokenizer import Tokenizer
from .losses import IGNORE

FORMS = '"messages", "text", or "instruction" and "output"'
ANCHORS = "\n。、a1"  # one of them merges with the beginning of a text in no vocabulary that is known

Turns = str | Sequence[Message] | Mapping[str, Any]


class Example(NamedTuple):
    """One document to train on. A label is the id at the same place, or IGNORE for context."""

    ids: list[int]
    labels: list[int]


def example(tokenizer: Tokenizer, turns: Turns) -> Example:
    """Encode a conversation or a text: (ids, labels), two lists of one length.

    turns  messages, as `Tokenizer.chat` takes them, the last one of the assistant; a text; or an object with one of
           these forms: {"messages": […]}, {"instruction": "…", "output": "…"}, {"text": "…"}. "input" and "system" may
           stand beside an instruction. An input follows the instruction after an empty line

    A text is BOS, the text, EOS; all but the first token are learned. In a conversation, the answers and their EOS are
    learned, and everything else is context.

    The ids of an answer are those that the model generates after the prompt of `Tokenizer.chat`. A prompt ends with
    its own token for the space after `[/INST]`, so an answer begins without one: encoding prompt and answer as one
    text, or the answer alone, gives other ids. In the history of a later turn, a template may join that space with the
    first word of the answer; such a token is context.

    Raises ValueError for anything that is not one of these forms, for a conversation that does not end with an answer,
    for an empty answer or text, and for a tokenizer without EOS, or without BOS unless it is a byte-level BPE.
    """
    if tokenizer.eos_id is None or (tokenizer.bos_id is None and not tokenizer.vocabulary.byte_level):
        raise ValueError("this tokenizer has no BOS or no EOS token, with which an example begins and ends")
    if isinstance(turns, Mapping):
        turns = read_form(turns)
    if isinstance(turns, str):
        if not turns.strip():
            raise ValueError("the text is empty")
        ids = [*tokenizer.encode(turns), tokenizer.eos_id]
        return Example(ids, [IGNORE, *ids[1:]])
    return encode_conversation(tokenizer, turns)


def read_form(content: Mapping[str, Any]) -> str | Sequence[Message]:
    """The text or the messages of an object. Keys that belong to no form are ignored."""
    given = [key for key in ("messages", "text") if key in content]
    given += ["instruction and output"] if {"instruction", "output"} <= content.keys() else []
    if len(given) != 1:
        keys = ", ".join(map(str, content)) or "no key"
        raise ValueError(
            f"{' and '.join(given)} are given; keep one" if given else f"it has {keys}; an example has {FORMS}"
        )
    if given == ["messages"]:
        if not isinstance(content["messages"], list):
            raise ValueError(f'"messages" is {kind_of(content["messages"])} where a list was expected')
        messages: list[Message] = content["messages"]
        return messages
    for key in ("text", "instruction", "output", "input", "system"):
        if not isinstance(content.get(key) or "", str):
            raise ValueError(f'"{key}" is {kind_of(content[key])} where a text was expected')
    if given == ["text"]:
        return content["text"] or ""
    request = "\n\n".join(part for part in (content["instruction"], content.get("input")) if part)
    system = [{"role": "system", "content": content["system"]}] if content.get("system") else []
    return [*system, {"role": "user", "content": request}, {"role": "assistant", "content": content["output"] or ""}]


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> Example:
    """The prompt of the last answer as at generation, that answer and EOS; labels for every answer."""
    check_messages(messages)
    answers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    for i in answers:
        if not isinstance(messages[i].get("content"), str) or not messages[i]["content"].strip():
            raise ValueError(f"message {i}, an answer of the assistant, has no text")
    if not answers or answers[-1] != len(messages) - 1:
        raise ValueError("the last message is not an answer of the assistant, so there is nothing to learn")

    *earlier, last = answers
    prompt = tokenizer.chat(messages[:last])
    answer, end, _ = encode_answer(tokenizer, messages)
    ids = [*prompt, *answer, end]
    labels = [IGNORE] * len(prompt) + ids[len(prompt) :]
    for i in earlier:
        answer, end, history = encode_answer(tokenizer, messages[: i + 1])
        history = list(os.path.commonprefix([ids, history]))  # later turns may change it
        start, stop = find_answer(answer, history)
        labels[start:stop] = ids[start:stop]
        if end in history:
            labels[len(history) - 1 - history[::-1].index(end)] = end
    return Example(ids, labels)


def encode_answer(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], int, list[int]]:
    """The last message as ids: as the model generates it, the token that ends it, and the whole conversation.

    The template decides whether white space around an answer is kept, and which special token follows the answer.
    """
    whole, text = tokenizer.chat(messages, add_generation_prompt=False), messages[-1]["content"]
    if text != text.strip():
        stripped = [*messages[:-1], {**messages[-1], "content": text.strip()}]
        text = text.strip() if tokenizer.chat(stripped, add_generation_prompt=False) == whole else text
    answer = encode_continuation(tokenizer, text)
    _, stop = find_answer(answer, whole)
    assert tokenizer.eos_id is not None, "example has checked it"
    end = next((i for i in whole[stop:] if i in tokenizer.vocabulary.special), tokenizer.eos_id)
    return answer, end, whole


def encode_continuation(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of a text that follows another one, without the space that encoding adds to the beginning of a text.

    Raises ValueError for a vocabulary in which the beginning of the text merges with everything before it.
    """
    for anchor in ANCHORS:
        before, ids = (tokenizer.encode(each, bos=False) for each in (anchor, anchor + text))
        if ids[: len(before)] == before:
            return ids[len(before) :]
    raise ValueError(f"the tokenizer merges {text[:20]!r} with any text before it; begin the answer differently")


def find_answer(answer: list[int], ids: list[int]) -> tuple[int, int]:
    """Where an answer occurs last in ids: (start, stop). The template may have joined its first token with a space.

    An answer that does not occur is empty, at the end.
    """
    for wanted in (answer, answer[1:]):
        for stop in range(len(ids), len(wanted) - 1, -1):
            if wanted and ids[stop - len(wanted) : stop] == wanted:
                return stop - len(wanted), stop
    return len(ids), len(ids)


def kind_of(value: Any) -> str:
    return "null" if value is None else f"{'an' if isinstance(value, int) else 'a'} {type(value).__name__}"
