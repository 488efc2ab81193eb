"""Run the notebooks of this folder in order of their cells, and store what each cell prints.

    python examples/notebooks/run.py             # after a change of a cell
    python examples/notebooks/run.py --check     # exit status 1 if a stored output is not what the cell prints today

The cells are plain Python, so no kernel is needed. A cell with the comment "install" gets the lines that install
llama_jp on Google Colab, with the address of the repository in pyproject.toml; without one, the cell asks for it.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
MEASURED = re.compile(r"\d+\.\d+")
INSTALL = """\
# Google Colab にだけ llama_jp を入れます。 / Installs llama_jp on Google Colab only.
import subprocess
import sys

if "google.colab" in sys.modules:
    address = {address}
    package = f"llama-jp[train] @ git+{{address}}"
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", package], check=True)"""
ASK = 'input("llama_jp のリポジトリの URL / URL of the repository of llama_jp: ")'


def address() -> str:
    """The address of the repository, in Python: `Repository` among the project's URLs, or else a question."""
    project = (FOLDER.parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+)"$', project, re.M)
    return json.dumps(found[1]) if found else ASK


def lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the output of a run. All cells share one namespace, as in a kernel."""
    names: dict[str, Any] = {"__name__": "__main__"}
    number, cells = 0, []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            source = "".join(cell["source"])
            if number == 1:
                source = INSTALL.format(address=address())
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(source, f"cell {number}", "exec"), names)
            text = printed.getvalue()
            outputs = [{"name": "stdout", "output_type": "stream", "text": lines(text)}] if text else []
            cell = cell | {"execution_count": number, "outputs": outputs, "source": lines(source)}
        cells.append(cell)
    return notebook | {"cells": cells}


def changes(stored: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Each line that a cell prints today and did not print before, or the other way round, with its cell.

    The last digit of a measured number may differ: it depends on the processor.
    """
    found = []
    for old, new in zip(stored["cells"], now["cells"], strict=True):
        before, after = shown(old), shown(new)
        if MEASURED.sub("", before) != MEASURED.sub("", after) or not all(map(is_near, *map(numbers, (before, after)))):
            lines = difflib.ndiff(before.splitlines(), after.splitlines())
            found += [f"cell {old['id']}: {line}" for line in lines if line[0] in "+-"]
    return found


def numbers(text: str) -> list[str]:
    return MEASURED.findall(text)


def is_near(one: str, other: str) -> bool:
    """Whether two decimal numbers are at most one apart in the last digit of the first."""
    return abs(float(one) - float(other)) < 1.5 * 10.0 ** -len(one.partition(".")[2])


def shown(cell: dict[str, Any]) -> str:
    """The source of a cell and what it prints, as one text."""
    printed = [line for output in cell.get("outputs", []) for line in output["text"]]
    return "".join([*cell["source"], "\n", *printed])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the stored outputs, and write nothing")
    args = parser.parse_args()
    different = False
    for file in sorted(FOLDER.glob("*.ipynb")):
        stored = json.loads(file.read_text(encoding="utf-8"))
        now = run(stored)
        found = changes(stored, now)
        print(f"{file.name}: {'as stored' if not found else 'changed'}", *found, sep="\n  ")
        different |= bool(found)
        if not args.check:
            file.write_text(json.dumps(now, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 1 if args.check and different else 0


if __name__ == "__main__":
    sys.exit(main())
