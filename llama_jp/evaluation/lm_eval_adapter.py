"""The lm-evaluation-harness with this model: `lm_eval.simple_evaluate(model=LlamaJpLM(model, tokenizer), …)`.

Log-likelihoods are bit-identical to those of the harness's transformers backend (`HFLM`) with the same batch size,
because batches, padding and the dtype of the log softmax are the same. Answers are those of the harness's backend with
one request at a time: `batch_size` requests run in flight, without padding. With batching="padded" they are those of
the harness's backend with the same batch size. One thing may differ, the ids of text that follows a special token: see
`segmentation`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ..checkpoint.chat_template import elyza_template
from ..generation.in_flight import ManyGenerations
from ..generation.interface import generate
from ..generation.options import Options
from ..generation.results import Generation
from ..generation.task import as_prompts
from ..model import Llama
from ..text.rendering import render
from ..text.tokenizer import Tokenizer
from .choices import score_continuations
from .conventions import rolling_windows
from .stop_sequences import stop_after

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import (
        Collator,
        handle_stop_sequences,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )
except ImportError as error:
    raise ImportError("lm-eval is not installed: pip install 'llama-jp[eval]'") from error

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

BATCHING = ("in-flight", "padded")
TextRequest = tuple[str, dict[str, Any], int]  # (context, options, number)
TokenRequest = tuple[Any, list[int], list[int]]  # (request for the harness's cache, ids of context, of continuation)


class LlamaJpLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A model for the harness. Arguments have the names and meanings of `HFLM`.

    max_length     tokens that the model sees at most; default: its context
    softmax_dtype  of the log softmax; default: that of the logits
    batching       "in-flight": the answer of a request does not depend on the others, except for near ties (see
                   docs/generation.md). Each sampled answer has random numbers of its own, from torch's seed.
                   "padded": the harness's batches, of requests with the same options
    segmentation   "published" encodes as the checkpoint was trained; "transformers5" as HFLM does, which differs after
                   special tokens and in leading spaces (see `Tokenizer.encode`)
    """

    backend = "causal"

    def __init__(
        self,
        model: Llama,
        tokenizer: Tokenizer,
        *,
        batch_size: int = 1,
        max_length: int | None = None,
        softmax_dtype: torch.dtype | None = None,
        batching: str = "in-flight",
        segmentation: str = "published",
    ) -> None:
        super().__init__()
        if batching not in BATCHING:
            raise ValueError(f"batching is {' or '.join(map(repr, BATCHING))}, not {batching!r}")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but a batch has at least one row")
        self.model, self.tokenizer = model, tokenizer
        self.batch_size, self.batching = batch_size, batching
        self.max_length = max_length or model.config.context_length
        self.max_gen_toks = 256
        self.softmax_dtype, self.segmentation = softmax_dtype, segmentation
        self._device = model.embed_tokens.weight.device

    @property
    def eot_token_id(self) -> int:
        if self.tokenizer.eos_id is None:
            raise ValueError("the tokenizer has no EOS token, which lm-eval needs")
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self.tokenizer.bos_id is None else self.tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.folder).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **unused: Any) -> list[int]:
        """The ids of a text. With `add_special_tokens` False, they do not begin with BOS."""
        bos = add_special_tokens is not False and self.tokenizer.adds_bos
        return self.tokenizer.encode(string, bos=bos, parse_special=True, segmentation=self.segmentation)

    def chat_template(self, chat_template: bool | str = False) -> str:
        """The text of the checkpoint's chat template, ELYZA's if it has none."""
        return (self.tokenizer.chat_template or elyza_template()).text if chat_template else ""

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as a text, in which special tokens stand by name. Without a generation prompt, the last
        message is left open, to be continued."""
        named = {role: getattr(self.tokenizer, f"{role}_id") for role in ("bos", "eos", "unk", "pad")}
        variables: dict[str, Any] = {
            f"{role}_token": self.tokenizer.vocabulary.piece(i) for role, i in named.items() if i is not None
        }
        variables["add_generation_prompt"] = add_generation_prompt
        text, _ = render(self.tokenizer.chat_template or elyza_template(), chat_history, {}, variables)
        if not add_generation_prompt:
            last = chat_history[-1]["content"].strip()
            text = text[: text.rindex(last) + len(last)]
        return text

    def _loglikelihood_tokens(
        self, requests: Sequence[TokenRequest], disable_tqdm: bool = False, **unused: Any
    ) -> list[tuple[float, bool]]:
        pairs = [(before, ids) for _, before, ids in requests]
        scores = [tuple(each) for each in self.score(pairs)]
        for (request, _, _), answer in zip(requests, scores, strict=True):
            self.cache_hook.add_partial("loglikelihood", request, answer)
        return scores

    def score(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Any]:
        """Score continuations in the harness's batches."""
        return score_continuations(
            self.model,
            pairs,
            context=self.max_length,
            batch_size=self.batch_size,
            softmax_dtype=self.softmax_dtype,
        )

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text."""
        texts = [text for (text,) in (request.args for request in requests)]
        windows = [
            (number, ids[:first], ids[first:])
            for number, text in enumerate(texts)
            for ids, first in rolling_windows([self.prefix_token_id, *self.tok_encode(text)], self.max_length)
        ]
        totals = [0.0] * len(texts)
        starts = range(0, len(windows), self.batch_size)
        for start in tqdm(starts, desc="rolling windows", disable=disable_tqdm or None, leave=False):
            batch = windows[start : start + self.batch_size]
            scores = self.score([(before, ids) for _, before, ids in batch])
            for (number, _, _), (log_likelihood, _) in zip(batch, scores, strict=True):
                totals[number] += log_likelihood
        for text, total in zip(texts, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answer each context until a stop sequence, EOS or the length. `Options` has the options by name."""
        arguments = [request.args for request in requests]
        texts: dict[int, str] = {}
        with tqdm(total=len(requests), desc="generating", disable=disable_tqdm or None, leave=False) as bar:
            for number, text in self.answers(arguments):
                self.cache_hook.add_partial("generate_until", arguments[number], text)
                texts[number] = text
                bar.update()
        return [texts[number] for number in range(len(requests))]

    def answers(self, arguments: Sequence[tuple[str, dict[str, Any]]]) -> Iterator[tuple[int, str]]:
        """The answers to (context, options), as they end, with the number of each. Beam search has padded batches."""
        in_flight = self.batching == "in-flight" and self.batch_size > 1
        flying, padded = list[TextRequest](), list[TextRequest]()
        for number, (context, options) in enumerate(arguments):
            flies = in_flight and options.get("num_beams") in (None, 1)
            (flying if flies else padded).append((context, options, number))

        def longest_first(request: TextRequest) -> tuple[int, str]:
            return -len(self.tok_encode(request[0])), request[0]

        if flying:
            yield from self.answers_in_flight(sorted(flying, key=longest_first))
        groups = Collator(padded, sort_fn=longest_first, group_by="gen_kwargs", group_fn=lambda request: request[1])
        for batch in groups.get_batched(n=self.batch_size):
            texts = self.answer([context for context, _, _ in batch], batch[0][1])
            yield from zip([number for _, _, number in batch], texts, strict=True)

    def answers_in_flight(self, requests: Sequence[TextRequest]) -> Iterator[tuple[int, str]]:
        """The answers to (context, options, number), `batch_size` of them at a time."""
        prompts, options, stops = [], [], []
        for context, gen_kwargs, _ in requests:
            named, own_stops = self.read_options(gen_kwargs)
            prompts.append(self.encode_context(context, named["max_new_tokens"]))
            named["stopping_criteria"] = [stop_after(own_stops, self.tokenizer, len(prompts[-1]))]
            options.append(Options.resolve(self.model, None, named))
            stops.append(own_stops)
        rows = as_prompts(prompts, self.model)
        for place, answer in ManyGenerations(self.model, rows, options, self.batch_size, self.tokenizer, None):
            yield requests[place][2], self.text_of(answer, stops[place])

    def answer(self, contexts: Sequence[str], gen_kwargs: dict[str, Any]) -> list[str]:
        """Answer a batch of contexts with the same options."""
        options, stops = self.read_options(gen_kwargs)
        prompts = [self.encode_context(context, options["max_new_tokens"]) for context in contexts]
        criteria = [stop_after(stops, self.tokenizer, max(map(len, prompts)))]
        answers = generate(self.model, prompts, tokenizer=self.tokenizer, stopping_criteria=criteria, **options)
        return [self.text_of(each, stops) for each in answers]

    def read_options(self, gen_kwargs: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The harness's options of a request as options of `generate`, and its stop sequences."""
        options: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, self.max_gen_toks))
        eos = self.tokenizer.decode([self.eot_token_id], skip_special=False)
        stops = handle_stop_sequences(options.pop("until"), eos=eos)
        options["max_new_tokens"] = options.pop("max_gen_toks")
        if not options["do_sample"]:
            options.pop("temperature", None)
        return options, stops

    def encode_context(self, context: str, new_tokens: int) -> list[int]:
        """The ids of a context, of which the last ones are kept if not all fit."""
        room = self.max_length - new_tokens
        if room < 1:
            raise ValueError(f"max_gen_toks is {new_tokens}, but the context holds {self.max_length} tokens in all")
        return self.tok_encode(context)[-room:]

    def text_of(self, answer: Generation, stops: list[str]) -> str:
        """The text of an answer up to the first stop sequence."""
        return str(postprocess_generated_text(self.tokenizer.decode(answer.ids), stops, None))
