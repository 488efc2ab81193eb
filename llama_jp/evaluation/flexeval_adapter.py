"""This model in flexeval: `flexeval_lm --language_model llama_jp.evaluation.flexeval_adapter.LlamaJpLanguageModel …`.

Numbers and texts are those of flexeval's `HuggingFaceLM`. A conversation is encoded as the checkpoint was trained; see
`Tokenizer.chat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..generation.interface import generate
from ..loading import load
from .choices import score_continuations
from .conventions import overlapping_windows
from .published_answers import continue_text
from .stop_sequences import stop_after

try:
    from flexeval.core.language_model.base import LanguageModel, LMOutput, normalize_stop_sequences
except ImportError as error:
    raise ImportError("flexeval is not installed: pip install flexeval") from error

Messages = list[dict[str, Any]]


class LlamaJpLanguageModel(LanguageModel):  # type: ignore[misc]  # flexeval has no types
    """A model for flexeval.

    model, dtype, device  as in `llama_jp.load`: a folder, a short name, or "module:function"
    add_special_tokens    begin texts to complete with BOS
    default_gen_kwargs    fields of `Options`, for all answers
    string_processors     as in flexeval
    """

    def __init__(
        self,
        model: str = "demo",
        dtype: str = "auto",
        device: str = "auto",
        add_special_tokens: bool = False,
        default_gen_kwargs: dict[str, Any] | None = None,
        string_processors: Any = None,
    ) -> None:
        super().__init__(string_processors=string_processors)
        self.name = model
        self.model, self.tokenizer = load(model, dtype=dtype, device=device)
        self.add_special_tokens = add_special_tokens
        self.default_gen_kwargs = dict(default_gen_kwargs or {})

    def __repr__(self) -> str:
        return f"LlamaJpLanguageModel(model={self.name!r})"

    def set_random_seed(self, seed: int) -> None:
        """Seed torch's global generator."""
        torch.manual_seed(seed)

    def _batch_complete_text(
        self,
        text_list: list[str],
        stop_sequences: str | list[str] | None = None,
        max_new_tokens: int | None = None,
        **kwargs: Any,
    ) -> list[LMOutput]:
        prompts = [self.encode(text) for text in text_list]
        return self.answer(prompts, stop_sequences, max_new_tokens, **kwargs)

    def _batch_generate_chat_response(
        self,
        chat_messages_list: list[Messages],
        tools_list: list[list[dict[str, Any]] | None] | None = None,
        **kwargs: Any,
    ) -> list[LMOutput]:
        if any(tools_list or ()):
            raise ValueError("tools are not supported; leave them out")
        return self.answer([self.tokenizer.chat(messages) for messages in chat_messages_list], **kwargs)

    def encode(self, text: str) -> list[int]:
        """The ids of a text, in which special tokens may stand by name."""
        bos = self.add_special_tokens and self.tokenizer.adds_bos
        return self.tokenizer.encode(text, bos=bos, parse_special=True)

    def answer(
        self,
        prompts: Sequence[list[int]],
        stop_sequences: str | list[str] | None = None,
        max_new_tokens: int | None = None,
        ignore_eos: bool = False,
        **kwargs: Any,
    ) -> list[LMOutput]:
        """Answer prompts in one batch. A prompt that fills the context gives an empty answer, as in flexeval."""
        options = self.default_gen_kwargs | kwargs
        if max_new_tokens is not None:
            options["max_new_tokens"] = max_new_tokens
        begin = max(map(len, prompts))
        room = self.model.config.context_length - begin
        if room < 1:
            return [LMOutput(text="", finish_reason="input_length_limit") for _ in prompts]
        options["max_new_tokens"] = min(room, options.get("max_new_tokens") or room)
        special = {name: self.special_name(name) for name in ("bos", "eos")}
        given = [stop_sequences, options.pop("stop_strings", None), options.pop("stop_sequences", None)]
        stops = normalize_stop_sequences(given, special["bos"], special["eos"], ignore_eos)
        ends = [i for i, piece in self.tokenizer.vocabulary.pieces.items() if piece in stops]
        options["eos_token_id"] = ends or None
        answers = generate(
            self.model,
            prompts,
            stopping_criteria=[stop_after(stops, self.tokenizer, begin)] if stops else None,
            **options,
        )
        outputs = []
        for prompt, answer in zip(prompts, answers, strict=True):
            ids = answer.ids[:-1] if answer.finish_reason == "eos" else answer.ids
            whole, before = (self.tokenizer.decode(each, skip_special=False) for each in (prompt + ids, prompt))
            text = whole[len(before) :]
            end = min((place for place in map(text.find, stops) if place >= 0), default=None)
            reason = "length" if end is None and answer.finish_reason == "length" else "stop"
            outputs.append(LMOutput(text=text[:end], finish_reason=reason))
        return outputs

    def special_name(self, role: str) -> str | None:
        token = getattr(self.tokenizer, f"{role}_id")
        return None if token is None else self.tokenizer.vocabulary.piece(token)

    def _batch_compute_log_probs(
        self, text_list: list[str], prefix_list: list[str] | None = None, stride: int | None = None
    ) -> list[float]:
        prefixes = [
            self.encode(prefix) if prefix else self.first_ids() for prefix in prefix_list or [""] * len(text_list)
        ]
        pairs = [(prefix, self.encode_after(prefix, text)) for prefix, text in zip(prefixes, text_list, strict=True)]
        return self.log_probs(pairs, stride)

    def _batch_compute_chat_log_probs(
        self, prompt_list: list[Messages], response_list: list[dict[str, Any]]
    ) -> list[float]:
        pairs = []
        for prompt, response in zip(prompt_list, response_list, strict=True):
            before = self.tokenizer.chat(prompt)
            whole = self.tokenizer.chat([*prompt, response], add_generation_prompt=False)
            if whole[: len(before)] != before:
                raise ValueError("the chat template writes a prompt with an answer otherwise than without")
            pairs.append((before, whole[len(before) :]))
        return self.log_probs(pairs)

    def first_ids(self) -> list[int]:
        """BOS, or EOS if there is none: the context of a text without a prefix."""
        tokens = [i for i in (self.tokenizer.bos_id, self.tokenizer.eos_id) if i is not None]
        if not tokens:
            raise ValueError("the tokenizer has neither BOS nor EOS, so a text needs a prefix")
        return tokens[:1]

    def encode_after(self, prefix: list[int], text: str) -> list[int]:
        """The ids of a text that follows a prefix. After a special token, it is encoded as a text of its own."""
        if prefix[-1] in self.tokenizer.vocabulary.special:
            return self.tokenizer.encode(text, bos=False, parse_special=True)
        return continue_text(self.tokenizer, text)

    def log_probs(self, pairs: Sequence[tuple[list[int], list[int]]], stride: int | None = None) -> list[float]:
        """Sums of log p(token), in nats, of ids after a prefix; in overlapping windows if they exceed the context."""
        window = self.model.config.context_length
        stride = stride or window // 2
        if not 0 < stride < window:
            raise ValueError(f"the stride is {stride}, but it has to be between 0 and the context of {window} tokens")
        numbers, requests = [], []
        for number, (prefix, ids) in enumerate(pairs):
            unscored = len(prefix)  # tokens that are not scored, or scored already
            for part, first in overlapping_windows([*prefix, *ids], window, stride):
                seen = max(first, unscored)
                unscored -= min(unscored, stride)
                if seen < len(part):
                    numbers.append(number)
                    requests.append((part[:seen], part[seen:]))
        totals = [0.0] * len(pairs)
        for number, found in zip(numbers, score_continuations(self.model, requests), strict=True):
            totals[number] += found.log_likelihood
        return totals
