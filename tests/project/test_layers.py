"""The layer rule: an import goes to a lower layer or stays in its folder, late imports included; and no cycles."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "llama_jp"
LAYERS = {
    "version": 0, "environment": 0, "numerics": 0, "text_files": 0, "config": 0, "rope": 0, "cache": 0, "model": 1,
    "linear": 2, "tracing": 2, "surgery": 2, "checkpoint": 3, "long_context": 4, "text": 4, "loading": 5,
    "generation": 5, "evaluation": 6, "export": 6, "quantization": 7, "training": 7, "speed": 8, "inspection": 8,
    "parity": 9, "bridge": 9, "cli": 10, "__main__": 11,
}  # fmt: skip
EXCEPTION = ("model", "checkpoint")  # Llama.from_pretrained and save_pretrained
FILES = [file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py"]


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> set[str]:
    """The modules of this package that a file imports, as dotted names below it."""
    folder, found, modules = file.relative_to(PACKAGE).parent.parts, set(), set(map(module_of, FILES))
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*folder[: len(folder) - node.level + 1], *(node.module.split(".") if node.module else [])]
            names = [".".join([*base, name.name]) for name in node.names]
            found |= {name if name in modules else ".".join(base) for name in names}
    return found


def test_imports_go_to_a_lower_layer_or_stay_in_their_folder():
    upward = []
    for module, others in {module_of(file): imports(file) for file in FILES}.items():
        for folder, other in ((module.split(".")[0], name.split(".")[0]) for name in others):
            if folder != other and LAYERS[other] >= LAYERS[folder] and (folder, other) != EXCEPTION:
                upward.append(f"{module} imports {other}")
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    below = {module_of(file): imports(file) - {module_of(file)} for file in FILES}
    below["model"] = {name for name in below["model"] if not name.startswith(EXCEPTION[1])}
    TopologicalSorter(below).prepare()  # CycleError names the circle


def test_no_function_has_the_name_of_its_module():
    """Against: `import llama_jp.generate` that gives a function or a module, whichever was imported last."""
    for file in FILES:
        names = {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if hasattr(node, "name")}
        assert module_of(file).split(".")[-1] not in names, file
