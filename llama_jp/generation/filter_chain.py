"""The filters that the options ask for, in transformers' order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor

from .checks import as_ids, check_forced, check_range
from .filters import (
    Filter,
    allow_only,
    apply_own,
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


def make_filters(
    *,
    # what this generation is about
    do_sample: bool,
    prompt_length: int = 0,  # padding included, as the reference counts
    max_length: int | None = None,  # of prompt and answer
    eos: Sequence[int] = (),
    pad_id: int = 0,  # what filters that match ids see in padded places, as in the reference
    num_beams: int = 1,
    # penalties and biases, in the order in which they apply
    sequence_bias: Mapping[tuple[int, ...], float] | Sequence | None = None,
    encoder_repetition_penalty: float | None = None,
    repetition_penalty: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    penalty_window: int | None = None,
    penalty_generated_only: bool = False,
    no_repeat_ngram_size: int | None = None,
    encoder_no_repeat_ngram_size: int | None = None,
    bad_words_ids: Sequence[Sequence[int]] | None = None,
    # length, and tokens that must or must not come
    min_length: int | None = None,
    min_new_tokens: int | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
    forced_bos_token_id: int | None = None,
    forced_eos_token_id: int | Sequence[int] | None = None,
    remove_invalid_values: bool | None = None,
    exponential_decay_length_penalty: tuple[int, float] | None = None,
    suppress_tokens: Sequence[int] | None = None,
    begin_suppress_tokens: Sequence[int] | None = None,
    logits_processor: Sequence[Filter] | Filter | None = None,  # the caller's own
    # the shape of the distribution: sampling only
    temperature: float | None = None,
    top_h: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical_p: float | None = None,
    epsilon_cutoff: float | None = None,
    eta_cutoff: float | None = None,
    renormalize_logits: bool | None = None,
) -> list[Filter]:
    """The filters that these options ask for, in transformers' order; neutral values leave theirs out.

    What changes the shape of the distribution (temperature to eta) matters to sampling only and is left out of
    greedy decoding. Raises ValueError for a value outside its range, or for two options that exclude each other.
    Reference: `GenerationMixin._get_logits_processor`.
    """
    check_range("repetition_penalty", repetition_penalty, above=0)
    check_range("encoder_repetition_penalty", encoder_repetition_penalty, above=0)
    check_range("presence_penalty", presence_penalty)
    check_range("frequency_penalty", frequency_penalty)
    check_range("penalty_window", penalty_window, least=1, whole=True)
    check_range("no_repeat_ngram_size", no_repeat_ngram_size, least=0, whole=True)
    check_range("encoder_no_repeat_ngram_size", encoder_no_repeat_ngram_size, least=0, whole=True)
    check_range("min_length", min_length, least=0, whole=True)
    check_range("min_new_tokens", min_new_tokens, least=0, whole=True)
    check_range("temperature", temperature, above=0, hint="; for greedy decoding use do_sample=False (--greedy)")
    check_range("top_h", top_h, above=0, most=1)
    check_range("top_k", top_k, least=0, whole=True)
    check_range("top_p", top_p, least=0, most=1)
    check_range("min_p", min_p, least=0, most=1)
    check_range("typical_p", typical_p, above=0, most=1)
    check_range("epsilon_cutoff", epsilon_cutoff, least=0, below=1)
    check_range("eta_cutoff", eta_cutoff, least=0, below=1)
    check_forced("forced_bos_token_id", forced_bos_token_id, suppress_tokens)
    check_forced("forced_eos_token_id", forced_eos_token_id, suppress_tokens)

    chain: list[Filter] = []

    def add(filter: Filter) -> None:
        chain.append(filter)

    def add_matching(filter: Callable[..., Tensor], *given) -> None:
        """A filter that compares ids: in padded places it sees what the reference sees there."""
        chain.append(lambda ids, logits: filter(logits, ids.where(ids >= 0, pad_id), *given))

    def counted(ids: Tensor) -> Tensor:
        """The ids that penalties count: all, unless a window or "generated only" says otherwise."""
        ids = ids[:, prompt_length if penalty_generated_only else 0 :]
        return ids[:, -penalty_window:] if penalty_window else ids

    if sequence_bias is not None:
        add_matching(bias_sequences, as_biases(sequence_bias))
    if encoder_repetition_penalty not in (None, 1):
        add_matching(
            lambda logits, ids: penalize_repetition(logits, ids[:, :prompt_length], 1 / encoder_repetition_penalty)
        )
    if repetition_penalty not in (None, 1):
        add(lambda ids, logits: penalize_repetition(logits, counted(ids), repetition_penalty))
    if presence_penalty or frequency_penalty:
        add(lambda ids, logits: penalize_counts(logits, counted(ids), presence_penalty or 0, frequency_penalty or 0))
    if no_repeat_ngram_size:
        add_matching(forbid_repeated_ngrams, no_repeat_ngram_size)
    if encoder_no_repeat_ngram_size:
        n = encoder_no_repeat_ngram_size
        add_matching(lambda logits, ids: forbid_repeated_ngrams(logits, ids, n, ids[:, :prompt_length]))
    if bad_words_ids is not None:
        add_matching(bias_sequences, as_bad_words(bad_words_ids, eos))
    least = min_length if min_new_tokens is None else prompt_length + min_new_tokens
    if least and eos:
        add(lambda ids, logits: forbid(logits, eos) if ids.shape[1] < least else logits)
    if prefix_allowed_tokens_fn is not None:
        add_matching(allow_only, prefix_allowed_tokens_fn, num_beams)
    if forced_bos_token_id is not None:
        add(lambda ids, logits: force(logits, [forced_bos_token_id]) if ids.shape[1] == 1 else logits)
    if forced_eos_token_id is not None:
        last = as_ids(forced_eos_token_id)
        add(lambda ids, logits: force(logits, last) if ids.shape[1] + 1 == max_length else logits)
    if remove_invalid_values:
        add(lambda ids, logits: remove_invalid(logits))
    if exponential_decay_length_penalty is not None:
        if not eos:
            raise ValueError("exponential_decay_length_penalty makes EOS likelier, but there is no eos_token_id")
        match exponential_decay_length_penalty:
            case [int(start), int(factor) | float(factor)]:
                start += prompt_length
            case wrong:
                raise ValueError(
                    f"exponential_decay_length_penalty is (tokens, factor), as in (20, 1.1), not {wrong!r}"
                )
        add(lambda ids, logits: favour_eos(logits, eos, factor, ids.shape[1] - start))
    if suppress_tokens is not None:
        add(lambda ids, logits: forbid(logits, suppress_tokens))
    if begin_suppress_tokens is not None:
        first = prompt_length + (prompt_length == 1 and forced_bos_token_id is not None)
        add(lambda ids, logits: forbid(logits, begin_suppress_tokens) if ids.shape[1] == first else logits)
    for own in [logits_processor] if callable(logits_processor) else logits_processor or ():
        add(partial(apply_own, own, pad_id))

    if do_sample:
        at_least = 1 if num_beams == 1 else len(eos) + 1 if eos else 2  # beams need something to go on with
        if temperature not in (None, 1):
            add(lambda ids, logits: logits / temperature)
        if top_h is not None:
            add(lambda ids, logits: keep_top_h(logits, top_h))
        if top_k:
            add(lambda ids, logits: keep_top_k(logits, top_k, at_least))
        if top_p is not None and top_p < 1:
            add(lambda ids, logits: keep_top_p(logits, top_p, at_least))
        if min_p is not None:
            add(lambda ids, logits: keep_min_p(logits, min_p, at_least))
        if typical_p is not None and typical_p < 1:
            add(lambda ids, logits: keep_typical(logits, typical_p, at_least))
        if epsilon_cutoff:
            add(lambda ids, logits: cut_epsilon(logits, epsilon_cutoff, at_least))
        if eta_cutoff:
            add(lambda ids, logits: cut_eta(logits, eta_cutoff, at_least))
    if renormalize_logits:
        add(lambda ids, logits: logits.log_softmax(-1))
    return chain


def filters_of(options: Options, prompt_length: int, max_length: int) -> list[Filter]:
    """The chain that the options ask for: those of them that `make_filters` knows by the same name."""
    names = make_filters.__kwdefaults__.keys() & vars(options).keys() - {"max_length", "num_beams"}
    return make_filters(
        do_sample=options.do_sample,
        prompt_length=prompt_length,
        max_length=max_length,
        eos=options.eos,
        pad_id=options.pad_token_id,
        num_beams=options.beams,
        **{name: getattr(options, name) for name in names},
    )
