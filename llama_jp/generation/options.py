"""Generation options: names and meanings of transformers' `GenerationConfig`, and some of our own.

docs/generation.md explains each option with its formula and its source.
"""

from __future__ import annotations

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeVar

from torch import Tensor

from ..model import Llama
from .checks import as_ids, check_ids, check_range
from .filters import Filter
from .stopping import Criterion

DEFAULT_TOP_K = 50  # transformers' default, used when sampling


@dataclass
class Options:
    """One way to generate. None: the value in the checkpoint's generation_config.json, else the default below.

    Options marked "ours" do not exist in transformers.
    """

    # Length
    max_new_tokens: int | None = None  # without the prompt; default: up to max_length, else DEFAULT_MAX_NEW_TOKENS
    max_length: int | None = None  # prompt and new tokens; used only without max_new_tokens
    min_new_tokens: int | None = None  # no EOS before this many new tokens
    min_length: int | None = None  # no EOS before this many tokens of prompt and answer

    # Choice of the next token
    do_sample: bool | None = None  # default: False, greedy decoding
    temperature: float | None = None  # divides the logits; default: 1
    top_k: int | None = None  # default: 50; 0 keeps all tokens
    top_p: float | None = None  # the most probable tokens that sum to top_p; default: 1, all tokens
    min_p: float | None = None  # tokens with at least min_p times the largest probability; default: all
    typical_p: float | None = None  # the tokens closest to the entropy that sum to typical_p; default: 1, all
    epsilon_cutoff: float | None = None  # tokens of at least this probability; default: 0, all
    eta_cutoff: float | None = None  # the same, with a lower threshold for a wide distribution; default: 0, all
    top_h: float | None = None  # the most probable tokens with this share of the entropy; default: all
    renormalize_logits: bool | None = None  # log-softmax after all filters; default: False
    seed: int | Sequence[int] | None = None  # ours: an int as transformers after manual_seed; a list: one for each row
    num_return_sequences: int | None = None  # default: 1

    # Against repetition
    repetition_penalty: float | None = None  # above 1: earlier tokens become less probable; default: 1
    presence_penalty: float | None = None  # ours: subtracted from the logits of earlier tokens; default: 0
    frequency_penalty: float | None = None  # ours: the same, for each occurrence; default: 0
    penalty_window: int | None = None  # ours: the three penalties count only this many last tokens
    penalty_generated_only: bool = False  # ours: they do not count the prompt
    no_repeat_ngram_size: int | None = None  # no n-gram of this size twice; default: 0, no limit
    encoder_repetition_penalty: float | None = None  # above 1: prefer tokens of the prompt; default: 1
    encoder_no_repeat_ngram_size: int | None = None  # no n-gram of the prompt; default: 0

    # Required, preferred and forbidden tokens
    bad_words_ids: Sequence[Sequence[int]] | None = None  # forbidden sequences
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Any] | None = None  # {(7, 8): -2.5}
    suppress_tokens: Sequence[int] | None = None  # never
    begin_suppress_tokens: Sequence[int] | None = None  # not as the first new token
    forced_bos_token_id: int | None = None  # the first new token after a prompt of one token
    forced_eos_token_id: int | Sequence[int] | None = None  # the last token of the maximum length
    exponential_decay_length_penalty: tuple[int, float] | None = None  # (after n new tokens, factor for EOS)
    remove_invalid_values: bool | None = None  # NaN and infinity become finite; default: False, they are an error
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None  # (prompt number, ids) -> ids
    logits_processor: Sequence[Filter] | Filter | None = None  # your own filters: (ids, logits) -> logits
    guidance_scale: float | None = None  # classifier-free guidance; default: 1, none
    negative_prompt_ids: Sequence[int] | None = None  # one for all prompts; default: the last token of the prompt

    # Beam search
    num_beams: int | None = None  # default: 1, no beam search
    length_penalty: float | None = None  # default: 1.0
    early_stopping: bool | str | None = None  # True, False or "never"; default: False

    # Stopping
    eos_token_id: int | Sequence[int] | None = None  # one id or several
    stop_strings: str | Sequence[str] | None = None  # the answer ends before the string; needs a tokenizer
    max_time: float | None = None  # seconds
    stopping_criteria: Sequence[Criterion] | Criterion | None = None  # (ids, scores) -> bool, or one for each row
    stop_on_loop: bool = False  # ours: see `stopping.LoopDetector`

    # Speculation
    prompt_lookup_num_tokens: int | None = None  # draft tokens in a call, copied from earlier text
    max_matching_ngram_size: int | None = None  # tokens that must match for a lookup; default: 2
    num_assistant_tokens: int | None = None  # draft tokens in a call, by a draft model; default: 4 (transformers: 20)

    # Long texts, memory, batches
    past_context: str = "refuse"  # ours: when the context is full, "refuse" or "shift"
    sink_tokens: int = 4  # ours: the first tokens, which "shift" keeps
    prefill_chunk_size: int | None = None  # tokens of a prompt in one call; default: all
    pad_token_id: int | None = None  # at padding positions of the ids for filters; default: the first EOS, or 0
    exact: bool = True  # ours: False shares the prefill of a prompt among its answers even where last bits change

    # Results
    top_logprobs: int = 0  # ours: the number of alternatives returned with each token

    @classmethod
    def resolve(cls, model: Llama, options: Options | None, named: Mapping[str, Any]) -> Options:
        """Merge, later ones first: values given by name (None included), `options`, the checkpoint, the defaults.

        Returns a new, checked object. Raises TypeError for an unknown name; ValueError for a value that is out of
        range, two options that exclude each other, or an unsupported key in generation_config.json.
        """
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        if unknown := sorted(named.keys() - fields.keys()):
            raise TypeError(f"unknown generation option {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
        for name, neutral in NOT_SUPPORTED.items():
            value = model.generation_config.get(name)
            if value not in (None, neutral):
                raise ValueError(f"generation_config.json sets {name} to {value!r}, which is not supported")
        checkpoint = {k: v for k, v in model.generation_config.items() if k in fields and v is not None}
        given = {} if options is None else {k: v for k, v in vars(options).items() if v != fields[k]}
        given |= named
        resolved = cls(**({"top_k": DEFAULT_TOP_K} | checkpoint | given))
        resolved.check(given, model.config.vocab_size)
        return resolved

    def check(self, given: Mapping[str, Any], V: int) -> None:
        """Raise ValueError for options that exclude each other; warn about given ones without effect."""
        sampling_only = [name for name in SAMPLING_ONLY if given.get(name) is not None]
        if sampling_only and not self.do_sample:
            warn(f"{', '.join(sampling_only)}: no effect without do_sample=True")
        for other, names in REQUIRES.items():
            unused = [name for name in names if given.get(name) not in (None, False)]
            if unused and getattr(self, other) in (None, 1, "refuse"):
                warn(f"{', '.join(unused)}: no effect without {other}")
        if given.get("max_length") and self.max_new_tokens is not None:
            warn("max_length: no effect together with max_new_tokens")
        for name in COUNTS:
            check_range(name, getattr(self, name), least=1, whole=True)
        for name in ("sink_tokens", "top_logprobs"):
            check_range(name, getattr(self, name), least=0, whole=True)
        for name in ("guidance_scale", "length_penalty"):
            check_range(name, getattr(self, name))
        for name in IDS:
            check_ids(name, as_ids(given.get(name)), V)
        if self.copies > 1 and self.beams == 1 and not self.do_sample:
            raise ValueError(
                f"greedy decoding has one answer, so num_return_sequences cannot be {self.copies}; sample, or use beams"
            )
        if self.beams > 1 and self.copies > self.beams:
            raise ValueError(f"num_return_sequences is {self.copies}, but there are only {self.beams} beams to return")
        if self.early_stopping not in (None, True, False, "never"):
            raise ValueError(f'early_stopping is True, False or "never", not {self.early_stopping!r}')
        if self.past_context not in ("refuse", "shift"):
            raise ValueError(f'past_context is "refuse" or "shift", not {self.past_context!r}')
        if self.past_context == "shift" and self.beams > 1:
            raise ValueError("past_context='shift' cannot be combined with beam search")

    @property
    def beams(self) -> int:
        """Beams for each prompt; 1: no beam search."""
        return self.num_beams or 1

    @property
    def copies(self) -> int:
        """Answers to each prompt."""
        return self.num_return_sequences or 1

    @property
    def eos(self) -> list[int]:
        """The ids that end an answer."""
        return as_ids(self.eos_token_id)

    @property
    def strings(self) -> list[str]:
        """The stop strings."""
        return [self.stop_strings] if isinstance(self.stop_strings, str) else list(self.stop_strings or ())


class OptionFields(TypedDict, total=False):
    """The fields of `Options` as keyword arguments, for type checkers. A test compares the two classes."""

    max_new_tokens: int | None
    max_length: int | None
    min_new_tokens: int | None
    min_length: int | None
    do_sample: bool | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    typical_p: float | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    top_h: float | None
    renormalize_logits: bool | None
    seed: int | Sequence[int] | None
    num_return_sequences: int | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    penalty_window: int | None
    penalty_generated_only: bool
    no_repeat_ngram_size: int | None
    encoder_repetition_penalty: float | None
    encoder_no_repeat_ngram_size: int | None
    bad_words_ids: Sequence[Sequence[int]] | None
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence[Any] | None
    suppress_tokens: Sequence[int] | None
    begin_suppress_tokens: Sequence[int] | None
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    exponential_decay_length_penalty: tuple[int, float] | None
    remove_invalid_values: bool | None
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None
    logits_processor: Sequence[Filter] | Filter | None
    guidance_scale: float | None
    negative_prompt_ids: Sequence[int] | None
    num_beams: int | None
    length_penalty: float | None
    early_stopping: bool | str | None
    eos_token_id: int | Sequence[int] | None
    stop_strings: str | Sequence[str] | None
    max_time: float | None
    stopping_criteria: Sequence[Criterion] | Criterion | None
    stop_on_loop: bool
    prompt_lookup_num_tokens: int | None
    max_matching_ngram_size: int | None
    num_assistant_tokens: int | None
    past_context: str
    sink_tokens: int
    prefill_chunk_size: int | None
    pad_token_id: int | None
    exact: bool
    top_logprobs: int


F = TypeVar("F", bound=Callable[..., Any])


def show_option_fields(function: F) -> F:
    """List the fields of `Options` in the signature that help() and IDEs show, in place of **named."""
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    fields = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in dataclasses.fields(Options)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *fields])  # type: ignore[attr-defined]
    return function


def warn(message: str) -> None:
    """Warn at the line outside this package that called it."""
    frame, level = inspect.currentframe(), 1
    while frame is not None and frame.f_globals.get("__name__", "").startswith("llama_jp."):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


SAMPLING_ONLY = (
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "top_h",
)

# Options without effect unless another one is set.
REQUIRES = {
    "num_beams": ("length_penalty", "early_stopping"),
    "prompt_lookup_num_tokens": ("max_matching_ngram_size",),
    "guidance_scale": ("negative_prompt_ids",),
    "past_context": ("sink_tokens",),
}

COUNTS = (
    "max_length",
    "num_beams",
    "num_return_sequences",
    "prompt_lookup_num_tokens",
    "max_matching_ngram_size",
    "num_assistant_tokens",
    "prefill_chunk_size",
)

IDS = (
    "eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "negative_prompt_ids",
)

# Unsupported keys of generation_config.json that change the tokens, with the values that do not.
NOT_SUPPORTED = {
    "num_beam_groups": 1,
    "diversity_penalty": 0.0,
    "penalty_alpha": None,
    "constraints": None,
    "force_words_ids": None,
    "dola_layers": None,
    "token_healing": False,
    "watermarking_config": None,
}
