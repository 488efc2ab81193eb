"""One decoding task: prompts and options, checked and put together."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache import Cache
from ..model import Llama
from ..rope import context_length
from .checks import check_range
from .filter_chain import filters_of
from .filters import Filter
from .guidance import Guidance
from .options import Options
from .runner import ModelRunner, pad_left
from .stopping import LoopDetector, Stopping

DEFAULT_MAX_NEW_TOKENS = 256  # what ELYZA's model card asks for; used when neither the caller nor the checkpoint says


@dataclass
class DecodingTask:
    """Everything that a way of decoding needs, checked and put together. One row for each answer or beam."""

    options: Options
    ids: Tensor  # (B, prompt_length + new tokens); padding on the left is -1
    prompt_length: int  # padding included
    runner: ModelRunner
    filters: list[Filter]
    generators: torch.Generator | list[torch.Generator] | None
    stopping: Stopping

    def filter(self, ids: Tensor, logits: Tensor) -> Tensor:
        for filter in self.filters:
            logits = filter(ids, logits)
        return logits


def prepare_task(
    model: Llama, prompts: Sequence[Sequence[int]], options: Options, copies: int, cache: Cache | None = None
) -> DecodingTask:
    """Check prompts and options, before anything is computed. Every prompt gets `copies` rows."""
    new_tokens = resolve_max_new_tokens(model, prompts, options)
    rows = [prompt for prompt in prompts for _ in range(copies)]
    device = model.embed_tokens.weight.device
    ids, mask = pad_left(rows, new_tokens, device)  # (B, N + new_tokens)
    N = ids.shape[1] - new_tokens
    if options.pad_token_id is None:
        options.pad_token_id = options.eos[0] if options.eos else 0
    shift = options.past_context == "shift"
    if shift and options.sink_tokens > (context := context_length(model.config)) - 2:
        raise ValueError(f"sink_tokens is {options.sink_tokens}, but the context holds {context}")
    filters = filters_of(options, N, ids.shape[1])
    if options.guidance_scale not in (None, 1):
        filters.insert(0, Guidance(model, options.guidance_scale, options.negative_prompt_ids, new_tokens))
    return DecodingTask(
        options=options,
        ids=ids,
        prompt_length=N,
        runner=ModelRunner(
            model,
            mask,
            cache,
            copies=copies,
            chunk=options.prefill_chunk_size,
            context=context_length(model.config) if shift else None,
            sinks=options.sink_tokens,
            exact=options.exact,
        ),
        filters=filters,
        generators=make_generators(options.seed, len(prompts) if options.beams > 1 else len(rows), device),
        stopping=Stopping(
            eos=options.eos,
            max_time=options.max_time,
            criteria=options.stopping_criteria,
            loop=LoopDetector() if options.stop_on_loop else None,
            last=ids.shape[1],
            pad_id=options.pad_token_id,
        ),
    )


def resolve_max_new_tokens(model: Llama, prompts: Sequence[Sequence[int]], options: Options) -> int:
    """How many new tokens there will be; ValueError when the prompts are not prompts or do not fit."""
    V = model.config.vocab_size
    if not prompts:
        raise ValueError("there are no prompts")
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, int | str):
            raise ValueError(f"prompts are lists of ids, one per row, but the first entry is {prompt!r}")
        if not len(prompt):
            raise ValueError(f"prompt {number} is empty; begin it with the BOS id {model.config.bos_token_id} at least")
        if not 0 <= min(prompt) <= max(prompt) < V:
            raise ValueError(f"prompt {number} has an id outside the vocabulary of {V}: {min(prompt)} … {max(prompt)}")

    longest, context = max(map(len, prompts)), context_length(model.config)
    if options.past_context == "shift":
        context = sys.maxsize  # only the newest tokens have to fit
    if longest >= context:
        raise ValueError(
            f"the prompt has {longest} tokens, but the context holds {context}, and the answer needs room as well"
        )
    asked = options.max_new_tokens
    if asked is None:
        limit = context if options.max_length is None else min(context, options.max_length)
        asked = min(limit - longest, DEFAULT_MAX_NEW_TOKENS if options.max_length is None else context)
        if asked < 1:
            raise ValueError(
                f"the prompt has {longest} tokens, but max_length is {options.max_length}; set max_new_tokens"
            )
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise ValueError(f"max_new_tokens has to be a whole number of at least 1, not {asked!r}")
    if longest + asked > context:
        raise ValueError(
            f"the prompt has {longest} tokens and max_new_tokens is {asked}, but the context holds {context}; "
            f"ask for at most {context - longest}"
        )
    return asked


def make_generators(
    seed: int | Sequence[int] | None, rows: int, device: torch.device
) -> torch.Generator | list[torch.Generator] | None:
    """None draws from torch's global generator, an int makes one for the batch, a list one for each row."""
    if seed is None:
        return None
    for one in [seed] if isinstance(seed, int) else seed:
        check_range("seed", one, least=-(2**63), most=2**64 - 1, whole=True)
    if isinstance(seed, int):
        return torch.Generator(device).manual_seed(seed)
    if len(seed) != rows:
        raise ValueError(f"{len(seed)} seeds for {rows} prompts; give one for each, or a single number for all")
    return [torch.Generator(device).manual_seed(one) for one in seed]
