"""ELYZA's instruction template, as ids. The same template for `Tokenizer.chat` is `checkpoint/elyza.jinja`.

    <s>[INST] <<SYS>>
    あなたは誠実で優秀な日本人のアシスタントです。
    <</SYS>>

    {message} [/INST]·                       · is a space; the answer follows it

`<s>` and `</s>` are inserted as ids, and everything else is encoded as text, so a user's text cannot produce them. The
tags `[INST]`, `[/INST]`, `<<SYS>>` and `<</SYS>>` are ordinary text in Llama 2. As on the models' cards, they are not
removed from a user's text, which can therefore imitate the end of a turn. `tags_in` finds such tags.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

DEFAULT_SYSTEM_PROMPT = "あなたは誠実で優秀な日本人のアシスタントです。"
TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
BASE_MODEL_WARNING = (
    "this looks like a base model, because it has no chat template: it was never trained on the [INST] template, so it "
    "continues the text of the conversation and does not answer; use an instruct model to chat, or `generate` to "
    "continue a text"
)


def instruct_prompt(
    tokenizer: Tokenizer,
    message: str,
    system: str | None = DEFAULT_SYSTEM_PROMPT,
    history: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """The ids of a prompt for an instruction-tuned model. The answer follows them.

    system   the system prompt; None or "" leaves the <<SYS>> block out
    history  the earlier turns as (user, assistant) pairs, oldest first; the system prompt is then part of the first
             turn, as in training

    A single turn is exactly the string on the model card, with all spaces of the message. An earlier turn is
    `<s>[INST] {user} [/INST] {assistant} </s>` without the white space around the two texts, as in Meta's reference
    (`Llama.chat_completion`, meta-llama/llama `llama/generation.py`).

    Raises ValueError for a history that is not made of pairs, and for a tokenizer without EOS if there is a history.
    """
    block = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    ids: list[int] = []
    for user, assistant in map(check_turn, history):
        ids += tokenizer.encode(f"[INST] {(block + user).strip()} [/INST] {assistant.strip()} ", bos=True)
        if tokenizer.eos_id is None:
            raise ValueError("this tokenizer has no EOS token, which ends every earlier turn; leave out the history")
        ids.append(tokenizer.eos_id)
        block = ""
    return ids + tokenizer.encode(f"[INST] {block}{message} [/INST] ", bos=True)


def tags_in(text: str) -> list[str]:
    """The tags of the template that a text contains, so that an application can refuse text that imitates a turn."""
    return [tag for tag in TAGS if tag in text]


def check_turn(turn: tuple[str, str]) -> tuple[str, str]:
    """Return a (user, assistant) pair. Raises ValueError for anything else."""
    if isinstance(turn, (str, dict)) or len(turn) != 2:
        raise ValueError(f"history is made of (user, assistant) pairs; this is not one: {turn!r}")
    return turn[0], turn[1]
