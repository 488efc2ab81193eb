"""A model of this project, plain or changed, as a transformers model: Trainer, TRL, PEFT, HF `generate`, lm-eval.

    from llama_jp.bridge import LlamaJpForCausalLM

    model = LlamaJpForCausalLM(llama_jp.Llama.from_pretrained("demo", attention=my_attention))
    model = LlamaJpForCausalLM.from_pretrained("folder")    # the sources of llama_jp.load
    model = AutoModelForCausalLM.from_pretrained("folder")  # a folder with model_type llama_jp

`model.llama` is the `Llama`. It computes, and this module translates: attention masks and position ids to document
numbers, a transformers cache to ours, labels to a loss. The losses, gradients and tokens of a plain model are those of
LlamaForCausalLM.

Needs transformers: pip install 'llama-jp[bridge]'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .cache import Cache, LayerCache
from .checkpoint.config import config_to_json
from .checkpoint.description import measured_config, model_state
from .checkpoint.parts import CHANGED
from .model import Llama, attend_eager, positions_and_mask

try:
    import transformers
    from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
except ImportError as error:
    raise ImportError("the bridge needs transformers: pip install 'llama-jp[bridge]'") from error

# The cache's name in an output, which `generate` looks for: transformers 5.24 renamed it.
CACHE = "cache" if hasattr(BaseModelOutputWithPast, "cache") else "past_key_values"
LOADER_ARGUMENTS = ("attention", "rope", "norm", "missing", "revision", "device")
INTERNAL_ARGUMENTS = ("config", "adapter_kwargs", "device_map")  # transformers' Auto classes pass them


class LlamaJpConfig(transformers.LlamaConfig):
    """config.json of a model of this project. A changed model names its parts as "module:name"."""

    model_type = CHANGED
    parts: dict[str, str] | None = None


class LlamaJpModel(nn.Module):
    """The model without its head, as transformers' tools call it: all modules and parameters of a `Llama` but lm_head.

    The modules are those of the `Llama` itself, which computes.
    """

    def __init__(self, llama: Llama, config: LlamaJpConfig):
        super().__init__()
        self.config = config
        self._parameters, self._buffers = llama._parameters, llama._buffers
        self._modules = {name: module for name, module in llama._modules.items() if name != "lm_head"}
        self.__dict__["_llama"] = llama  # not a submodule: its names would be those of a second model
        self.checkpoint: Callable[..., Any] | None = None  # torch.utils.checkpoint, with its options
        self.checkpoint_every = 1  # layers

    @property
    def llama(self) -> Llama:
        """The `Llama`, with modules as they are now: PEFT and new vocabularies replace some."""
        llama: Llama = self.__dict__["_llama"]
        llama._modules.update(self._modules)
        llama.training = self.training
        return llama

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: transformers.Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_logits: bool = False,
        cache: transformers.Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Compute hidden states after the last norm, (B, T, C), or logits with `return_logits`, as the output.

        The arguments are those of LlamaModel.forward: input_ids (B, T) int64, attention_mask (B, S). Position ids that
        start again within a row, without an attention mask and a cache, pack documents. Others have no effect.
        `cache` is the name of `past_key_values` from transformers 5.24 on; both are taken with every version.

        Raises ValueError for arguments that the model cannot follow: embeddings as inputs, 4-D masks, other positions,
        static caches, and outputs that `llama_jp.trace` records.
        """
        if output_attentions or output_hidden_states:
            name = "output_attentions" if output_attentions else "output_hidden_states"
            raise ValueError(f"{name} is not supported; record activations with llama_jp.trace")
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("the model takes input_ids and not inputs_embeds")
        checkpointing = self.training and self.checkpoint is not None
        use_cache = (self.config.use_cache if use_cache is None else use_cache) and not checkpointing
        past = only_cache(past_key_values, cache)
        length = 0 if past is None else past.get_seq_length()
        mask = document_mask(attention_mask, position_ids, length + input_ids.shape[1], length)
        if use_cache and past is None:
            past = transformers.DynamicCache(config=self.config)
        read = TransformersCache(past if use_cache else None, length)

        llama = self.llama
        with self.checkpointed_layers(checkpointing):
            if return_logits:
                output = llama(input_ids, read, mask=mask)
            elif type(llama).forward is Llama.forward:
                output = llama.hidden(input_ids, read, mask=mask)
            else:
                raise ValueError(
                    f"{type(llama).__name__} computes its logits in a forward of its own, and this tool wants the "
                    "hidden states alone; override `hidden` in their place"
                )
        kept: dict[str, Any] = {CACHE: past if use_cache else None}
        return BaseModelOutputWithPast(output, **kept)

    @contextmanager
    def checkpointed_layers(self, checkpointing: bool) -> Iterator[None]:
        """Inside, layers compute their activations again in the backward pass instead of keeping them."""
        with ExitStack() as undo:
            if checkpointing and self.checkpoint is not None:
                for layer in list(self.llama.layers)[:: self.checkpoint_every]:
                    vars(layer)["forward"] = partial(self.checkpoint, layer.forward)
                    undo.callback(vars(layer).pop, "forward")
            yield


