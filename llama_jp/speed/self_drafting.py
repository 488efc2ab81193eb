"""Self-speculation: a quantised copy of a model drafts for it, on the model's own KV cache.

The copy reads half (int8) or a quarter (int4) of the bytes in each step and mostly chooses the same tokens. The model
checks several of them in one call, so the answer is its own. See `generation/speculation.py` for the check.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from ..checkpoint.build import build_without_weights
from ..checkpoint.config import read_scheme
from ..checkpoint.hub import find_checkpoint
from ..checkpoint.load import load_model
from ..checkpoint.parts import Parts
from ..environment import available_memory
from ..generation.speculation import SelfDraft
from ..linear.fused import FusedSlice
from ..linear.kernels import Int4WeightKernel, Int8FBGEMMKernel, LinearKernel, why_unavailable
from ..linear.layer import QuantizedLinear
from ..linear.scheme import Scheme
from ..model import Llama, RMSNorm, SelfAttention
from ..quantization.rounding import round_weight
from .kernel_selection import Selection
from .optimization import GroupKey, Plan, Replacements, WrongProductError, choose_and_replace

GROUP_SIZES = (64, 32, 128)  # of int4, the first that divides the inputs of every layer: small groups agree more often


def self_draft(model: Llama, bits: int = 8, folder: str | Path | None = None) -> SelfDraft:
    """A quantised copy of a model, for `generate(…, assistant_model=self_draft(model))`. The model stays as it is.

    bits    of the copy's weights: 8 agrees more often and is the faster draft; 4 (in bfloat16) needs half the memory
    folder  a checkpoint that `quantize` wrote of the same model, to load the weights from; default: round to nearest

    Make it before `optimize`, which packs the model's weights: unpacking them takes longer. `draft_memory` is what the
    copy takes; embedding and norms are shared.

    Raises ValueError for a quantised or changed model, one with biases, one on another device than the CPU, a folder of
    another model, and where memory is too small. The message has both numbers.
    """
    if bits not in (8, 4):
        raise ValueError(f"the bits of a self-draft are 8 or 4, not {bits!r}")
    check_drafted(model)
    scheme = draft_scheme(model, bits) if folder is None else stored_scheme(folder)
    check_dtype(model, scheme)
    nbytes = size_of_copy(model, scheme)
    free = available_memory(torch.device("cpu"))
    if free is not None and nbytes > free:
        raise ValueError(
            f"the self-draft ({scheme}) needs {nbytes / 1e9:.2f} GB of memory beside the model, and "
            f"{free / 1e9:.2f} GB are free; {'use 4 bits, or ' if scheme.bits == 8 else ''}generate without it"
        )
    with torch.no_grad():
        draft = round_copy(model, scheme) if folder is None else load_copy(model, folder)
        share_functions(draft, model)
        draft.eval().requires_grad_(False)
        pack(draft)
    return SelfDraft(draft, model, nbytes)


def draft_memory(model: Llama, bits: int = 8, folder: str | Path | None = None) -> int:
    """The bytes that `self_draft` with these arguments takes beside the model. Raises its ValueError for int4."""
    scheme = draft_scheme(model, bits) if folder is None else stored_scheme(folder)
    check_dtype(model, scheme)
    return size_of_copy(model, scheme)


def blank_copy(model: Llama, scheme: Scheme | None) -> Llama:
    """A model of the same sizes without weights. Its head is a matrix of its own, also where the model's is tied."""
    return build_without_weights(replace(model.config, tie_word_embeddings=False), scheme, Parts(Llama))


def size_of_copy(model: Llama, scheme: Scheme) -> int:
    return sum(buffer.nbytes for buffer in blank_copy(model, scheme).buffers())


def stored_scheme(folder: str | Path) -> Scheme:
    """The format of a quantised checkpoint. Raises ValueError for a checkpoint that is not quantised."""
    scheme = read_scheme(find_checkpoint(folder))
    if scheme is None:
        raise ValueError(f"{folder} is not quantised; name a folder that `llama-jp quantize` wrote of the same model")
    return scheme


def draft_scheme(model: Llama, bits: int) -> Scheme:
    """The format of the copy's weights. The head has eight bits, since its errors go directly into the logits.

    Raises ValueError if no group size divides the inputs of every layer.
    """
    if bits == 8:
        return Scheme(8)
    c = model.config
    inputs = {c.hidden_size, c.intermediate_size, c.num_attention_heads * c.head_dim}
    for size in GROUP_SIZES:
        if all(each % size == 0 for each in inputs):
            return Scheme(4, size)
    raise ValueError(
        f"no group size of int4 divides the inputs of every layer ({', '.join(map(str, sorted(inputs)))}); use 8 bits"
    )


