"""A conversation: its turns, the prompt of the next turn within the context, and the KV cache between turns."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cache import Cache
from ..generation.interface import stream_text
from ..generation.options import Options
from ..generation.speculation import SelfDraft
from ..generation.task import DEFAULT_MAX_NEW_TOKENS
from ..model import Llama
from ..text.tokenizer import Tokenizer
from ..text_files import parse_json, read_text_file, write_whole
from .language import translate
from .output import count, speed_report
from .prompt_cache import common_prefix_length

Turn = tuple[str, str]  # (user, assistant)


class Conversation:
    """The turns so far, and a KV cache of their tokens, so that a turn prefills only its new tokens."""

    def __init__(
        self, model: Llama, tokenizer: Tokenizer, system: str | None, assistant_model: Llama | SelfDraft | None = None
    ):
        self.model = model
        self.tokenizer = tokenizer
        self.system = system  # None: the template's own
        self.assistant_model = assistant_model
        self.history: list[Turn] = []
        self.forgotten = 0  # the oldest turns, which are not part of the prompt
        self.cache: Cache = model.new_cache(1, model.config.context_length)
        self.cached: list[int] = []  # the ids of the tokens in the cache

    def reset(self, system: str | None = None) -> None:
        """Clear the turns, and replace the system prompt if one is given."""
        self.history, self.forgotten = [], 0
        if system is not None:
            self.system = system

    def prompt_ids(self, message: str, forgotten: int) -> list[int]:
        """The ids of the prompt for a message, without the `forgotten` oldest turns."""
        return self.tokenizer.chat([*self.messages(forgotten), {"role": "user", "content": message}])

    def messages(self, forgotten: int = 0) -> list[dict[str, str]]:
        """The system prompt and the turns, without the `forgotten` oldest ones, in the form of `Tokenizer.chat`."""
        texts = [] if self.system is None else [("system", self.system)]
        for user, assistant in self.history[forgotten:]:
            texts += [("user", user), ("assistant", assistant)]
        return [{"role": role, "content": text} for role, text in texts]

    def limits(self, options: Mapping[str, Any]) -> tuple[int, int]:
        """The most tokens of prompt and answer together, and the tokens to keep free for the answer."""
        resolved = Options.resolve(self.model, None, options)
        limit = self.model.config.context_length
        if resolved.max_new_tokens is not None:
            return limit, resolved.max_new_tokens
        limit = min(limit, resolved.max_length or limit)
        return limit, min(DEFAULT_MAX_NEW_TOKENS, limit // 2)

    def turns_to_forget(self, message: str, options: Mapping[str, Any]) -> int:
        """The number of oldest turns to leave out, so that the prompt and the answer fit the context.

        When the context is full, half of it is freed: the cache cannot serve a prompt without its first turns, so the
        prompt is computed again, and that should be rare. With past_context set, no turn is left out.
        """
        forgotten = self.forgotten
        limit, answer = self.limits(options)
        if "past_context" in options or len(self.prompt_ids(message, forgotten)) + answer <= limit:
            return forgotten
        while forgotten < len(self.history) and len(self.prompt_ids(message, forgotten)) > (limit - answer) // 2:
            forgotten += 1
        return forgotten

    def answer(self, message: str, options: Mapping[str, Any]) -> None:
        """Stream the answer to standard output and add the turn. An interrupted answer stays, as far as it came."""
        forgotten = self.turns_to_forget(message, options)
        ids = self.prompt_ids(message, forgotten)
        cached = common_prefix_length(self.cached, ids)
        self.cache.crop(cached)
        self.cached = self.cached[:cached]
        stream = stream_text(
            self.model, self.tokenizer, ids, cache=self.cache, assistant_model=self.assistant_model, **options
        )
        if forgotten and not self.forgotten:  # said once; the reports count the turns that follow
            print_message(forgotten_notice(self.history[:forgotten], self.limits(options)[0]))
        self.forgotten = forgotten
        text, interrupted = "", False
        try:
            for piece in stream:
                text += piece
                sys.stdout.write(piece)
                sys.stdout.flush()
        except KeyboardInterrupt:
            interrupted = True
        finally:
            tokens = ids + stream.generation.ids
            # After a shift, the cache has lost tokens in the middle, so it is not a prefix of the next prompt.
            shifted = options.get("past_context") == "shift" and self.cache.length < len(tokens) - 1
            self.cached = [] if shifted else tokens[: self.cache.length]
        print(flush=True)
        self.history.append((message, text))
        report = speed_report(stream, len(ids), options, cached=cached, interrupted=interrupted)
        print_message(f"{report}, {count(forgotten, 'turn')} forgotten" if forgotten else report)

    def save(self, file: Path) -> None:
        """Write the system prompt and all turns, the forgotten ones included, as a JSON list of messages."""
        write_whole(file, json.dumps(self.messages(), ensure_ascii=False, indent=2) + "\n")

    def load(self, file: Path) -> None:
        """Replace the conversation by a saved one. Raises ValueError for a file of another form."""
        text = read_text_file(file)
        try:
            messages = parse_json(text)
            texts = [(message["role"], str(message["content"])) for message in messages]
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{file} is no saved conversation: {error}") from error
        system = texts.pop(0)[1] if texts and texts[0][0] == "system" else None
        roles = [role for role, _ in texts]
        if roles != ["user", "assistant"] * (len(texts) // 2):
            raise ValueError(f"{file} is no saved conversation: users and assistants have to take turns in it")
        self.reset()
        self.system = system
        self.history = [(user, answer) for (_, user), (_, answer) in zip(texts[::2], texts[1::2], strict=True)]


def forgotten_notice(turns: list[Turn], context: int) -> str:
    """The sentence for turns that the prompt does not hold."""
    last = " ".join(turns[-1][0].split())
    shown = last if len(last) <= 20 else f"{last[:20]}…"
    number = "its oldest turn" if len(turns) == 1 else f"its {len(turns)} oldest turns"
    return f"the context of {context} tokens is full: the chat goes on without {number}, up to “{shown}”"


def print_message(text: str) -> None:
    """Print to standard error, since standard output has only the answers."""
    print(translate(text), file=sys.stderr)
