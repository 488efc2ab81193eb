"""The layer rule: an import goes to a lower layer or stays in its folder, late imports included."""

from __future__ import annotations

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "llama_jp"
LAYERS = {
    "version": 0, "environment": 0, "numerics": 0, "rope": 0, "cache": 0, "model": 1, "linear": 2, "tracing": 2,
    "long_context": 2, "checkpoint": 3, "text": 4, "loading": 5, "generation": 5, "evaluation": 6, "quantization": 7,
    "speed": 8, "parity": 9, "cli": 10, "__main__": 11,
}  # fmt: skip
EXCEPTION = ("model.py", "checkpoint")  # Llama.from_pretrained and save_pretrained


def imported(file: Path) -> set[str]:
    """The modules of this package that a file imports, as dotted paths below it."""
    parts, found = file.relative_to(PACKAGE).parent.parts, set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*parts[: len(parts) - node.level + 1], *(node.module or "").split(".")]
            found |= {".".join(filter(None, [*base, "" if node.module else name.name])) for name in node.names}
    return found


def test_imports_go_to_a_lower_layer_or_stay_in_their_folder():
    upward, rooms = [], {file: file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in PACKAGE.rglob("*.py")}
    for file, room in rooms.items():
        for name in imported(file) if room != "__init__" else ():
            other = name.split(".")[0]
            if room != other and LAYERS[other] >= LAYERS[room] and (file.name, other) != EXCEPTION:
                upward.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert upward == []


def test_no_function_has_the_name_of_its_module():
    """Against: `import llama_jp.generate` that gives a function or a module, whichever was imported last."""
    for file in PACKAGE.rglob("*.py"):
        name = file.parent.name if file.stem == "__init__" else file.stem
        names = {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if hasattr(node, "name")}
        assert name not in names, file
