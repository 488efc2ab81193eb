"""One decoding task: prompts and options, checked and put together before anything is computed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cache import Cache
from ..model import Llama
from .checks import check_ids, check_range
from .filter_chain import make_filters
from .filters import Filter
from .guidance import Guidance
from .options import Options
from .runner import ModelRunner, pad_left
from .sampling import Generators
from .stopping import LoopDetector, Stopping

DEFAULT_MAX_NEW_TOKENS = 256  # ELYZA's model card; used when neither the caller nor the checkpoint sets a length


@dataclass
class DecodingTask:
    """Everything that a decoding loop needs. One row for each answer or beam."""

    options: Options
    ids: Tensor  # (B, prompt_length + new tokens); -1 is left padding, and room for new tokens
    prompt_length: int  # with padding
    runner: ModelRunner
    filters: list[Filter]
    generators: Generators
    stopping: Stopping
    pad_id: int  # in the ids of finished rows

    def filter(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Apply all filters in order: ids (B, N), logits (B, V) -> (B, V)."""
        for each in self.filters:
            logits = each(ids, logits)
        return logits


def prepare_task(
    model: Llama, prompts: Sequence[Sequence[int]], options: Options, copies: int, cache: Cache | None = None
) -> DecodingTask:
    """Check prompts and options and allocate the batch, with `copies` rows for every prompt.

    Raises ValueError for an empty prompt, an id outside the vocabulary, or a text that does not fit the context.
    """
    new_tokens = resolve_max_new_tokens(model, prompts, options)
    rows = [prompt for prompt in prompts for _ in range(copies)]
    device = model.embed_tokens.weight.device
    ids, mask = pad_left(rows, new_tokens, device)  # (B, N + new_tokens)
    N, L = ids.shape[1] - new_tokens, ids.shape[1]
    pad_id = options.pad_token_id
    if pad_id is None:
        pad_id = options.eos[0] if options.eos else 0
    options = replace(options, pad_token_id=pad_id)
    shift = options.past_context == "shift"
    if shift and options.sink_tokens > (context := model.config.context_length) - 2:
        raise ValueError(f"sink_tokens is {options.sink_tokens}, but the context holds {context}")
    filters = make_filters(options, prompt_length=N, max_length=L)
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
            context=model.config.context_length if shift else None,
            sinks=options.sink_tokens,
            exact=options.exact,
            finite=not options.remove_invalid_values,
        ),
        filters=filters,
        generators=make_generators(options.seed, len(prompts) if options.beams > 1 else len(rows), device),
        stopping=Stopping(
            eos=options.eos,
            max_time=options.max_time,
            criteria=options.stopping_criteria,
            loop=LoopDetector() if options.stop_on_loop else None,
            last=L,
            pad_id=pad_id,
        ),
        pad_id=pad_id,
    )


def as_prompts(given: Sequence[Sequence[int] | Tensor] | Tensor, model: Llama) -> list[list[int]]:
    """Prompts as lists of ids. Accepts lists, tensors and arrays; raises ValueError for anything else."""
    V = model.config.vocab_size
    prompts = []
    for number, prompt in enumerate(given):
        values = prompt.tolist() if hasattr(prompt, "tolist") else prompt
        if isinstance(values, int | float | str):
            raise ValueError(f"prompts are lists of ids, one for each row, but prompt {number} is {values!r}")
        ids = list(values)
        if not ids:
            raise ValueError(f"prompt {number} is empty; begin it with the BOS id {model.config.bos_token_id} at least")
        check_ids(f"prompt {number}", ids)
        if max(ids) >= V:
            raise ValueError(
                f"prompt {number} has the id {max(ids)}, but the model's vocabulary has ids 0 to {V - 1}; "
                "use the tokenizer that belongs to this model"
            )
        prompts.append(ids)
    if not prompts:
        raise ValueError("there are no prompts")
    return prompts


def resolve_max_new_tokens(model: Llama, prompts: Sequence[Sequence[int]], options: Options) -> int:
    """The number of new tokens. Raises ValueError for prompts and answers that do not fit the context."""
    longest, context = max(map(len, prompts)), model.config.context_length
    if options.past_context == "shift":
        context = sys.maxsize  # only the newest tokens have to fit
    if longest >= context:
        raise ValueError(
            f"the prompt has {longest} tokens, but the context holds {context}, and the answer needs space as well"
        )
    new_tokens = options.max_new_tokens
    if new_tokens is None:
        limit = context if options.max_length is None else min(context, options.max_length)
        new_tokens = min(limit - longest, DEFAULT_MAX_NEW_TOKENS if options.max_length is None else context)
        if new_tokens < 1:
            raise ValueError(
                f"the prompt has {longest} tokens, but max_length is {options.max_length}; set max_new_tokens"
            )
    if not isinstance(new_tokens, int) or isinstance(new_tokens, bool) or new_tokens < 1:
        raise ValueError(f"max_new_tokens has to be a whole number of at least 1, not {new_tokens!r}")
    if longest + new_tokens > context:
        raise ValueError(
            f"the prompt has {longest} tokens and max_new_tokens is {new_tokens}, but the context holds {context}; "
            f"ask for at most {context - longest}"
        )
    return new_tokens


def make_generators(seed: int | Sequence[int] | None, rows: int, device: torch.device) -> Generators:
    """Random generators: None uses torch's global one, an int makes one for the batch, a list one for each row."""
    if seed is None:
        return None
    seeds = [seed] if isinstance(seed, int) else list(seed)
    for each in seeds:
        check_range("seed", each, least=-(2**63), most=2**64 - 1, whole=True)
    if isinstance(seed, int):
        return torch.Generator(device).manual_seed(seed)
    if len(seeds) != rows:
        raise ValueError(f"{len(seeds)} seeds for {rows} rows; give one for each row, or a single number for all")
    return [torch.Generator(device).manual_seed(each) for each in seeds]
