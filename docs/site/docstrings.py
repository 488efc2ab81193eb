"""A griffe extension: docstrings as Markdown.

The tables of our docstrings, a name and its meaning on a line, become lists. A dataclass shows its fields with their
comments. `<` in prose is escaped, since `<s>` would be an HTML tag.
"""

from __future__ import annotations

import ast
import re
import textwrap
from typing import Any

import griffe

COLUMNS = re.compile(r"(\S+(?: {1,2}\S+)*?) {2,}(\S.*)")
CODE = re.compile(r"(`[^`]*`)")


class Docstrings(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        self.visit(pkg)

    def visit(self, obj: griffe.Object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value, argument_names(obj)) + fields(obj)
        if isinstance(obj, griffe.Class) and any("dataclass" in str(each.value) for each in obj.decorators):
            obj.decorators = []  # griffe makes no signature, which would repeat the fields
            obj.labels.add("dataclass")
        for member in obj.members.values():
            if not member.is_alias:
                self.visit(member)


def argument_names(obj: griffe.Object) -> set[str]:
    """What a docstring may list: the arguments of a function, the attributes of a class and its arguments."""
    init = obj.members.get("__init__")
    parameters = [*getattr(obj, "parameters", ()), *getattr(init, "parameters", ())]
    return {parameter.name for parameter in parameters} | set(obj.members)


def fields(obj: griffe.Object) -> str:
    """The annotated fields of a class as a block of code, comments included; "" where there are none."""
    if not obj.is_class:
        return ""
    lines = obj.source.split("\n")
    body = ast.parse(textwrap.dedent(obj.source)).body[0].body
    annotated = [node for node in body if isinstance(node, ast.AnnAssign)]
    methods = [node.lineno for node in body if isinstance(node, ast.FunctionDef)]
    annotated = [node for node in annotated if not methods or node.lineno < methods[0]]
    if not annotated:
        return ""
    start = annotated[0].lineno - 1
    while lines[start - 1].lstrip().startswith("#"):  # a comment above the first field belongs to it
        start -= 1
    code = textwrap.dedent("\n".join(lines[start : annotated[-1].end_lineno]))
    return f"\n\n```python\n{code}\n```"


def as_markdown(docstring: str, names: set[str]) -> str:
    """Paragraphs that are tables as lists, others as they are."""
    paragraphs = re.split(r"\n\s*\n", docstring)
    return "\n\n".join(as_list(paragraph, names) or escaped(paragraph) for paragraph in paragraphs)


def as_list(paragraph: str, names: set[str]) -> str | None:
    """`name    meaning` or, for an argument, `name: meaning`; lines that begin with a space continue a meaning."""
    if paragraph.startswith(" "):
        return None  # code
    items: list[tuple[str, str]] = []
    for line in paragraph.split("\n"):
        argument, colon, rest = line.partition(": ")
        if columns := COLUMNS.fullmatch(line.rstrip()):
            items.append((columns[1], columns[2]))
        elif colon and argument in names:
            items.append((argument, rest))
        elif items and line.startswith(" "):
            items[-1] = (items[-1][0], f"{items[-1][1]} {line.strip()}")
        else:
            return None
    return "\n".join(f"- `{name.strip('`')}`: {escaped(meaning)}" for name, meaning in items)


def escaped(text: str) -> str:
    if text.startswith("    "):
        return text
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in CODE.split(text))
