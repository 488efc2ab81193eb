"""The mistakes in ids that should be a prompt of ELYZA's template.

The ids are decoded, and the text is compared with the card's, part by part. Then the text is encoded again, which shows
how the ids were cut. Each kind of mistake has been seen in public code or issues.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations, takewhile

from .prompt_forms import card_prompt, has_card_prompt
from .template import DEFAULT_SYSTEM_PROMPT
from .tokenizer import Tokenizer
from .vocabulary import first_difference

# Each kind of mistake, with its cause or its cure.
KINDS = {
    # whole sequences
    "reversed ids": "the ids are in the opposite order",
    "shifted ids": "every id is off by the same number; ids count from 0 and include <unk>, <s> and </s>",
    "wrong vocabulary": "some ids are outside the vocabulary; use the tokenizer of the same checkpoint",
    "tags as tokens": "the tags were added as tokens of their own; they are ordinary text, such as ▁[ INST ]",
    "unknown tokens": "<unk> stands inside the text; encode with byte fallback",
    "several turns": "the ids hold more than one turn; only a prompt of one turn can be explained",
    # before and after the text
    "doubled BOS": "BOS stands twice; leave <s> out of the text, or encode it without adding special tokens",
    "missing BOS": "the prompt does not begin with BOS; add special tokens, or write <s> and parse it",
    "EOS for BOS": "the prompt begins with EOS, not with BOS",
    "padding in front": "padding tokens stand before BOS; leave them out, or mark them in the attention mask",
    "padding at the end": "padding tokens stand after the prompt; pad in front, or generate from each prompt alone",
    "EOS appended": "EOS ends the prompt, so the model has nothing to answer; encode without EOS",
    "truncated in front": "the first part of the prompt is missing; shorten the message instead",
    "truncated at the end": "the last part of the prompt is missing, [/INST] included; shorten the message instead",
    "answer included": "text follows [/INST]; the answer is the model's",
    # how the text was cut
    "whole string": "<s> was encoded as text; parse special tokens, or put BOS in front of the ids",
    "transformers 5": "no space was added after <s>; use PreTrainedTokenizerFast, or legacy=True",
    "parts encoded one by one": "each part got a space of its own; encode the whole prompt at once",
    "another segmentation": "the text is right, but it was cut in another way; use the tokenizer of this checkpoint",
    # the template
    "no template": "there is no [INST] in the text; an instruct model was trained with the template",
    "another template": "this is the template of another model",
    "HTML escapes": "the tags are escaped, as &lt;&lt;SYS&gt;&gt;",
    r"\n as two characters": "a backslash and an n stand where a line end belongs; use printf, or a quoted string",
    "line ends CR LF": "line ends of Windows; the prompt has LF",
    "space after <s>": "a space stands between <s> and [INST]",
    "no space after [INST]": "[INST] and the text after it have no space between them",
    "extra space after [INST]": "one space belongs between [INST] and <<SYS>>",
    "no system block": "the prompt has no <<SYS>> block; the models were trained with one",
    "Meta's system prompt": "this is the English system prompt of Llama 2 Chat",
    "another system prompt": "the system prompt is not the card's",
    "no line end after <<SYS>>": "one line end belongs between <<SYS>> and the system prompt",
    "no line end before <</SYS>>": "one line end belongs between the system prompt and <</SYS>>",
    "space around the system prompt": "only one line end stands on each side of the system prompt",
    "one line end after <</SYS>>": "two line ends belong between <</SYS>> and the message",
    "no line end after <</SYS>>": "two line ends belong between <</SYS>> and the message",
    "space before the message": "the message begins with white space that the card's prompt has not",
    "no space before [/INST]": "one space belongs between the message and [/INST]",
    "extra space before [/INST]": "one space belongs between the message and [/INST]",
    "no space at the end": "the prompt ends with a space (of its own token); do not strip it",
    "line end at the end": "the prompt ends with a space, not with a line end",
    "extra space at the end": "the prompt ends with one space",
    # the message; the first four are found without its text
    "bytes as text": "pieces such as <0xE3> were encoded as text; decode ids, do not join pieces",
    "mojibake": "UTF-8 was decoded as another encoding",
    "broken character": "the bytes of a character are incomplete",
    "spaces lost": "the tokens of single spaces were left out",
    "message in NFKC": "NFKC replaces characters, such as full-width digits and U+3000; encode the text as it is",
    "message in NFD": "marks such as ゛ became characters of their own; encode the text as it is",
    "half-width digits": "full-width digits became half-width ones; encode the text as it is",
    "full-width digits": "half-width digits became full-width ones; encode the text as it is",
    "message in lower case": "the message was lowered; encode the text as it is",
    "message stripped": "white space around the message was removed; the card keeps it",
    "another message": "the ids are of another text",
}

TAGS = ("[INST]", "<<SYS>>", "<</SYS>>", "[/INST]")  # in the order of a prompt
OTHER_TEMPLATES = {
    "ChatML": "<|im_start|>",
    "Alpaca": "### Instruction",
    "Alpaca in Japanese": "### 指示",
    "Llama 3": "<|start_header_id|>",
    "Vicuna": "USER:",
    "Japanese dialogue": "ユーザー:",
}  # fmt: skip
PROMPT = re.compile(
    r"(?P<lead>\s*)(?P<open>\[INST\])?(?P<gap>\s*)"
    r"(?:(?P<sys><<SYS>>)(?P<before>\s*)(?P<system>.*?)(?P<after>\s*)<</SYS>>)?"
    r"(?P<blank>\s*)(?P<message>.*?)(?P<space>\s*)(?:(?P<close>\[/INST\])(?P<end>\s*)(?P<answer>.*))?",
    re.DOTALL,
)
WIDE, NARROW = "０１２３４５６７８９", "0123456789"
META = "You are a helpful, respectful and honest assistant."


@dataclass(frozen=True)
class Mistake:
    """A mistake in ids: its kind, a key of KINDS, and its details, which may be empty."""

    kind: str
    details: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {KINDS[self.kind]}" + (f" ({self.details})" if self.details else "")


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong with ids.

    mistakes  empty for the ids that the models were trained on
    message   the message in the ids, or the one that was given; None if there is none
    trained   the right ids of that message with the card's system prompt; None without a message
    """

    ids: list[int]
    mistakes: list[Mistake]
    message: str | None
    trained: list[int] | None

    @property
    def first_difference(self) -> int | None:
        """The index of the first id that is not the trained one; None if all are."""
        return None if self.trained is None else first_difference(self.ids, self.trained)


