"""Parts of a changed model: functions and classes, recorded in config.json as "module:name", and imported from there.

A checkpoint with parts has `model_type: llama_jp`. Its `parts` name the attention, rope and norm functions and the
model class that differ from the standard ones. To import them is to run their module's code, so that is opt-in.

This module does not import torch, which takes seconds: `llama-jp info` shows the parts by name only.
"""

from __future__ import annotations

import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..model import Attention, Llama, Norm
    from ..rope import Rope

CHANGED = "llama_jp"  # model_type of a checkpoint with parts


class Parts(NamedTuple):
    """The replaceable parts of a model: its class, and the three functions for its constructor."""

    model_class: type[Llama]
    attention: str | Attention = "sdpa"
    rope: Rope | None = None
    norm: Norm | None = None

    def functions(self) -> dict[str, Any]:
        """The functions as keyword arguments of the constructor."""
        return {"attention": self.attention, "rope": self.rope, "norm": self.norm}


def is_function_name(source: str | Path) -> bool:
    """Whether a source is `module:function` rather than a folder, or llama.cpp:FILE.gguf of a comparison."""
    name = str(source)
    is_function = re.fullmatch(r"[\w.]+:\w[\w.]*", name) is not None and not name.startswith("llama.cpp:")
    return is_function and not Path(source).exists()


def part_name(role: str, part: Any) -> str:
    """The "module:name" from which a function or class can be imported. Raises ValueError if there is none."""
    module, name = getattr(part, "__module__", None), getattr(part, "__qualname__", None)
    way_out = "define it at the top of a module that can be imported, and pass that one in"
    if isinstance(part, partial) or not isinstance(name, str) or not isinstance(module, str):
        raise ValueError(f"the {role} is {describe(part)}, which no import can find again; {way_out}")
    if "<" in name:
        raise ValueError(f"the {role} {name} is a lambda or is defined inside a function; {way_out}")
    if module == "__main__":
        raise ValueError(f"the {role} {name} is defined in the script or notebook itself (__main__); {way_out}")
    try:
        found = import_part(f"{module}:{name}")
    except ValueError:
        found = None
    if found is not part:
        raise ValueError(f"the {role} is not what {module}:{name} imports, such as a wrapped function; {way_out}")
    return f"{module}:{name}"


def describe(part: Any) -> str:
    """A function, class or object in words, for error messages."""
    name = getattr(part, "__qualname__", None)
    return name if isinstance(name, str) else f"an object of the type {type(part).__name__}"


def import_part(name: str) -> Any:
    """The object at "module:name". ValueError says why it is not found.

    The current folder is searched as well, as `python -m` does and an installed command does not. It stays on
    `sys.path` for what the module imports later.
    """
    module, _, path = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with one_sentence(f"{name} cannot be imported"):
        return reduce(getattr, path.split("."), importlib.import_module(module))


def call_function(spec: str, *arguments: Any) -> Any:
    """The result of `module:function`. Raises ValueError when it cannot be imported or called, and when it fails."""
    function = import_part(spec)
    if not callable(function):
        raise ValueError(f"{spec} is {describe(function)}, not a function that returns a model")
    with one_sentence(f"{spec} fails"):
        return function(*arguments)


@contextmanager
def one_sentence(failure: str) -> Iterator[None]:
    """Turn any exception of a user's code into a ValueError with the failure, the reason and the place."""
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ValueError(f"{failure}: {describe_failure(error)}") from error


def describe_failure(error: BaseException) -> str:
    """An exception as one line: type, message, and the last line of the person's own code that it came through."""
    frame = own_frame(error)
    place = f" ({Path(frame.filename).name}, line {frame.lineno})" if frame else ""
    message = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' * bool(message)}{message}{place}"


def own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The last line of a person's own code that an exception came through."""
    frames = traceback.extract_tb(error.__traceback__)
    libraries = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), "<frozen")
    return next((frame for frame in reversed(frames) if not frame.filename.startswith(libraries)), None)


def recorded_parts(raw: dict[str, Any]) -> dict[str, str]:
    """The parts in the content of config.json: "class", "attention", "rope" or "norm" -> "module:name"."""
    if raw.get("model_type") != CHANGED:
        return {}
    parts = raw.get("parts")
    if not isinstance(parts, dict) or not parts or not all(is_part(role, name) for role, name in parts.items()):
        raise ValueError(f'parts is {parts!r}, but it has to name class, attention, rope or norm as "module:name"')
    return parts


def is_part(role: object, name: object) -> bool:
    """Whether an entry of `parts` in config.json has the right form."""
    return role in ("class", "attention", "rope", "norm") and re.fullmatch(r"[\w.]+:[\w.]+", str(name)) is not None


def resolve_parts(folder: Path, recorded: dict[str, str], given: Parts, trust: bool) -> Parts:
    """The parts to build a checkpoint with: those handed in, then the recorded ones if they are trusted.

    Raises ValueError with the names of recorded parts that are neither, and for a class other than the recorded one.
    """
    from ..model import Llama

    missing = {}
    for role, name in recorded.items():
        if role == "class":
            ancestors = [f"{ancestor.__module__}:{ancestor.__qualname__}" for ancestor in given.model_class.__mro__]
            handed_in = name in ancestors or name.partition(":")[2] == given.model_class.__qualname__
            if not handed_in and given.model_class is not Llama:
                raise ValueError(f"{folder} holds a {name}, which a {given.model_class.__qualname__} cannot replace")
        else:
            value = getattr(given, role)
            handed_in = value is not None and not isinstance(value, str)
        if not handed_in:
            missing[role] = name
    if missing and not trust:
        names = ", ".join(f"{role} {name}" for role, name in missing.items())
        raise ValueError(
            f"{folder} holds a changed model ({names}); hand these in ({handing_in(missing)}), "
            "or have them imported with trust_parts=True (--trust-parts; in transformers trust_remote_code=True)"
        )
    imported = {"model_class" if role == "class" else role: import_part(name) for role, name in missing.items()}
    parts = given._replace(**imported)
    model_class = imported.get("model_class", Llama)  # one that is handed in may be a copy of the class
    if not isinstance(model_class, type) or not issubclass(model_class, Llama):
        raise ValueError(f"{folder}: the class {recorded['class']} is not a subclass of llama_jp.Llama")
    for role, part in imported.items():
        if not callable(part):
            raise ValueError(f"{folder}: the {role} {recorded[role]} is {describe(part)}, not a function")
    return parts


def handing_in(missing: dict[str, str]) -> str:
    """The call that hands in parts, such as `Alibi.from_pretrained(…, rope=no_rope)`."""
    short = {role: re.split("[:.]", name)[-1] for role, name in missing.items()}
    loader = short.pop("class", "Llama")
    return f"{loader}.from_pretrained(…{''.join(f', {role}={name}' for role, name in short.items())})"


def with_parts(raw: dict[str, Any], parts: dict[str, str]) -> dict[str, Any]:
    """The content of config.json for a model with these parts.

    transformers' Llama classes load any model_type with no more than a warning. They refuse an activation that they do
    not know, so no other program mistakes a changed model for a plain one.
    """
    changed = {"architectures": ["LlamaJpForCausalLM"], "model_type": CHANGED, "hidden_act": CHANGED, "parts": parts}
    return raw | changed if parts else raw


def without_parts(raw: dict[str, Any]) -> dict[str, Any]:
    """The opposite of `with_parts`: the keys of a plain model."""
    if raw.get("model_type") != CHANGED:
        return raw
    return {key: value for key, value in raw.items() if key != "parts"} | {"model_type": "llama", "hidden_act": "silu"}
