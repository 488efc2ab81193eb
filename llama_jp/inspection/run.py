"""Generate an answer under a trace: ids, logits, and the activations of every position."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..generation.decoding import decode
from ..generation.options import Options
from ..generation.results import Generation
from ..generation.speculation import Draft, DraftSource, SelfDraft, make_draft, speculate
from ..generation.stop_strings import StopStringBuffer
from ..generation.task import DecodingTask, as_prompts, prepare_task
from ..model import Llama
from ..text.tokenizer import Tokenizer
from ..tracing import Activations, matching_points, point_names, trace
from .operations import OPERATIONS

VALUES = 6  # of each vector, for the cards


class Call(NamedTuple):
    """One call of the model: T new tokens, after which the cache holds S."""

    T: int
    S: int


class DraftedCall(NamedTuple):
    """The draft tokens for one call, before they were accepted or rejected."""

    position: int  # of the first of them
    tokens: list[int]


@dataclass
class Run:
    """A prompt, its answer, and what the model computed. N is the number of processed tokens: all but the last."""

    task: DecodingTask
    ids: list[int]
    answer: Generation
    calls: list[Call]
    logits: list[Tensor]  # (V,) float32 for each token of the answer
    hidden: list[Tensor]  # (N, C): the embedding, then the residual stream after each layer
    weights: dict[int, Tensor]  # layer -> (H, N, N) attention weights, 0 where a key is not visible
    samples: dict[str, Tensor]  # point -> (N, VALUES) float32: the first values of each vector, of the first head
    norms: dict[str, Tensor]  # point -> (N,) float32: the L2 norm of each vector, over all heads
    drafts: list[DraftedCall] = field(default_factory=list)


class RecordedDrafts:
    """A source of draft tokens that also keeps them."""

    def __init__(self, source: DraftSource, drafts: list[DraftedCall]) -> None:
        self.source, self.tokens, self.cost, self.drafts = source, source.tokens, source.cost, drafts

    def propose(self, ids: list[int], most: int) -> Draft:
        draft = self.source.propose(ids, most)
        if draft.tokens:
            self.drafts.append(DraftedCall(len(ids), list(draft.tokens)))
        return draft


def run_traced(
    model: Llama,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    options: Options,
    layers: Sequence[int],
    heads: Sequence[int],
    assistant_model: Llama | SelfDraft | None = None,
) -> Run:
    """Generate an answer to one prompt, as `generate` does with the same resolved options, and record it.

    layers, heads  those whose attention weights are kept

    Raises ValueError for options that the page cannot show (beams, several answers, guidance, past_context="shift"),
    and for a draft model that shares modules with the model, or is a copy of it.
    """
    check_options(options)
    if isinstance(assistant_model, SelfDraft):
        raise ValueError("a page does not show drafts of the model's own copy; name another draft model, or none")
    if assistant_model is not None and not set(model.modules()).isdisjoint(assistant_model.modules()):
        raise ValueError("the draft model shares modules with the model, so one trace would record both; load it again")
    (row,) = as_prompts([prompt], model)
    task, answer = prepare_task(model, [row], options, 1), Generation()
    drafts: list[DraftedCall] = []
    text = StopStringBuffer(tokenizer, options.strings, row)
    if assistant_model is None and options.prompt_lookup_num_tokens is None:
        steps = decode(task, [text])
    else:
        steps = speculate(task, text, RecordedDrafts(make_draft(task, assistant_model), drafts), answer)

    names = point_names(model)
    states = ["embed_tokens", *(f"layers.{i}" for i in range(len(model.layers)))]
    vectors = existing([operation.point_in("*") for operation in OPERATIONS if operation.point], names)
    kept = {i: f"layers.{i}.self_attn.probabilities" for i in layers}
    kept = {i: name for i, name in kept.items() if name in names}
    queries = next((name.removesuffix(".q_rot") for name in names if name.endswith(".q_rot")), None)
    whole = [*states, "lm_head", *([f"{queries}.q_rot", f"{queries}.keys"] if queries else [])]
    with trace(model, [*whole, *kept.values()]) as full, trace(model, vectors, reduce=add_samples) as samples:
        for (token,) in steps:
            assert token is not None  # the only row runs until the last step
            answer.add(token)

    ids = [*row, *answer.ids]
    lengths = [x.shape[1] for x in full.calls("embed_tokens")]
    positions = attended_positions(full, queries) if queries else []
    if len(positions) != sum(lengths):
        if drafts:
            raise ValueError(
                "the trace points of this model's attention do not show which draft tokens were rejected; "
                "leave speculation out"
            )
        positions = list(range(sum(lengths)))
    last = {position: index for index, position in enumerate(positions)}  # earlier ones were rejected draft tokens
    rows = [last[position] for position in range(len(ids) - 1)]
    sampled = [name for name in vectors if name in samples and len(samples[name]) == len(positions)]
    squares = {
        layer: square_weights(full.calls(name), len(ids) - 1, heads) for layer, name in kept.items() if name in full
    }
    return Run(
        task=task,
        ids=ids,
        answer=answer,
        calls=[Call(T, positions[end - 1] + 1) for T, end in zip(lengths, itertools.accumulate(lengths), strict=True)],
        logits=logits_of_answer(full.calls("lm_head"), lengths, positions, range(len(row) - 1, len(ids) - 1)),
        hidden=[torch.cat([x[0] for x in full.calls(name)])[rows] for name in states],
        weights={layer: square for layer, square in squares.items() if square is not None},
        samples={name: samples[name][rows, :VALUES] for name in sampled},
        norms={name: samples[name][rows, -1] for name in sampled},
        drafts=drafts,
    )


def check_options(options: Options) -> None:
    """Raise ValueError for an option that the page cannot show."""
    if options.beams > 1 or options.copies > 1:
        raise ValueError("the page shows one answer that grows at its end; leave out beams and several answers")
    if options.guidance_scale not in (None, 1):
        raise ValueError("guidance_scale runs the model twice for each token, and the page shows one run; leave it out")
    if options.past_context == "shift":
        raise ValueError("past_context='shift' moves tokens to new positions, which the page cannot show; leave it out")


def existing(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The points of a model that match one of the patterns. A changed model may lack some."""
    return list(dict.fromkeys(name for pattern in patterns for name in matching_points(pattern, names)))