def find_mistakes(tokenizer: Tokenizer, ids: Sequence[int], message: str | None = None) -> Diagnosis:
    """Name the mistakes in the ids of a one-turn prompt.

    message  the message that the ids should hold. Without it, the message is taken from the ids, and a changed message
             is not noticed

    Raises ValueError for an empty list, negative ids, a tokenizer without BOS, and a checkpoint whose chat template is
    not ELYZA's.
    """
    ids = [*ids]
    if not ids:
        raise ValueError("there are no ids to explain")
    if min(ids) < 0:
        raise ValueError(f"{min(ids)} is no id; -100 marks labels that training ignores, so these are labels, not ids")
    template = tokenizer.chat_template
    if not has_card_prompt(tokenizer, message or "犬") and template is not None:
        raise ValueError(
            f"{template.file}: the chat template is not ELYZA's, and only mistakes in ids of ELYZA's are known"
        )
    if message is not None and ids == tokenizer.encode(card_prompt(message)):
        return Diagnosis(ids, [], message, ids)
    search = Search(tokenizer, message)
    message = search.run(ids)
    mistakes = [*dict.fromkeys(search.mistakes)]
    trained = None if message is None else tokenizer.encode(card_prompt(message))
    if not mistakes and ids != trained:
        mistakes = [Mistake("another segmentation")]
    return Diagnosis(ids, mistakes, message, trained)


