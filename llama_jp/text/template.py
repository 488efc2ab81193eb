"""ELYZA's instruction template, as ids.

    <s>[INST] <<SYS>>
    あなたは誠実で優秀な日本人のアシスタントです。
    <</SYS>>

    {message} [/INST]·                       · is a space; the answer follows it

`<s>` and `</s>` are put in as ids; everything else is encoded as text, so nothing that a user types becomes one of
them. The tags `[INST]`, `[/INST]`, `<<SYS>>` and `<</SYS>>` are ordinary text in Llama 2, and the models' cards pass
them through: so do we. A user can therefore write something that *looks* like the end of a turn; `tags_in` finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

DEFAULT_SYSTEM_PROMPT = "あなたは誠実で優秀な日本人のアシスタントです。"
TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
BASE_MODEL_WARNING = (
    "this looks like a base model: it was never trained on the [INST] template, so it will continue the text of the "
    "conversation rather than answer; use an instruct model to chat, or `generate` to continue a text"
)


def instruct_prompt(
    tokenizer: Tokenizer,
    message: str,
    system: str | None = DEFAULT_SYSTEM_PROMPT,
    history: Sequence[tuple[str, str]] = (),
) -> list[int]:
    """The ids that ask an instruction-tuned model to answer `message`.

    system: None (or "") leaves the <<SYS>> block out.
    history: the turns before, as (user, assistant) pairs, oldest first. The system prompt then stands in the first of
        them, where the model saw it in training.

    A single turn is the model card's string, exactly, whatever spaces the message begins or ends with. A past turn is
    `<s>[INST] {user} [/INST] {assistant} </s>`, both stripped of surrounding white space, as in Meta's reference
    (`Llama.chat_completion`, meta-llama/llama `llama/generation.py`).
    """
    block = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
    ids: list[int] = []
    for user, assistant in map(_turn, history):
        ids += tokenizer.encode(f"[INST] {(block + user).strip()} [/INST] {assistant.strip()} ", bos=True)
        if tokenizer.eos_id is None:
            raise ValueError("this tokenizer has no EOS token, which ends every past turn")
        ids.append(tokenizer.eos_id)
        block = ""
    return ids + tokenizer.encode(f"[INST] {block}{message} [/INST] ", bos=True)


def tags_in(text: str) -> list[str]:
    """The template's tags that a text contains. An application that takes text from strangers may want to refuse it."""
    return [tag for tag in TAGS if tag in text]


def is_instruction_tuned(source: str | Path) -> bool:
    """Was this checkpoint trained on the template? Judged by its name: publishers put "instruct" into it.

    Looks at the last part of a path or repository name, and at the repository's folder in a hub cache
    (`models--elyza--ELYZA-japanese-Llama-2-7b-instruct/snapshots/…`).
    """
    given = Path(source)
    real = given.resolve() if given.is_dir() else given  # "." and links have a name, too
    cached = [part for part in (*given.parts, *real.parts) if part.startswith("models--")]
    return given.name == "demo" or any("instruct" in part.lower() for part in (given.name, real.name, *cached))


def _turn(turn: tuple[str, str]) -> tuple[str, str]:
    if isinstance(turn, (str, dict)) or len(turn) != 2:
        raise ValueError(f"history is made of (user, assistant) pairs; this is not one: {turn!r}")
    return turn[0], turn[1]
