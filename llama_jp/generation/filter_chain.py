"""The chain of filters for given options, in transformers' order. Each filter has the name of its option."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from .checks import as_ids, check_forced, check_range
from .filters import (
    Filter,
    allow_only,
    as_bad_words,
    as_biases,
    bias_sequences,
    cut_epsilon,
    cut_eta,
    favour_eos,
    forbid,
    forbid_repeated_ngrams,
    force,
    keep_min_p,
    keep_top_h,
    keep_top_k,
    keep_top_p,
    keep_typical,
    penalize_counts,
    penalize_repetition,
    remove_invalid,
)
from .options import Options


def make_filters(options: Options, prompt_length: int = 0, max_length: int | None = None) -> list[Filter]:
    """The filters for these options, in transformers' order. Neutral values add no filter.

    prompt_length: tokens of the prompt, with padding, as the reference counts.
    max_length: tokens of prompt and answer.

    The filters from temperature to eta change only the shape of the distribution, so greedy decoding omits them.
    Raises ValueError for a value out of range, or for two options that exclude each other.
    Reference: `GenerationMixin._get_logits_processor`.
    """
    return list(named_filters(options, prompt_length, max_length).values())


def named_filters(options: Options, prompt_length: int = 0, max_length: int | None = None) -> dict[str, Filter]:
    """The filters of `make_filters` under the names of their options, in the same order."""
    check_values(options)
    chain = penalties(options, prompt_length) | constraints(options, prompt_length, max_length)
    if options.do_sample:
        chain |= sampling_filters(options)
    if options.renormalize_logits:
        chain["renormalize_logits"] = lambda ids, logits: logits.log_softmax(-1)
    return chain


def check_values(options: Options) -> None:
    """Raise ValueError for a value out of its range."""
    check_range("repetition_penalty", options.repetition_penalty, above=0)
    check_range("encoder_repetition_penalty", options.encoder_repetition_penalty, above=0)
    check_range("presence_penalty", options.presence_penalty)
    check_range("frequency_penalty", options.frequency_penalty)
    check_range("penalty_window", options.penalty_window, least=1, whole=True)
    check_range("no_repeat_ngram_size", options.no_repeat_ngram_size, least=0, whole=True)
    check_range("encoder_no_repeat_ngram_size", options.encoder_no_repeat_ngram_size, least=0, whole=True)
    check_range("min_length", options.min_length, least=0, whole=True)
    check_range("min_new_tokens", options.min_new_tokens, least=0, whole=True)
    check_forced("forced_bos_token_id", options.forced_bos_token_id, options.suppress_tokens)
    check_forced("forced_eos_token_id", options.forced_eos_token_id, options.suppress_tokens)
    if not options.do_sample:
        return  # greedy decoding ignores the values below, whatever they are
    hint = "; for greedy decoding use do_sample=False (--greedy)"
    check_range("temperature", options.temperature, above=0, hint=hint)
    check_range("top_h", options.top_h, above=0, most=1)
    check_range("top_k", options.top_k, least=0, whole=True)
    check_range("top_p", options.top_p, least=0, most=1)
    check_range("min_p", options.min_p, least=0, most=1)
    check_range("typical_p", options.typical_p, above=0, most=1)
    check_range("epsilon_cutoff", options.epsilon_cutoff, least=0, below=1)
    check_range("eta_cutoff", options.eta_cutoff, least=0, below=1)


def penalties(options: Options, prompt_length: int) -> dict[str, Filter]:
    """Filters that depend on earlier tokens: biases, penalties, repeated n-grams, forbidden sequences."""
    chain: dict[str, Filter] = {}

    def padded(ids: Tensor) -> Tensor:
        """The ids with the pad id at padding positions, as in the reference."""
        return ids.where(ids >= 0, options.pad_token_id or 0)

    def counted(ids: Tensor) -> Tensor:
        """The ids that penalties count."""
        ids = ids[:, prompt_length if options.penalty_generated_only else 0 :]
        return ids[:, -options.penalty_window :] if options.penalty_window else ids

    if options.sequence_bias is not None:
        biases = as_biases(options.sequence_bias)
        chain["sequence_bias"] = lambda ids, logits: bias_sequences(logits, padded(ids), biases)
    if (encoder_penalty := options.encoder_repetition_penalty) not in (None, 1):
        inverse = 1 / encoder_penalty
        chain["encoder_repetition_penalty"] = lambda ids, logits: penalize_repetition(
            logits, padded(ids)[:, :prompt_length], inverse
        )
    if (penalty := options.repetition_penalty) not in (None, 1):
        chain["repetition_penalty"] = lambda ids, logits: penalize_repetition(logits, counted(ids), penalty)
    presence, frequency = options.presence_penalty or 0, options.frequency_penalty or 0
    if presence or frequency:
        chain["presence_penalty"] = lambda ids, logits: penalize_counts(logits, counted(ids), presence, frequency)
    if size := options.no_repeat_ngram_size:
        chain["no_repeat_ngram_size"] = lambda ids, logits: forbid_repeated_ngrams(logits, padded(ids), size)
    if encoder_size := options.encoder_no_repeat_ngram_size:
        chain["encoder_no_repeat_ngram_size"] = lambda ids, logits: forbid_repeated_ngrams(
            logits, padded(ids), encoder_size, padded(ids)[:, :prompt_length]
        )
    if options.bad_words_ids is not None:
        bad_words = as_bad_words(options.bad_words_ids, options.eos)
        chain["bad_words_ids"] = lambda ids, logits: bias_sequences(logits, padded(ids), bad_words)
    return chain


def constraints(options: Options, prompt_length: int, max_length: int | None) -> dict[str, Filter]:
    """Filters that set a length, or require or forbid tokens; and the caller's own."""
    chain: dict[str, Filter] = {}
    eos, pad_id = options.eos, options.pad_token_id or 0

    least = options.min_length if options.min_new_tokens is None else prompt_length + options.min_new_tokens
    if least and eos:
        name = "min_length" if options.min_new_tokens is None else "min_new_tokens"
        chain[name] = lambda ids, logits: forbid(logits, eos) if ids.shape[1] < least else logits
    if (allowed := options.prefix_allowed_tokens_fn) is not None:
        chain["prefix_allowed_tokens_fn"] = lambda ids, logits: allow_only(
            logits, ids.where(ids >= 0, pad_id), allowed, options.beams
        )
    if (first := options.forced_bos_token_id) is not None:
        chain["forced_bos_token_id"] = lambda ids, logits: force(logits, [first]) if ids.shape[1] == 1 else logits
    if options.forced_eos_token_id is not None:
        last = as_ids(options.forced_eos_token_id)
        chain["forced_eos_token_id"] = lambda ids, logits: (
            force(logits, last) if ids.shape[1] + 1 == max_length else logits
        )
    if options.remove_invalid_values:
        chain["remove_invalid_values"] = lambda ids, logits: remove_invalid(logits)
    if options.exponential_decay_length_penalty is not None:
        if not eos:
            raise ValueError(
                "exponential_decay_length_penalty makes EOS more probable, but there is no eos_token_id; set one"
            )
        start, factor = as_decay(options.exponential_decay_length_penalty)
        chain["exponential_decay_length_penalty"] = lambda ids, logits: favour_eos(
            logits, eos, factor, ids.shape[1] - prompt_length - start
        )
    if (suppressed := options.suppress_tokens) is not None:
        chain["suppress_tokens"] = lambda ids, logits: forbid(logits, suppressed)
    if (suppressed_first := options.begin_suppress_tokens) is not None:
        begin = prompt_length + (prompt_length == 1 and options.forced_bos_token_id is not None)
        chain["begin_suppress_tokens"] = lambda ids, logits: (
            forbid(logits, suppressed_first) if ids.shape[1] == begin else logits
        )
    own = options.logits_processor or ()
    for number, processor in enumerate([own] if callable(own) else own):
        chain[f"logits_processor {number}"] = partial(apply_processor, processor, pad_id)
    return chain