class Search:
    """One search for mistakes. It collects them from the outside of the ids to their inside.

    given  the message that the ids should hold; None if it is not known
    """

    def __init__(self, tokenizer: Tokenizer, given: str | None) -> None:
        self.tokenizer = tokenizer
        self.given = given
        self.mistakes: list[Mistake] = []
        self.begin = tokenizer.vocabulary.piece(tokenizer.bos_id or 0)  # <s>

    def add(self, kind: str, details: str = "") -> None:
        self.mistakes.append(Mistake(kind, details))

    def found(self, *kinds: str) -> bool:
        """Whether one of these kinds has been found."""
        return any(mistake.kind in kinds for mistake in self.mistakes)

    def run(self, ids: list[int]) -> str | None:
        """Collect the mistakes. Returns the given message, or the one in the ids; None if they hold none."""
        tokenizer = self.tokenizer
        ids = self.restore_order(ids)
        tags = self.tags_as_tokens(ids)
        outside = [i for i in ids if i not in tags and i not in tokenizer.vocabulary.pieces]
        if outside:
            shown = ", ".join(map(str, outside[:4])) + (", …" if len(outside) > 4 else "")
            self.add("wrong vocabulary", f"{shown}; the vocabulary has {tokenizer.vocab_size} ids")
            return self.given
        if tags:
            self.add("tags as tokens", ", ".join(f"{i} for {tag}" for i, tag in tags.items()))
        body, begins = self.trim(ids)
        if tokenizer.bos_id in body or tokenizer.eos_id in body:
            self.add("several turns")
            return self.given
        if tokenizer.unk_id in body:
            self.add("unknown tokens")
            return self.given
        text = self.decode(body, tags)
        if text.startswith(self.begin):
            self.add("whole string")
            text = text.removeprefix(self.begin)
        elif not begins:
            self.add("missing BOS")
        message = self.compare_text(text, body)
        return message if self.given is None else self.given

    def restore_order(self, ids: list[int]) -> list[int]:
        """The ids in the order, and with the offset, that brings a tag to light."""
        if self.shows_tags(ids):
            return ids
        if self.shows_tags(ids[::-1]):
            self.add("reversed ids")
            return ids[::-1]
        for shift in (1, -1, 2, -2, 3, -3):
            moved = [i - shift for i in ids]
            if self.shows_tags(moved):
                self.add("shifted ids", f"by {shift:+d}")
                return moved
        return ids

    def shows_tags(self, ids: list[int]) -> bool:
        text = self.tokenizer.decode(i for i in ids if i in self.tokenizer.vocabulary.pieces)
        return "[INST]" in text or "[/INST]" in text

    def tags_as_tokens(self, ids: list[int]) -> dict[int, str]:
        """The ids that stand for whole tags: id -> tag. In a foreign vocabulary, their order shows which is which."""
        vocabulary = self.tokenizer.vocabulary
        known = {i: vocabulary.pieces[i] for i in ids if i in vocabulary.special and vocabulary.pieces[i] in TAGS}
        foreign = [i for i in ids if i not in vocabulary.pieces]
        near = all(i < self.tokenizer.vocab_size + 100 for i in foreign)  # tokens are added at the end of a vocabulary
        if known or not near or len(foreign) not in (2, 4) or len({*foreign}) != len(foreign):
            return known
        return dict(zip(foreign, TAGS if len(foreign) == 4 else (TAGS[0], TAGS[-1]), strict=True))

    def trim(self, ids: list[int]) -> tuple[list[int], bool]:
        """The ids without special tokens and padding at both ends, and whether BOS or EOS stood in front."""
        tokenizer = self.tokenizer
        bos, eos = tokenizer.bos_id, tokenizer.eos_id
        ends = {bos, eos, tokenizer.unk_id, tokenizer.pad_id}
        front = [*takewhile(ends.__contains__, ids)]
        back = [*takewhile(ends.__contains__, ids[len(front) :][::-1])]
        padding = [i for i in front if i != bos]
        if [i == bos for i in front].count(True) > 1:
            self.add("doubled BOS")
        if padding == [eos] == front:
            self.add("EOS for BOS")
        elif padding:
            self.add("padding in front", f"{len(padding)} tokens {tokenizer.vocabulary.piece(padding[0])}")
        if back == [eos]:
            self.add("EOS appended")
        elif back:
            self.add("padding at the end", f"{len(back)} tokens {tokenizer.vocabulary.piece(back[0])}")
        return ids[len(front) : len(ids) - len(back)], bos in front or front == [eos]

    def decode(self, ids: list[int], tags: dict[int, str]) -> str:
        """The text of ids, some of which stand for tags."""
        text, part = "", list[int]()
        for i in ids:
            if i in tags:
                text += self.tokenizer.decode(part) + tags[i]
                part = []
            else:
                part.append(i)
        return text + self.tokenizer.decode(part)

    def compare_text(self, text: str, body: list[int]) -> str | None:
        """Collect the mistakes in the text of the ids `body`. Returns the message in it; None if it holds none."""
        clean = self.clean(text)
        match = PROMPT.fullmatch(clean)
        assert match is not None  # every part of the pattern is optional
        if clean and card_prompt("").startswith(clean) and match["open"] is None:
            self.add("truncated at the end")  # inside the first tag
            self.compare_segmentation(text, body)
            return None
        if match["open"] is None and match["close"] is None:
            other = next((name for name, sign in OTHER_TEMPLATES.items() if sign in clean), None)
            if other is not None:
                self.add("another template", other)
                return None
            self.add("no template", shorten(clean))
            return self.compare_message(clean.strip())
        if match["open"] is None:
            self.mistakes = [mistake for mistake in self.mistakes if mistake.kind != "missing BOS"]
            self.add("truncated in front")
        if match["close"] is None:
            self.add("truncated at the end")
        message = match["message"].rpartition("<</SYS>>")[2].strip()  # of a system prompt, truncated in front
        if parts := self.count_parts(match, body):
            self.add("parts encoded one by one", f"{parts} parts")
        elif not self.found("tags as tokens"):
            self.compare_spaces(match)
            if match["open"] is not None and clean == text:
                self.compare_segmentation(text, body)
        if match["system"] is not None:
            self.compare_system(match["system"])
        if match["close"] is None:
            return None if "<<SYS>>" in message else message.rstrip("\ufffd")
        if match["open"] is None and match["sys"] is None and "<</SYS>>" not in match["message"]:
            return None  # the message has lost its beginning
        return self.compare_message(message)

    def clean(self, text: str) -> str:
        """The text with the line ends and tags that it was meant to have."""
        if r"SYS>>\n" in text:
            self.add(r"\n as two characters")
            text = text.replace(r"\n", "\n")
        if "SYS>>\r\n" in text:
            self.add("line ends CR LF")
            text = text.replace("\r\n", "\n")
        if "&lt;SYS&gt;" in text:
            self.add("HTML escapes")
            text = html.unescape(text)
        return text

    def compare_spaces(self, match: re.Match[str]) -> None:
        """Collect the mistakes in the tags, and in the white space around the system prompt and the message."""
        given = self.given or ""
        start, stop = given[: len(given) - len(given.lstrip())], given[len(given.rstrip()) :]
        if match["open"] is not None:
            if match["lead"]:
                self.add("space after <s>")
            if not match["gap"]:
                self.add("no space after [INST]")
            elif match["gap"] not in (" ", " " + start):
                self.add("space before the message" if match["sys"] is None else "extra space after [INST]")
            if match["sys"] is None and "<<SYS>>" not in match["message"]:
                self.add("no system block")
        if match["sys"] is not None:
            if "\n" not in match["before"]:
                self.add("no line end after <<SYS>>")
            if "\n" not in match["after"]:
                self.add("no line end before <</SYS>>")
            if len(match["before"]) > 1 or len(match["after"]) > 1:
                self.add("space around the system prompt")
            if match["message"]:
                self.compare_blank(match["blank"], start)
        if match["close"] is not None:
            self.compare_end(match, stop)

    def compare_blank(self, blank: str, start: str) -> None:
        """Collect the mistakes between <</SYS>> and the message, which should begin with the white space `start`."""
        lines = blank[: len(blank) - len(blank.lstrip("\n"))]
        if len(lines) < 2:
            self.add("one line end after <</SYS>>" if lines else "no line end after <</SYS>>")
        if blank == "\n\n" and start:
            self.add("message stripped")
        elif blank != "\n\n" + start and blank.removeprefix(lines[:2]):
            self.add("space before the message")

    def compare_end(self, match: re.Match[str], stop: str) -> None:
        """Collect the mistakes after the message, which should end with the white space `stop`."""
        space, end = match["space"], match["end"]
        if not space:
            self.add("no space before [/INST]")
        elif space == " " and stop:
            self.add("message stripped")
        elif space != stop + " ":
            self.add("extra space before [/INST]")
        if match["answer"]:
            self.add("answer included", shorten(match["answer"]))
        elif not end:
            self.add("no space at the end")
        elif "\n" in end:
            self.add("line end at the end")
        elif end != " ":
            self.add("extra space at the end")

    def compare_segmentation(self, text: str, body: list[int]) -> None:
        """Collect the mistake by which a text was cut into these ids, if it was not cut as in training."""
        encode = self.tokenizer.encode
        if self.found("whole string") or encode(text, bos=False) == body or "\ufffd" in text:
            return
        transformers5 = encode(self.begin + text, parse_special=True, segmentation="transformers5")
        self.add("transformers 5" if transformers5[1:] == body else "another segmentation")

    def count_parts(self, match: re.Match[str], body: list[int]) -> int:
        """The number of parts whose ids, encoded one by one, are joined in `body`; 0 if there are no such parts.

        Two parts count as one extra space, because their ids are the same.
        """
        if match["system"] is None or match["close"] is None:
            return 0
        message = match["message"] if self.given is None else self.given
        texts = ["[INST] ", "<<SYS>>\n", match["system"], "\n<</SYS>>\n\n", message, " [/INST] "]
        for k in range(2, len(texts)):
            for cuts in combinations(range(1, len(texts)), k):
                edges = zip((0, *cuts), (*cuts, len(texts)), strict=True)
                parts = ["".join(texts[i:j]) for i, j in edges]
                if [i for part in parts for i in self.tokenizer.encode(part, bos=False)] == body:
                    return len(parts)
        return 0

    def compare_system(self, system: str) -> None:
        if system.startswith(META):
            self.add("Meta's system prompt")
        elif system != DEFAULT_SYSTEM_PROMPT:
            self.add("another system prompt", shorten(system))

    def compare_message(self, message: str) -> str:
        """Collect the changes of the message. Returns it without the changes that can be undone."""
        given = None if self.given is None else self.given.strip()
        if message == given:
            return message
        for kind, undo in {"bytes as text": undo_bytes, "mojibake": undo_mojibake}.items():
            if (undone := undo(message)) != message:
                self.add(kind)
                message = undone
        if "\ufffd" in message:
            self.add("broken character")
        elif given is not None and message != given:
            kind = next((kind for kind, change in CHANGES.items() if change(given) == message), "another message")
            self.add(kind, shorten(message) if kind == "another message" else "")
        return message