class LlamaJpForCausalLM(transformers.PreTrainedModel, transformers.GenerationMixin):
    """A transformers model that computes with a `Llama`. The names of its weights are those of LlamaForCausalLM.

    Positions follow from the attention mask, as in HF `generate`, also where LlamaForCausalLM counts padding.
    """

    config_class = LlamaJpConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["Block"]
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, model: Llama):
        if not isinstance(model, Llama):
            raise TypeError(
                f"LlamaJpForCausalLM wraps a llama_jp.Llama, not a {type(model).__name__}; "
                "load a checkpoint with LlamaJpForCausalLM.from_pretrained"
            )
        measured = measured_config(model, model_state(model))
        config = LlamaJpConfig(**config_to_json(measured, model.embed_tokens.weight.dtype) | {"model_type": CHANGED})
        config.name_or_path = str(model.folder or "")
        config._attn_implementation = "eager" if has_eager_attention(model) else "sdpa"
        super().__init__(config)
        self.model = LlamaJpModel(model, config)
        self.lm_head = model.lm_head
        self.generation_config = transformers.GenerationConfig(**model.generation_config)
        self.post_init()
        self.train(model.training)

    @property
    def llama(self) -> Llama:
        """The `Llama` that computes, with modules as they are now."""
        llama = self.model.llama
        llama.lm_head = self.lm_head
        return llama

    def init_weights(self) -> None:
        """Nothing: the weights are those of the model."""

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the sources and arguments are those of llama_jp.load
        cls,
        source: str | Path,
        *,
        dtype: str | torch.dtype = "stored",
        attn_implementation: str = "sdpa",
        trust_remote_code: bool = False,
        **kwargs: Any,
    ) -> LlamaJpForCausalLM:
        """Load a checkpoint with `Llama.from_pretrained`, under the names of transformers' arguments.

        dtype                a torch.dtype or its name; "stored" and, as in transformers, "auto": as in the files
        attn_implementation  "sdpa" or "eager"
        trust_remote_code    import the parts that a changed model names
        kwargs               revision, device, attention, rope, norm, missing: as in `Llama.from_pretrained`

        Raises ValueError for any other argument, and the errors of `Llama.from_pretrained`.
        """
        dtype = kwargs.pop("torch_dtype", None) or dtype
        known = {name: kwargs.pop(name) for name in LOADER_ARGUMENTS if name in kwargs}
        if unknown := [name for name in kwargs if name not in INTERNAL_ARGUMENTS and not name.startswith("_")]:
            raise ValueError(f"LlamaJpForCausalLM.from_pretrained does not take {', '.join(unknown)}")
        model = Llama.from_pretrained(
            source,
            "stored" if dtype == "auto" else dtype,
            trust_parts=trust_remote_code,
            **{"device": "cpu", "attention": attn_implementation} | known,
        )
        return cls(model)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Write the checkpoint of the `Llama`: see `Llama.save_pretrained`. transformers' arguments have no effect.

        A plain model becomes an ordinary Llama checkpoint, and a changed one keeps the names of its parts.
        """
        llama = self.llama
        llama.generation_config = self.generation_config.to_diff_dict()
        llama.save_pretrained(save_directory)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: transformers.Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: transformers.Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits, and the loss where there are labels, with the arguments of LlamaForCausalLM.forward.

        Shapes: input_ids, labels (B, T) int64, attention_mask (B, S) -> logits (B, T, V). Errors: see LlamaJpModel.
        """
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        has_own_forward = type(self.llama).forward is not Llama.forward
        result = self.model(
            input_ids,
            attention_mask,
            position_ids,
            only_cache(past_key_values, cache),
            inputs_embeds,
            use_cache,
            return_logits=has_own_forward,
            **kwargs,
        )
        output = result.last_hidden_state[:, kept]
        logits = output if has_own_forward else self.lm_head(output)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: getattr(result, CACHE)})

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] | None = None,
        every_n_layers: int = 1,
    ) -> None:
        """What `gradient_checkpointing_enable` calls, with torch.utils.checkpoint and its options."""
        self.model.checkpoint = gradient_checkpointing_func if enable else None
        self.model.checkpoint_every = every_n_layers

    @property
    def is_gradient_checkpointing(self) -> bool:
        return self.model.checkpoint is not None


