"""How to generate, and what comes back. Names, meanings and defaults are transformers' (`GenerationConfig`).

docs/generation.md explains each option with its formula and its source.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..model import Llama
from .checks import as_ids, check_ids, check_range
from .filters import Filter
from .stopping import Criterion


@dataclass
class Options:
    """One way of generating. What is marked "ours" is not in transformers."""

    # length
    max_new_tokens: int | None = None  # never counts the prompt; None: up to max_length, else a default
    max_length: int | None = None  # counts prompt and new tokens; used only without max_new_tokens
    min_new_tokens: int | None = None  # no EOS before
    min_length: int | None = 0  # the same, prompt included

    # choosing the next token
    do_sample: bool = False
    temperature: float | None = 1.0
    top_k: int | None = 50
    top_p: float | None = 1.0
    min_p: float | None = None
    typical_p: float | None = 1.0
    epsilon_cutoff: float | None = 0.0
    eta_cutoff: float | None = 0.0
    top_h: float | None = None
    renormalize_logits: bool | None = False
    seed: int | Sequence[int] | None = None  # ours: an int draws as transformers after manual_seed; a list, one per row
    num_return_sequences: int | None = 1

    # against repetition
    repetition_penalty: float | None = 1.0
    presence_penalty: float | None = 0.0  # ours
    frequency_penalty: float | None = 0.0  # ours
    penalty_window: int | None = None  # ours: the three penalties count the last so many tokens only
    penalty_generated_only: bool = False  # ours: they do not count the prompt
    no_repeat_ngram_size: int | None = 0
    encoder_repetition_penalty: float | None = 1.0  # above 1: closer to the prompt's words
    encoder_no_repeat_ngram_size: int | None = 0  # nothing from the prompt

    # tokens that must, may or must not come
    bad_words_ids: Sequence[Sequence[int]] | None = None
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence | None = None
    suppress_tokens: Sequence[int] | None = None
    begin_suppress_tokens: Sequence[int] | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | Sequence[int] | None = None
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool | None = False
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None
    logits_processor: Sequence[Filter] | Filter | None = None
    guidance_scale: float | None = None
    negative_prompt_ids: Sequence[int] | None = None  # one for all prompts; None: the prompt's last token

    # beam search
    num_beams: int | None = 1
    length_penalty: float | None = 1.0
    early_stopping: bool | str | None = False  # True, False or "never"

    # stopping
    eos_token_id: int | Sequence[int] | None = None
    stop_strings: str | Sequence[str] | None = None  # ends the answer before the string; needs a tokenizer
    max_time: float | None = None  # seconds
    stopping_criteria: Sequence[Criterion] | Criterion | None = None
    stop_on_loop: bool = False  # ours: see `stopping.LoopDetector`

    # speculation
    prompt_lookup_num_tokens: int | None = None  # tokens drafted at a time, looked up in the text so far
    max_matching_ngram_size: int | None = 2  # tokens that have to match for a look-up
    num_assistant_tokens: int | None = 4  # tokens drafted at a time by a draft model; transformers begins with 20

    # long texts, memory, batches
    past_context: str = "refuse"  # ours: past the context, "refuse" or "shift"
    sink_tokens: int = 4  # ours: the first tokens, which "shift" keeps
    prefill_chunk_size: int | None = None
    pad_token_id: int | None = None  # what filters that compare ids see in padded places
    exact: bool = True  # ours: False reads a prompt once for all its answers, at the cost of the last bit

    # what comes back
    top_logprobs: int = 0  # ours: so many alternatives with each token

    @classmethod
    def of(cls, model: Llama, given: dict) -> Options:
        """What the caller gives, over what the checkpoint says, over the defaults above."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(given.keys() - known):
            raise TypeError(f"unknown generation option {', '.join(unknown)}; known are {', '.join(sorted(known))}")
        for name, neutral in NOT_SUPPORTED.items():
            value = model.generation_config.get(name)
            if value not in (None, neutral):
                raise ValueError(f"generation_config.json asks for {name} {value!r}, which is not supported")
        own = {name: value for name, value in model.generation_config.items() if name in known and value is not None}
        options = cls(**(own | given))
        options.check(given, model.config.vocab_size)
        return options

    def check(self, given: dict, V: int) -> None:
        """Refuse what does not go together; warn of what has no effect."""
        shaping = [name for name in SAMPLING_ONLY if given.get(name) is not None]
        if shaping and not self.do_sample:
            warnings.warn(f"{', '.join(shaping)}: no effect without do_sample=True", stacklevel=5)
        for other, names in NEED.items():
            idle = [name for name in names if given.get(name) not in (None, False)]
            if idle and getattr(self, other) in (None, 1, "refuse"):
                warnings.warn(f"{', '.join(idle)}: no effect without {other}", stacklevel=5)
        if given.get("max_length") and self.max_new_tokens is not None:
            warnings.warn("max_length: no effect, since max_new_tokens is there", stacklevel=5)
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
            raise ValueError("past_context='shift' does not go with beam search")

    @property
    def beams(self) -> int:
        return self.num_beams or 1

    @property
    def copies(self) -> int:
        """Answers to each prompt."""
        return self.num_return_sequences or 1

    @property
    def eos(self) -> list[int]:
        return as_ids(self.eos_token_id)


SAMPLING_ONLY = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "top_h",
)

# Options that do nothing without another.
NEED = {
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

# Keys of generation_config.json that would change the tokens, with the values that would not.
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
