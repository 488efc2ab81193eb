"""Change the shape of a model in place: the vocabulary and the number of layers.

    resize_vocabulary(model, 45043)   # new rows of the embedding and the head are the mean of the old ones
    drop_layers(model, [3, 4])        # depth pruning
    merge_layers(model, 3)            # layers 3 and 4 become one, with the mean of their weights

The configuration follows, so `save_pretrained` writes a checkpoint of the new shape. Parameters are replaced: make
optimizers and KV caches afterwards, since earlier ones belong to the old parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from .model import Llama


@torch.no_grad()
def resize_vocabulary(model: Llama, size: int) -> None:
    """Change the number of rows of the embedding and of the head, in place.

    size  V, the new number of ids. A smaller one removes the last rows

    Each new row is the mean of the old ones, computed in float32: the head gives a new token the mean of the logits, so
    the probabilities of the others hardly change. Tied matrices stay one. Only the model changes: add the tokens to the
    tokenizer files of `model.folder` as well, which `save_pretrained` copies.

    Raises ValueError for a special id that has no row in the new size, for a model that is quantised, optimised or
    sharded, and for one whose embedding or head is a module of another kind.
    See: "Initializing New Word Embeddings for Pretrained Language Models" (Hewitt, 2021); transformers'
    `resize_token_embeddings` adds to the mean a noise of 1e-9 times the covariance.
    """
    embedding, head, config = model.embed_tokens, model.lm_head, model.config
    if size < 1:
        raise ValueError(f"a vocabulary has at least 1 id, not {size}")
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear:
        found = f"{type(embedding).__name__} and {type(head).__name__}"
        raise ValueError(
            f"the embedding and the head are {found}, where Embedding and Linear are needed; "
            "resize before the model is quantised, optimised or given adapters"
        )
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for ids in (getattr(config, name), model.generation_config.get(name)):
            for id in ids if isinstance(ids, list) else [ids]:
                if id is not None and size <= id < config.vocab_size:
                    raise ValueError(f"{name} {id} has no row in a vocabulary of {size}; choose at least {id + 1}")

    tied = head.weight is embedding.weight
    rows = resized_rows(embedding.weight, size)
    head.weight = rows if tied else resized_rows(head.weight, size)
    embedding.weight, embedding.num_embeddings, head.out_features = rows, size, size
    embedding.padding_idx = config.pad_token_id if (config.pad_token_id or 0) < size else None  # as in `Llama`
    model.config = replace(config, vocab_size=size)


def resized_rows(weight: Tensor, size: int) -> nn.Parameter:
    """The first `size` rows of a matrix (V, C), with the mean of all rows for those that it lacks: (size, C)."""
    if is_sharded(weight):
        raise ValueError("the weights are sharded among processes; resize the vocabulary before")
    mean = weight.mean(0, dtype=torch.float32).to(weight.dtype)  # (C,)
    rows = torch.cat([weight[:size], mean.expand(max(0, size - len(weight)), -1)])
    return nn.Parameter(rows, weight.requires_grad)


def drop_layers(model: Llama, layers: Iterable[int]) -> None:
    """Remove layers, in place. The later ones move up.

    layers  indices from 0; negative ones count from the end

    Quantised models work as well. Raises ValueError for an index that is not there, and when no layer is left.
    See: "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv:2403.17887.
    """
    dropped = {layer_index(model, index) for index in layers}
    kept = [layer for i, layer in enumerate(model.layers) if i not in dropped]
    if not kept:
        raise ValueError(f"all {len(dropped)} layers would be removed; keep at least one")
    model.layers = nn.ModuleList(kept).train(model.training)
    model.config = replace(model.config, num_hidden_layers=len(kept))


@torch.no_grad()
def merge_layers(model: Llama, index: int) -> None:
    """Merge layer `index` and the next one, in place: each parameter becomes the mean of the two.

    Raises ValueError for the last layer, for an index that is not there, for layers whose weights have other names or
    shapes, and for a model that is quantised, optimised or sharded.
    """
    index = layer_index(model, index)
    if index + 1 == len(model.layers):
        raise ValueError(f"layer {index} is the last one, and a layer is merged with the next; name an earlier layer")
    states = [model.layers[i].state_dict(keep_vars=True) for i in (index, index + 1)]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    if shapes[0] != shapes[1]:
        raise ValueError(f"layers {index} and {index + 1} have weights of other names or shapes; merge equal layers")
    for name, tensor in states[0].items():
        if not isinstance(tensor, nn.Parameter) or is_sharded(tensor):
            raise ValueError(f"{name} is no plain parameter; merge before the model is quantised, optimised or sharded")
    for name, parameter in states[0].items():
        parameter.copy_((parameter + states[1][name]) / 2)
    drop_layers(model, [index + 1])


def layer_index(model: Llama, index: int) -> int:
    """An index of a layer as a number from 0. Raises ValueError for one that is not there."""
    count = len(model.layers)
    if not -count <= index < count:
        raise ValueError(f"there is no layer {index}; the model has layers 0 to {count - 1}")
    return index % count


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, as in a model under FSDP2."""
    return hasattr(tensor, "full_tensor")