class TransformersCache(Cache):
    """A transformers cache where the model expects ours. Without one, keys and values are only passed on.

    past    a cache that grows with each call, or None
    length  the number of tokens in it

    Raises ValueError for a cache of fixed size, whose unused positions the model would attend to.
    """

    def __init__(self, past: transformers.Cache | None, length: int):
        if getattr(past, "is_compileable", False):
            raise ValueError(
                f"the bridge takes caches that grow, and not a {type(past).__name__}; leave out cache_implementation, "
                "or decode with llama_jp.generate and llama_jp.speed.static_steps.StaticLlama"
            )
        self.past, self.length = past, length

    def reserve(self, batch_size: int, tokens: int) -> None:
        """Nothing: the cache grows."""

    def layer(self, index: int) -> LayerCache:
        return TransformersLayerCache(self.past, index)  # type: ignore[return-value]  # it has the method that is used


class TransformersLayerCache:
    """The part of a `TransformersCache` that one layer uses."""

    def __init__(self, past: transformers.Cache | None, index: int):
        self.past, self.index = past, index

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store T new keys and values; return all: (B, K, T, D) -> (B, K, S, D)."""
        return (k, v) if self.past is None else self.past.update(k, v, self.index)


def only_cache(past: transformers.Cache | None, cache: transformers.Cache | None) -> transformers.Cache | None:
    """The cache of a call, given by its old name or its new one. ValueError for both."""
    if past is not None and cache is not None:
        raise ValueError("cache and past_key_values are two names of one argument; give one of them")
    return past if cache is None else cache


def has_eager_attention(model: Llama) -> bool:
    """Whether a model has transformers' eager attention. transformers takes any other function for "sdpa"."""
    return any(getattr(module, "attend", None) is attend_eager for module in model.modules())


def document_mask(attention_mask: Tensor | None, position_ids: Tensor | None, S: int, length: int) -> Tensor | None:
    """The mask of `Llama.forward` for transformers' arguments: (B, S), or None for whole rows.

    attention_mask  (B, S) or None
    position_ids    (B or 1, T) or None. Without an attention mask and a cache, a document begins wherever they do not
                    go on by one, as in transformers' `masking_utils.find_packed_sequence_indices`
    length          the number of cached tokens

    Raises ValueError for another form of mask, and for positions that do not count the tokens of a document.
    """
    if attention_mask is not None and attention_mask.dim() != 2:
        raise ValueError(
            f"attention_mask is (batch, tokens), not {tuple(attention_mask.shape)}; a static cache needs such a mask, "
            "so leave out cache_implementation"
        )
    if position_ids is None:
        return attention_mask
    mask = attention_mask
    if mask is None and length == 0:
        steps = torch.diff(position_ids, prepend=position_ids[:, :1] - 1)
        documents = 1 + (steps != 1).cumsum(-1)  # (B, T)
        mask = documents if bool((documents > 1).any()) else None
    expected, _ = positions_and_mask(mask, S - length, S, position_ids.device)
    tokens = True if mask is None else mask[:, length:].bool()
    if bool(((position_ids != expected) & tokens).any()):
        raise ValueError(
            f"position_ids have to count the tokens of each document from 0, as in {expected[0, :4].tolist()} …, and "
            f"they are {position_ids[0, :4].tolist()} …; leave them out, or pack rows without an attention_mask"
        )
    return mask


transformers.AutoConfig.register(CHANGED, LlamaJpConfig)
transformers.AutoModelForCausalLM.register(LlamaJpConfig, LlamaJpForCausalLM)
