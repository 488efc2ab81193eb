"""Build a model without memory for its weights, as a loader needs it."""

from __future__ import annotations

from collections.abc import Callable, Collection, MutableMapping
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from ..linear.layer import make_quantized
from ..linear.scheme import Scheme
from ..model import Llama, LlamaConfig
from .parts import Parts, one_sentence


def build_without_weights(
    config: LlamaConfig, scheme: Scheme | None, parts: Parts, initialised: Collection[str] = ()
) -> Llama:
    """Build a model whose parameters and quantised weights are on the meta device.

    Everything else that the constructor makes is real: buffers and plain tensors, such as ALiBi's slopes.

    initialised  names of parameters that are real as well, with the values that the constructor gives them

    Raises ValueError when the constructor of a subclass fails.
    """
    model, created = construct(config, parts)
    if initialised:
        wanted = {id(model.get_parameter(name)) for name in initialised}
        model, _ = construct(config, parts, [number for number, one in enumerate(created) if id(one) in wanted])
    if scheme:
        with torch.device("meta"):
            make_quantized(model, scheme)
    return model


def construct(config: LlamaConfig, parts: Parts, real: Collection[int] = ()) -> tuple[Llama, list[nn.Parameter]]:
    """Call the constructor. Returns the model and its parameters in the order in which they were created.

    real  the numbers of the parameters that keep their values
    """
    model_class = parts.model_class
    with ParametersOnMeta(real) as mode:
        if model_class.__init__ is Llama.__init__:
            return model_class(config, **parts.functions()), mode.created
        call = f"{model_class.__qualname__}(config, attention=…, rope=…, norm=…)"
        with one_sentence(f"{call} fails, and a checkpoint is built by this call"):
            return model_class(config, **parts.functions()), mode.created


class ParametersOnMeta(TorchFunctionMode):
    """A context in which modules keep their parameters on the meta device and do not initialise them.

    A parameter moves there when a module registers it, so its memory is freed before it is ever written to.
    `torch.nn.init` on the meta device would have no effect, and it imports a compiler (1 s).
    """

    def __init__(self, real: Collection[int] = ()):
        super().__init__()
        self.real = frozenset(real)
        self.created: list[nn.Parameter] = []
        self.known: MutableMapping[Tensor, nn.Parameter] = WeakIdKeyDictionary()  # by the one that was registered

    def __enter__(self) -> ParametersOnMeta:
        self.hook = register_module_parameter_registration_hook(self.register)  # type: ignore[arg-type]  # it may return
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hook.remove()
        super().__exit__(kind, error, trace)

    def register(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> nn.Parameter | None:
        """Replace a new parameter by one on the meta device. A shared parameter is replaced by one that is shared."""
        if parameter is None or parameter in self.known:
            return None if parameter is None else self.known[parameter]
        kept = parameter
        if len(self.created) not in self.real:
            kept = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        self.created.append(kept)
        self.known[parameter] = self.known[kept] = kept
        return kept

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        return function(*args, **kwargs)