def sampling_filters(options: Options) -> dict[str, Filter]:
    """Filters that change the shape of the distribution. In beam search they keep enough tokens to continue with."""
    chain: dict[str, Filter] = {}
    at_least = 1 if options.beams == 1 else len(options.eos) + 1 if options.eos else 2
    if (temperature := options.temperature) not in (None, 1):
        chain["temperature"] = lambda ids, logits: logits / temperature
    if (top_h := options.top_h) is not None:
        chain["top_h"] = lambda ids, logits: keep_top_h(logits, top_h)
    if top_k := options.top_k:
        chain["top_k"] = lambda ids, logits: keep_top_k(logits, top_k, at_least)
    if (top_p := options.top_p) is not None and top_p < 1:
        chain["top_p"] = lambda ids, logits: keep_top_p(logits, top_p, at_least)
    if (min_p := options.min_p) is not None:
        chain["min_p"] = lambda ids, logits: keep_min_p(logits, min_p, at_least)
    if (typical_p := options.typical_p) is not None and typical_p < 1:
        chain["typical_p"] = lambda ids, logits: keep_typical(logits, typical_p, at_least)
    if epsilon := options.epsilon_cutoff:
        chain["epsilon_cutoff"] = lambda ids, logits: cut_epsilon(logits, epsilon, at_least)
    if eta := options.eta_cutoff:
        chain["eta_cutoff"] = lambda ids, logits: cut_eta(logits, eta, at_least)
    return chain


def as_decay(given: object) -> tuple[int, float]:
    """Check exponential_decay_length_penalty: (tokens, factor)."""
    if isinstance(given, list | tuple) and len(given) == 2:
        start, factor = given
        if isinstance(start, int) and isinstance(factor, int | float):
            return start, factor
    raise ValueError(f"exponential_decay_length_penalty is (tokens, factor), as in (20, 1.1), not {given!r}")


def apply_processor(processor: Filter, pad_id: int, ids: Tensor, logits: Tensor) -> Tensor:
    """Call the caller's processor as transformers does: (ids, logits), with the pad id at padding positions."""
    return processor(ids.where(ids >= 0, pad_id), logits)
