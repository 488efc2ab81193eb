"""Functions of a few tensors, compiled by torch's compiler once on a machine and kept in the user's cache folder.

To import torch's compiler takes seconds, and so does a function that it has compiled before. A later start loads the
kept program without it: machine code, and the few lines of Python around it that the compiler wrote. These are the
loops of `torch.compile`, so the bits are the same.

A program belongs to the source of its function, the dtypes and dimensions of the arguments, the number of threads, the
processor, and the versions of Python and torch. Whether its result is right on this machine, the tests of the kernels
decide that use it. torch's own form, AOTInductor, takes seven seconds of C++ for each function instead of one.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import functools
import hashlib
import importlib.util
import inspect
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..environment import BITS_DEPEND_ON, describe_environment, user_cache_folder
from ..text_files import parse_json, read_text_file, write_whole

Program = Callable[[list[Tensor]], Any]  # it empties the list of its arguments


@functools.cache
def compiled(function: Callable[..., Any]) -> Compiled:
    """The function as a compiled program, for tensors on the CPU. Gradients and outer graphs get the function itself.

    A tensor may have any sizes, so the function has to broadcast by `None` in an index, not by a size of 1. All other
    arguments are constants, such as a dtype. The function may only call functions of its own file and of torch.
    """
    return Compiled(function)


class Compiled:
    """A function, and its programs by the kinds of their arguments."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.programs: dict[tuple[Any, ...], Program] = {}

    def __call__(self, *arguments: Any) -> Any:
        if torch.compiler.is_compiling() or not all(fits(each) for each in arguments if isinstance(each, Tensor)):
            return self.function(*arguments)
        kinds = (torch.get_num_threads(), *map(kind_of, arguments))
        if (program := self.programs.get(kinds)) is None:
            program = self.programs[kinds] = load_or_make(self.function, arguments)
        return program(dense_tensors(arguments))


