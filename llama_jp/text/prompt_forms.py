"""One prompt in five forms: as trained, and as other tools encode it."""

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
    """The prompt of a message in five forms; the first is the one that the model was trained on.

    It is ELYZA's prompt, or that of the checkpoint's own chat template, see `forms_of_template`.

    Raises ValueError for a tokenizer without BOS, and for a chat template that fails or refuses the message.
    """
    if not has_card_prompt(tokenizer, message):
        return forms_of_template(tokenizer, message)
    bos = tokenizer.bos_id
    assert bos is not None, "has_card_prompt refuses a tokenizer without BOS"
    text = card_prompt(message)
    trained = tokenizer.encode(text)
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


def has_card_prompt(tokenizer: Tokenizer, message: str) -> bool:
    """Whether the prompt of a message is ELYZA's: by the checkpoint's chat template, or because it has none.

    Raises ValueError for ELYZA's prompt and a tokenizer without BOS.
    """
    template = tokenizer.chat_template
    if tokenizer.bos_id is None:
        if template is not None and not template.is_elyza:
            return False
        raise ValueError("this tokenizer has no BOS token, with which ELYZA's prompt begins")
    return template is None or tokenizer.chat(one_turn(message)) == tokenizer.encode(card_prompt(message))


def forms_of_template(tokenizer: Tokenizer, message: str) -> list[PromptForm]:
    """The prompt of a message by the checkpoint's chat template, as trained and with the mistakes of other tools."""
    assert tokenizer.chat_template is not None, "without a template, the prompt is ELYZA's"
    turn, bos = one_turn(message), tokenizer.bos_id
    trained, text = tokenizer.chat(turn), tokenizer.chat_text(turn)
    forms = [PromptForm("as trained", f"{tokenizer.chat_template.origin}; names of special tokens parsed", trained)]
    if not tokenizer.vocabulary.byte_level:
        forms.append(
            PromptForm(
                "transformers 5",
                "LlamaTokenizer of transformers 5, which replaces the file's normaliser",
                tokenizer.encode(text, bos=False, parse_special=True, segmentation="transformers5"),
            )
        )
    if bos is not None and tokenizer.adds_bos:
        name = "doubled BOS" if trained[:1] == [bos] else "added BOS"
        forms.append(PromptForm(name, "the template's text, and a tokenizer that adds BOS to it", [bos, *trained]))
    return [
        *forms,
        PromptForm(
            "special as text",
            "encode(text) without parse_special, which takes the names of special tokens for text",
            tokenizer.encode(text, bos=False),
        ),
        PromptForm(
            "no answer begun",
            "apply_chat_template without add_generation_prompt=True",
            tokenizer.chat(turn, add_generation_prompt=False),
        ),
    ]


def one_turn(message: str) -> list[dict[str, str]]:
    """A conversation of one message."""
    return [{"role": "user", "content": message}]