def add_samples(total: Tensor | None, x: Tensor) -> Tensor:
    """For every token of a call, the first values and the L2 norm: (B, T, …) or (B, heads, T, …) -> (T, VALUES + 1).

    Of several heads, the values are those of the first. A shorter vector is filled with NaN.
    """
    x = x[0].float() if x.dim() < 4 else x[0].transpose(0, 1).float()  # (T, …)
    first = x if x.dim() == 2 else x[:, 0]
    first = F.pad(first[:, :VALUES], (0, max(0, VALUES - first.shape[1])), value=float("nan"))
    new = torch.cat((first, x.flatten(1).norm(dim=1, keepdim=True)), dim=1).cpu()
    return new if total is None else torch.cat((total, new))


def attended_positions(full: Activations, attention: str) -> list[int]:
    """The position of every processed token, in order; that of a rejected draft token comes again."""
    calls = zip(full.calls(f"{attention}.q_rot"), full.calls(f"{attention}.keys"), strict=True)
    return [position for q, keys in calls for position in range(keys.shape[2] - q.shape[2], keys.shape[2])]


def logits_of_answer(
    calls: Sequence[Tensor], lengths: Sequence[int], positions: Sequence[int], wanted: Sequence[int]
) -> list[Tensor]:
    """The logits at the positions before each token of the answer: calls (1, 1 or T, V) -> (V,) in float32."""
    at: dict[int, Tensor] = {}
    end = 0
    for logits, length in zip(calls, lengths, strict=True):
        end += length
        at |= dict(zip(positions[end - logits.shape[1] : end], logits[0], strict=True))
    return [at[position].float() for position in wanted]


def square_weights(calls: Sequence[Tensor], N: int, heads: Sequence[int]) -> Tensor | None:
    """The weights of all calls (1, H, T, S) in one matrix: (heads, N, N). None where they do not fit the text.

    A rejected draft token's row is replaced by that of the token that came in its place.
    """
    square = torch.zeros(len(heads), N, N)
    for weights in calls:
        T, S = weights.shape[2:]
        rows, columns = min(T, N - (S - T)), min(S, N)
        if S < T or weights.shape[1] <= max(heads):
            return None
        square[:, S - T : S - T + rows, :columns] = weights[0, heads, :rows, :columns].float().cpu()
    return square
