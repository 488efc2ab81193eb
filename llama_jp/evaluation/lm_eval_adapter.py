"""The lm-evaluation-harness with this model: `lm_eval.simple_evaluate(model=LlamaJpLM(model, tokenizer), …)`.

Results are bit-identical to those of the harness's transformers backend (`HFLM`) with the same batch size, because
batches, padding and the dtype of the log softmax are the same. One thing may differ, the ids of text that follows a
special token: see `segmentation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from ..checkpoint.chat_template import elyza_template
from ..generation.interface import generate
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

TokenRequest = tuple[Any, list[int], list[int]]  # (request for the harness's cache, ids of context, of continuation)


class LlamaJpLM(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """A model for the harness. Arguments have the names and meanings of `HFLM`.

    max_length     tokens that the model sees at most; default: its context
    softmax_dtype  of the log softmax; default: that of the logits
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
        segmentation: str = "published",
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, but a batch has at least one row")
        self.model, self.tokenizer = model, tokenizer
        self.batch_size = batch_size
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
        groups = Collator(
            [request.args for request in requests],
            sort_fn=lambda args: (-len(self.tok_encode(args[0])), args[0]),
            group_by="gen_kwargs",
            group_fn=lambda args: args[1],
        )
        texts: list[str] = []
        with tqdm(total=len(requests), desc="generating", disable=disable_tqdm or None, leave=False) as bar:
            for batch in groups.get_batched(n=self.batch_size):
                answers = self.answer([context for context, _ in batch], batch[0][1])
                for args, text in zip(batch, answers, strict=True):
                    self.cache_hook.add_partial("generate_until", args, text)
                texts += answers
                bar.update(len(batch))
        return groups.get_original(texts)

    def answer(self, contexts: Sequence[str], gen_kwargs: dict[str, Any]) -> list[str]:
        """Answer a batch of contexts with the same options."""
        options: dict[str, Any] = dict(normalize_gen_kwargs(gen_kwargs, self.max_gen_toks))
        eos = self.tokenizer.decode([self.eot_token_id], skip_special=False)
        stops = handle_stop_sequences(options.pop("until"), eos=eos)
        new_tokens = options.pop("max_gen_toks")
        if not options["do_sample"]:
            options.pop("temperature", None)
        room = self.max_length - new_tokens
        if room < 1:
            raise ValueError(f"max_gen_toks is {new_tokens}, but the context holds {self.max_length} tokens in all")
        prompts = [self.tok_encode(context)[-room:] for context in contexts]
        begin = max(map(len, prompts))
        answers = generate(
            self.model,
            prompts,
            tokenizer=self.tokenizer,
            max_new_tokens=new_tokens,
            stopping_criteria=[stop_after(stops, self.tokenizer, begin)],
            **options,
        )
        return [postprocess_generated_text(self.tokenizer.decode(each.ids), stops, None) for each in answers]