def fits(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.numel() > 0 and not (x.requires_grad and torch.is_grad_enabled())


def dense_tensors(arguments: tuple[Any, ...]) -> list[Tensor]:
    """The tensors among the arguments, with neighbouring numbers in their last dimension."""
    tensors = (each for each in arguments if isinstance(each, Tensor))
    return [x if x.ndim == 0 or x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous() for x in tensors]


def kind_of(argument: Any) -> Any:
    """What a program is compiled for: a tensor's dtype and number of dimensions, and any other argument itself."""
    return (argument.dtype, argument.ndim) if isinstance(argument, Tensor) else argument


def load_or_make(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Program:
    """The kept program for such arguments, or else a new one, which is kept.

    Raises whatever torch's compiler raises, for example without a C++ compiler.
    """
    key = describe_program(function, arguments)
    if (kept := read_program(key)) is not None:
        return kept
    try:
        code = compile_program(function, arguments)
        program = load_program(code)
        program(dense_tensors(arguments))
    except Exception as error:  # any: what is called here differs between versions of torch
        program = with_torch_compile(function, arguments)
        program(dense_tensors(arguments))
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        warnings.warn(
            f"{function.__name__} as compiled by torch {torch.__version__} cannot be kept, "
            f"so each start compiles it again: {reason}",
            stacklevel=3,
        )
        return program
    keep_program(key, code)
    return program


def describe_program(function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Everything that a program depends on, as the values of a JSON object."""
    file = inspect.getsourcefile(function)
    assert file is not None
    return {
        "function": function.__name__,
        "source": hashlib.sha256(Path(file).read_bytes()).hexdigest(),  # with the functions that it calls
        "arguments": [str(kind_of(each)) for each in arguments],
        "threads": torch.get_num_threads(),
        **machine(),
    }


@functools.cache  # the machine and the versions do not change while the process runs
def machine() -> dict[str, Any]:
    environment = describe_environment()
    return {name: environment[name] for name in ("python", *BITS_DEPEND_ON) if name != "transformers"}


class Code(NamedTuple):
    """What torch's compiler wrote for one program."""

    call: str  # a Python function that allocates the results and calls the kernels
    kernels: dict[str, bytes]  # extension modules with one function `kernel` each, by its name in `call`


def compile_program(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Code:
    """Compile the function for such arguments.

    Their sizes decide which loops run in several threads. All sizes and strides stay variable, except the stride of 1
    of each last dimension.
    """
    import torch._functorch.config  # here and below, since this takes seconds
    from torch._dynamo.source import ConstantSource
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    graphs: list[Any] = []

    def compile_inner(*args: Any, **options: Any) -> Any:
        graphs.append(compile_fx_inner(*args, **options))
        return graphs[-1]

    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False))  # equal sizes stay two sizes
    examples = []
    for i, x in enumerate(dense_tensors(arguments)):
        variable: Any = StatelessSymbolicContext([DimDynamic.DYNAMIC] * x.ndim)
        examples.append(mode.from_tensor(example_of(x), source=ConstantSource(f"x{i}"), symbolic_context=variable))
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        mode,
        tracing(TracingContext(mode)),
        torch._functorch.config.patch(enable_autograd_cache=False),  # what comes from it has no source
    ):
        compile_fx(make_fx(of_tensors(function, arguments))(*examples), examples, inner_compile=compile_inner)
    (graph,) = graphs
    names: dict[str, Any] = {}
    exec(graph.source_code, names)
    functions = [node for node in ast.walk(ast.parse(graph.source_code)) if isinstance(node, ast.FunctionDef)]
    (call,) = (ast.unparse(node) for node in functions if node.name == "call")
    kernels = {name: names[name] for name in names if name.startswith("cpp_fused")}
    return Code(call, {name: Path(kernel.__self__.__file__).read_bytes() for name, kernel in kernels.items()})


def of_tensors(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[..., Any]:
    """The function of the tensors among the arguments, with the other arguments as they are."""

    def call(*tensors: Tensor) -> Any:
        given = iter(tensors)
        return function(*(next(given) if isinstance(each, Tensor) else each for each in arguments))

    return call


def example_of(x: Tensor) -> Tensor:
    """A tensor with the dtype and sizes of x, but none of 1, which would be constant, and with gaps between rows."""
    sizes, strides = [max(size, 2) for size in x.shape], [1] * x.ndim
    for i in reversed(range(1, x.ndim)):
        strides[i - 1] = strides[i] * sizes[i] + 1  # a product of sizes would be no variable
    return torch.empty_strided(sizes, strides, dtype=x.dtype, device="cpu")


def with_torch_compile(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Program:
    """The program that torch.compile calls, for versions of torch whose programs cannot be kept."""
    inner = torch.compile(of_tensors(function, arguments), dynamic=True)

    def program(tensors: list[Tensor]) -> Any:
        with torch.no_grad():
            return inner(*tensors)

    return program


def load_program(code: Code) -> Program:
    """The program as a function. torch's compiler is not imported."""
    guards: Any = torch._C._dynamo.guards
    names: dict[str, Any] = {
        "torch": torch,
        "assert_size_stride": guards.assert_size_stride,
        "empty_strided_cpu": guards._empty_strided_cpu,
        "reinterpret_tensor": guards._reinterpret_tensor,
    }
    # each kernel takes the address of the function by which it finds the numbers of a tensor from here
    os.environ["_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR"] = str(guards._torchinductor_pyobject_tensor_data_ptr)
    names |= {name: load_kernel(library) for name, library in code.kernels.items()}
    exec(code.call, names)
    call = names["call"]

    def program(tensors: list[Tensor]) -> Any:
        results = call(None, tensors)
        return results[0] if len(results) == 1 else results

    return program


def load_kernel(library: bytes) -> Callable[..., None]:
    """The function of an extension module."""
    digest = hashlib.sha256(library).hexdigest()
    with tempfile.TemporaryDirectory(prefix="llama-jp-") as folder:
        file = Path(folder) / "kernel.so"
        file.write_bytes(library)
        spec = importlib.util.spec_from_file_location(f"llama_jp_{digest}.kernel", file)  # of PyInit_kernel
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    kernel: Callable[..., None] = module.kernel
    return kernel


def program_folder() -> Path | None:
    """The folder of the kept programs; None for a user without a home."""
    cache = user_cache_folder()
    return None if cache is None else cache / "programs"


def file_of(key: dict[str, Any]) -> Path | None:
    """The file of a program: the name of its function, and a hash of everything else that it depends on."""
    folder = program_folder()
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return None if folder is None else folder / f"{key['function']}-{digest[:16]}.json"


def read_program(key: dict[str, Any]) -> Program | None:
    """The kept program, or None if there is none. A file that is damaged is ignored with a warning."""
    file = file_of(key)
    try:
        if file is None or not file.is_file():
            return None
        digest, text = read_text_file(file).split("\n", 1)
        if digest != hashlib.sha256(text.encode()).hexdigest():
            raise ValueError("its content does not have its checksum")
        raw = parse_json(text)
        if raw["key"] != key:
            raise ValueError("it belongs to another program")
        kernels = {name: base64.b64decode(library) for name, library in raw["kernels"].items()}
        return load_program(Code(raw["call"], kernels))
    except OSError:  # such as a folder without permission to read
        return None
    except Exception as error:  # any: the content may be anything
        reason = " ".join(str(error).split())
        warnings.warn(f"{file} is damaged and ignored, so it is compiled again: {reason}", stacklevel=4)
        return None


def keep_program(key: dict[str, Any], code: Code) -> None:
    """Write the program's file. A folder that cannot be written is no error: the next start compiles again."""
    if (file := file_of(key)) is None:
        return
    kernels = {name: base64.b64encode(library).decode() for name, library in code.kernels.items()}
    text = json.dumps({"key": key, "call": code.call, "kernels": kernels}, indent=1) + "\n"
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}")
