"""One prompt of ELYZA's template in five forms: as trained, and as other tools encode it."""

from __future__ import annotations

from dataclasses import dataclass

from .template import DEFAULT_SYSTEM_PROMPT
from .tokenizer import Tokenizer

CARD = "[INST] <<SYS>>\n{system}\n<</SYS>>\n\n{message} [/INST] "


@dataclass(frozen=True)
class PromptForm:
    """The ids of a prompt, encoded in one way.

    name    a few words
    source  where these ids come from
    """

    name: str
    source: str
    ids: list[int]


def card_prompt(message: str, system: str = DEFAULT_SYSTEM_PROMPT) -> str:
    """The prompt of the model card as a string, without `<s>`."""
    return CARD.format(system=system, message=message)


def forms_of_prompt(tokenizer: Tokenizer, message: str) -> list[PromptForm]:
    """The prompt of a message in five forms; the first is the one that the models were trained on.

    Raises ValueError for a tokenizer without BOS, and for a checkpoint whose chat template is not ELYZA's.
    """
    bos = tokenizer.bos_id
    if bos is None:
        raise ValueError("this tokenizer has no BOS token, with which ELYZA's prompt begins")
    text = card_prompt(message)
    trained = tokenizer.encode(text)
    template = tokenizer.chat_template
    if template is not None and tokenizer.chat([{"role": "user", "content": message}]) != trained:
        raise ValueError(f"{template.file}: the chat template is not ELYZA's, and only ELYZA's prompt is explained")
    begin = tokenizer.vocabulary.piece(bos)
    return [
        PromptForm("as trained", "tokenizer.json as it is written; Meta's [BOS] + encode(text)", trained),
        PromptForm(
            "transformers 5",
            "LlamaTokenizer of transformers 5, which replaces the file's normaliser",
            tokenizer.encode(begin + text, parse_special=True, segmentation="transformers5"),
        ),
        PromptForm(
            "doubled BOS", f"{begin} in the text, and a tokenizer that adds BOS; llama.cpp's -p", [bos, *trained]
        ),
        PromptForm(
            "whole string",
            f"SentencePiece over the whole string, which takes {begin} for text",
            tokenizer.encode(begin + text, bos=False, segmentation="whole-string"),
        ),
        PromptForm(
            "llama.cpp", "llama.cpp's --chat-template llama2-sys, which ends with [/INST]", tokenizer.encode(text[:-1])
        ),
    ]