def check_drafted(model: Llama) -> None:
    """Raise ValueError for a model of which no quantised copy can be made, or none that is faster."""
    device, scheme = model.embed_tokens.weight.device, getattr(model, "quantization", None)
    if scheme is not None:
        raise ValueError(f"the model is quantised already ({scheme}), so a quantised copy would not be a faster draft")
    if device.type != "cpu":
        raise ValueError(f"a self-draft works on the CPU, but the model is on {device}")
    expected = {name: type(module) for name, module in blank_copy(model, None).named_modules()}
    modules = dict(model.named_modules(remove_duplicate=False))
    changed = set(expected.keys() - modules.keys())
    for name, module in modules.items():
        if isinstance(module, FusedSlice) and expected.get(name) is nn.Linear:
            continue  # of an optimised model; it has the weight of the layer that it replaces
        if type(module) is not expected.get(name) or "forward" in vars(module):
            changed.add(name)
        elif getattr(module, "bias", None) is not None:
            raise ValueError(f"{name} has a bias, and a quantised layer with a bias is slower than the model's own")
    if changed:
        name = min(changed) or type(model).__name__
        raise ValueError(f"the model's forward is changed ({name}), so no quantised copy can be made of it")


def check_dtype(model: Llama, scheme: Scheme) -> None:
    """Raise ValueError for int4 weights where no kernel multiplies by them."""
    dtype = model.embed_tokens.weight.dtype
    if scheme.bits == 4 and dtype not in Int4WeightKernel.dtypes:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"an int4 self-draft needs a model in bfloat16, and this one is in {name}; use 8 bits")


def round_copy(model: Llama, scheme: Scheme) -> Llama:
    """A copy whose linear layers are rounded to nearest, and whose other weights are the model's own tensors."""
    draft = blank_copy(model, scheme)
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = {name: module for name, module in draft.named_modules() if isinstance(module, QuantizedLinear)}
    for name, layer in tqdm(layers.items(), desc="quantising the draft", disable=None, leave=False):
        layer.assign_weight(round_weight(scheme, name, modules[name].state_dict()["weight"]))
    share_tensors(draft, model)
    return draft


def load_copy(model: Llama, folder: str | Path) -> Llama:
    """The quantised checkpoint in a folder. Raises ValueError if it was not made of this model."""
    draft = load_model(folder, model.embed_tokens.weight.dtype, "cpu")
    parameters = dict(model.named_parameters())
    for name, parameter in draft.named_parameters():
        own = parameters.get(name)
        if own is None or not torch.equal(own, parameter):
            raise ValueError(f"{folder} is not made of this model: {name} differs; quantise the model itself")
    share_tensors(draft, model)
    return draft


def share_tensors(draft: Llama, model: Llama) -> None:
    """Put the model's own tensors in the place of the copy's embedding and norms."""
    modules = dict(model.named_modules())
    for name, module in draft.named_modules():
        if isinstance(module, nn.Embedding | RMSNorm):
            module.weight = nn.Parameter(modules[name].weight.detach(), requires_grad=False)
    if isinstance(draft.lm_head, nn.Linear):  # a loaded copy with a tied head
        draft.lm_head.weight = draft.embed_tokens.weight


def share_functions(draft: Llama, model: Llama) -> None:
    """Give the copy the model's rope, attention and norm, each layer its own."""
    draft.rope, draft.attention_takes_positions = model.rope, model.attention_takes_positions
    modules = dict(model.named_modules())
    for name, module in draft.named_modules():
        own = modules.get(name)
        if isinstance(module, SelfAttention) and isinstance(own, SelfAttention):
            module.attend = own.attend
        elif isinstance(module, RMSNorm) and isinstance(own, RMSNorm):
            module.norm, module.eps = own.norm, own.eps


class DraftPlan(Plan):
    """The usually fastest kernel for one row, without a measurement: a wrong choice costs speed, never a token."""

    kernels: dict[str, type[LinearKernel]] = {"int8": Int8FBGEMMKernel, "int4": Int4WeightKernel}

    def kept_choice(self, key: GroupKey) -> Selection:
        kernel = self.kernels.get(key.kind)
        if kernel not in self.candidates(key) or why_unavailable(kernel, key.kind, self.dtype) is not None:
            return Selection(None)
        return Selection(kernel)


def pack(draft: Llama) -> None:
    """Pack the weights of the copy for this processor, and fuse layers with the same input."""
    plan = DraftPlan(draft, "int8", rows=1)
    while True:
        replacements = Replacements(draft)
        try:
            choose_and_replace(replacements, plan)
            plan.save()  # the choice of the attention
            return
        except WrongProductError as wrong:
            replacements.undo()
            plan.exclude(wrong)