def undo_bytes(text: str) -> str:
    """A text in which bytes are spelled, such as <0xE3><0x81><0x82>, with the characters of these bytes."""

    def characters(match: re.Match[str]) -> str:
        return bytes.fromhex(re.sub("<0x|>", "", match[0])).decode("utf-8", "replace")

    return re.sub("(<0x[0-9A-F]{2}>)+", characters, text)


def undo_mojibake(text: str) -> str:
    """A text whose UTF-8 was decoded as Latin-1, Windows-1252 or Shift-JIS, with its right characters."""
    for encoding in ("latin-1", "cp1252", "cp932"):
        with suppress(UnicodeError):
            undone = text.encode(encoding).decode("utf-8")
            if any("\u3040" <= c <= "\u9fff" for c in undone):  # kana or kanji
                return undone
    return text


def shorten(text: str) -> str:
    """The beginning of a text, quoted."""
    return repr(text if len(text) <= 30 else text[:30] + "…")


# Changes of a message, the more special ones first.
CHANGES: dict[str, Callable[[str], str]] = {
    "half-width digits": lambda text: text.translate(str.maketrans(WIDE, NARROW)),
    "full-width digits": lambda text: text.translate(str.maketrans(NARROW, WIDE)),
    "message in NFKC": lambda text: unicodedata.normalize("NFKC", text),
    "message in NFD": lambda text: unicodedata.normalize("NFD", text),
    "message in lower case": str.lower,
    "spaces lost": lambda text: text.replace(" ", ""),
    "line ends CR LF": lambda text: text.replace("\n", "\r\n"),
}
