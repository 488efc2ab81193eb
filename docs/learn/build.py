"""Fill the computed parts of the tour's pages, or check them.

    python docs/learn/build.py             write what is computed
    python docs/learn/build.py --check     name each place that differs, and exit with 1
    python docs/learn/build.py 03 04       these chapters only

A chapter is two pages, `NN-name.md` and `NN-name.ja.md`, and `chapters/NN_name.py` with up to three functions:

    numbers(demo)     name -> printed text. Called with the model in float32 and in float64; both texts have to be equal
    pictures(demo)    file name without .svg -> SVG, kept in pictures/
    claims(demo)      an assertion for each sentence that claims something

Computed parts of a page:

    <!--n rms.ms-->0.003045<!--/n-->       a number inside a sentence or a table, never first in a line: GitHub would
                                           take that line for HTML
    <!--n table-->                         a text of several lines, such as a table; both comments on their own lines
    <!--source llama_jp.model:rms_norm-->  the code of an object, with its file and line. `:Llama.hidden "x =" "return"`
                                           quotes from the first line that starts with one text to the next that starts
                                           with the other
    <!--/source-->
    ```python, then ```text                code and what it prints. The blocks of a page run in order, in one namespace
    ```console                             lines `$ llama-jp …` and their standard output. After a line <!--not run-->
                                           the block stays as it is

A chapter's two pages use the same numbers and the same code (comments may differ). A decimal number anywhere else is an
error: nobody would notice when it went stale. An integer may be typed by hand if both pages have it, in digits.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import inspect
import io
import os
import re
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

LEARN = Path(__file__).resolve().parent
ROOT = LEARN.parents[1]
sys.path[:0] = [str(LEARN), str(ROOT)]  # chapters import demo and drawing; the code quoted is that of this checkout

from demo import Demo  # noqa: E402

SPAN = re.compile(r"<!--n ([\w.-]+)-->(.*?)<!--/n-->", re.S)
SOURCE = re.compile(r'<!--source ([\w.]+):([\w.]+)((?: "[^"\n]+"){0,2})-->\n(.*?)<!--/source-->', re.S)
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
FIRST_IN_LINE = re.compile(r"^\s*(?:(?:[-*+>]|\d+\.)\s+)*<!--n [\w.-]+-->(?=[^\n])")
NOT_PROSE = [
    re.compile(r"^```.*?^```$", re.M | re.S),
    SPAN,
    re.compile(r"<!--.*?-->", re.S),
    re.compile(r"`[^`\n]+`"),
    re.compile(r"!?\[[^\]\n]*\]\([^)\n]*\)"),
    re.compile(r"^#.*$", re.M),
]
LINK = re.compile(r"(?:(English|日本語): )?\[([^\]\n]*)\]\(([^):#\s]+\.md)(?:#[^)\s]*)?\)")
DECIMAL = re.compile(r"\d+\.\d+")
INTEGER = re.compile(r"\d[\d,]*(?<!,)")
COORDINATE = re.compile(r"-?\d+\.\d+(?=[^<>]*>)")  # inside a tag; the words of a picture are compared as they are


class Place(NamedTuple):
    """A computed part of a page: `text[start:end]` has to be `computed`."""

    start: int
    end: int
    name: str
    computed: str


class Chapter:
    """The module of a chapter and its pages, Japanese first."""

    def __init__(self, name: str, folder: Path = LEARN):
        self.name, self.folder = name, folder
        self.pages = [folder / f"{name}.ja.md", folder / f"{name}.md"]

    @property
    def module(self) -> ModuleType | None:
        name = f"chapters.{self.name.replace('-', '_')}"
        return importlib.import_module(name) if (LEARN / f"{name.replace('.', '/')}.py").exists() else None

    def part(self, name: str) -> Callable[[Demo], Any]:
        """A function of the module. One that it lacks gives an empty dict."""
        return getattr(self.module, name, lambda demo: {})

    def numbers(self) -> tuple[dict[str, str], list[str]]:
        """The printed texts, and a sentence for each that float64 prints in another way."""
        numbers, exact = (without_random(self.part("numbers"), demo(dtype)) for dtype in ("float32", "float64"))
        differing = [
            f"{self.name}: {name} is {numbers.get(name)!r} in float32 and {exact.get(name)!r} in float64; print fewer "
            "digits"
            for name in sorted(numbers.keys() | exact.keys())
            if numbers.get(name) != exact.get(name)
        ]
        return numbers, differing

    def pictures(self) -> dict[Path, str]:
        drawn = self.part("pictures")(demo("float32"))
        return {self.folder / "pictures" / f"{name}.svg": svg for name, svg in drawn.items()}

    def claims(self) -> None:
        without_random(self.part("claims"), demo("float32"))


@lru_cache
def demo(dtype: str) -> Demo:
    return Demo(getattr(torch, dtype))


def without_random(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function so that neither earlier random numbers reach it nor its own reach later code."""
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        return function(*args)


def chapters() -> list[Chapter]:
    names = {file.name.split(".")[0] for file in LEARN.glob("*.md")}
    return [Chapter(name) for name in sorted(names, key=lambda name: (name != "index", name))]


# --- the computed parts of one page -----------------------------------------------------------------------------------


def places(text: str, numbers: dict[str, str], outputs: dict[int, str]) -> Iterator[Place]:
    """Every computed part of a page. `outputs`: what a block prints, by the block's number."""
    for span in SPAN.finditer(text):
        if (computed := numbers.get(span[1])) is not None:
            computed = f"\n\n{computed.strip()}\n\n" if "\n" in computed else computed
            yield Place(span.start(2), span.end(2), span[1], computed)
    for source in SOURCE.finditer(text):
        yield Place(source.start(4), source.end(4), f"{source[1]}:{source[2]}", quote(source[1], source[2], source[3]))
    for number, block in enumerate(code_blocks(text)):
        printed, name = outputs.get(number, ""), f"output of block {number + 1}"
        if block[1] == "console":
            yield Place(block.start(2), block.end(2), name, printed)
        elif (shown := output_block(text, block)) is not None:
            yield Place(shown.start(2), shown.end(2), name, printed)
        elif printed:
            yield Place(block.end(), block.end(), name, f"\n\n```text\n{printed}```")


def quote(module: str, path: str, limits: str) -> str:
    """The code of an object as a fenced block, whose first line has the file and the line."""
    quoted = importlib.import_module(module)
    for part in path.split("."):
        quoted = getattr(quoted, part)
    lines, line = inspect.getsourcelines(quoted)
    if limits:
        first, last = (re.findall(r'"([^"]+)"', limits) * 2)[:2]
        start = next(i for i, code in enumerate(lines) if code.strip().startswith(first))
        end = next(i for i, code in enumerate(lines) if i >= start and code.strip().startswith(last))
        lines, line = lines[start : end + 1], line + start
    file = Path(inspect.getfile(quoted)).resolve().relative_to(ROOT).as_posix()
    return f"```python\n# {file}, line {line}\n{textwrap.dedent(''.join(lines)).rstrip()}\n```\n"


def code_blocks(text: str) -> list[re.Match[str]]:
    """The python and console blocks of a page that run, in order."""
    quoted = [source.span() for source in SOURCE.finditer(text)]
    return [
        block
        for block in FENCE.finditer(text)
        if block[1] in ("python", "console")
        and not any(start <= block.start() < end for start, end in quoted)
        and not text[: block.start()].rstrip().endswith("<!--not run-->")
    ]


def output_block(text: str, block: re.Match[str]) -> re.Match[str] | None:
    """The ```text block that follows a python block."""
    following = FENCE.search(text, block.end())
    if following is None or following[1] != "text" or text[block.end() : following.start()].strip():
        return None
    return following


def run_blocks(page: Path, text: str) -> dict[int, str]:
    """Run the blocks of a page, in an empty folder and one namespace. Returns what each printed."""
    outputs: dict[int, str] = {}
    namespace, before = {"__name__": page.stem}, Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, block in enumerate(code_blocks(text)):
                above = text.count("\n", 0, block.start(2))
                if block[1] == "console":
                    commands = [line for line in block[2].splitlines() if line.startswith("$ ")]
                    outputs[number] = "".join(f"{command}\n{run_command(command)}" for command in commands)
                else:
                    code = compile("\n" * above + block[2], str(page), "exec")  # line numbers are the page's
                    with contextlib.redirect_stdout(io.StringIO()) as printed:
                        exec(code, namespace)
                    outputs[number] = printed.getvalue()
        finally:
            os.chdir(before)
    return outputs


def run_command(command: str) -> str:
    """What `$ llama-jp …` prints on standard output. It runs in this process: a new one would import torch again."""
    from llama_jp.cli import main

    program, *words = shlex.split(command.removeprefix("$ "))
    if program != "llama-jp":
        raise ValueError(f"only llama-jp runs in a console block, not {program}; put <!--not run--> above the block")
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.redirect_stderr(io.StringIO()):
        main(words)
    return printed.getvalue()


# --- what is wrong with a chapter -------------------------------------------------------------------------------------


def faults_of_page(page: Path, text: str) -> Iterator[str]:
    """What is wrong with a page whatever the numbers are."""
    fences = list(FENCE.finditer(text))
    outputs = [output_block(text, block) for block in code_blocks(text) if block[1] == "python"]
    printed = {output.start() for output in outputs if output is not None}
    spans = [span.span() for span in SPAN.finditer(text)]
    for fence in fences:
        if fence[1] == "text" and fence.start() not in printed and not within(fence.start(), spans):
            yield f"{where(page, text, fence.start())}: this block is the output of no code"
    for number, line in enumerate(text.split("\n"), 1):
        if FIRST_IN_LINE.match(line):
            yield f"{page.name}:{number}: a number is first in its line; GitHub takes the line for HTML"
    for link in LINK.finditer(text):
        own, other = (".ja.md", ".md") if page.name.endswith(".ja.md") else (".md", ".ja.md")
        target = link[3].removesuffix(".md").removesuffix(".ja")
        if link[1] not in ("English", "日本語") and link[3] != target + own and (page.parent / (target + own)).exists():
            yield f"{where(page, text, link.start())}: {link[3]} is in the other language; link to {target}{own}"
        named, linked = re.search(r"\d+", link[2]), re.match(r"\d\d(?=-)", target)
        if named and linked and int(named[0]) != int(linked[0]):
            yield f"{where(page, text, link.start())}: the link says {named[0]} and goes to chapter {int(linked[0])}"
    for decimal in DECIMAL.finditer(prose(text)):
        yield f"{where(page, text, decimal.start())}: {decimal[0]} is typed by hand; make it a number of the chapter"


def prose(text: str) -> str:
    """The text with everything else blanked out, at the same places."""
    for pattern in NOT_PROSE:
        text = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    return text


def within(position: int, spans: list[tuple[int, int]]) -> bool:
    return any(start <= position < end for start, end in spans)


def where(page: Path, text: str, position: int) -> str:
    return f"{page.name}:{text.count(chr(10), 0, position) + 1}"


def faults_between(japanese: str, english: str, name: str, numbers: dict[str, str]) -> Iterator[str]:
    """Differences between the two pages, and numbers that no page shows."""
    in_japanese, in_english = ({span[1] for span in SPAN.finditer(text)} for text in (japanese, english))
    for number in sorted(in_japanese ^ in_english):
        language = "Japanese" if number in in_japanese else "English"
        yield f"{name}: only the {language} page has the number {number}"
    for number in sorted((in_japanese | in_english) - set(numbers)):
        yield f"{name}: the chapter computes no number {number}"
    for number in sorted(set(numbers) - in_japanese - in_english):
        yield f"{name}: no page shows the number {number}"
    typed = [{found[0]: found.start() for found in INTEGER.finditer(prose(text))} for text in (japanese, english)]
    for own, other, text, ending in ((*typed, japanese, ".ja.md"), (*typed[::-1], english, ".md")):
        for number in sorted(own.keys() - other.keys()):
            place = where(Path(name + ending), text, own[number])
            yield f"{place}: {number} is typed by hand and is not on the other page; write the same integers on both"
    quoted = [[source.group(1, 2, 3) for source in SOURCE.finditer(text)] for text in (japanese, english)]
    if quoted[0] != quoted[1]:
        yield f"{name}: the pages quote different code: {quoted[0]} and {quoted[1]}"
    blocks = [[comparable(block) for block in code_blocks(text)] for text in (japanese, english)]
    if len(blocks[0]) != len(blocks[1]):
        yield f"{name}: the Japanese page has {len(blocks[0])} blocks of code, the English page {len(blocks[1])}"
    for number, (one, other) in enumerate(zip(*blocks, strict=False), 1):  # not strict: more blocks are named above
        if one != other:
            yield f"{name}: block {number} is other code on the English page"


def comparable(block: re.Match[str]) -> object:
    """Code without its comments; the commands of a console block."""
    if block[1] == "python":
        return ast.dump(ast.parse(block[2]))
    return [line for line in block[2].splitlines() if line.startswith("$ ")]


def faults(chapter: Chapter, write: bool = False) -> list[str]:
    """Every sentence that `--check` prints about a chapter. With `write`, what can be computed is filled in first."""
    missing = [f"{page.name} does not exist" for page in chapter.pages if not page.exists()]
    if missing:
        return missing
    numbers, found = chapter.numbers()
    pictures = chapter.pictures()
    japanese, english = (page.read_text(encoding="utf-8") for page in chapter.pages)
    outputs = without_random(run_blocks, chapter.pages[0], japanese)  # the other page has the same code
    found += faults_between(japanese, english, chapter.name, numbers)
    for page, text in zip(chapter.pages, (japanese, english), strict=True):
        if write:
            text = filled(text, numbers, outputs)
            page.write_text(text, encoding="utf-8")
        found += stale_places(page, text, numbers, outputs)
        found += faults_of_page(page, text)
    if write:
        for file, svg in pictures.items():
            if not file.exists() or not same_picture(file.read_text(encoding="utf-8"), svg):
                file.write_text(svg, encoding="utf-8")
    found += faults_of_pictures(pictures, japanese + english)
    try:
        chapter.claims()
    except AssertionError as claim:
        found.append(f"{chapter.name}: a sentence is not true: {claim}")
    return found


def filled(text: str, numbers: dict[str, str], outputs: dict[int, str]) -> str:
    """The page with every place as it is computed."""
    for place in sorted(places(text, numbers, outputs), reverse=True):
        text = text[: place.start] + place.computed + text[place.end :]
    return text


def stale_places(page: Path, text: str, numbers: dict[str, str], outputs: dict[int, str]) -> Iterator[str]:
    for place in sorted(places(text, numbers, outputs)):
        if (shown := text[place.start : place.end]) != place.computed:
            line, computed, shown = first_difference(place.computed, shown)
            line += text.count("\n", 0, place.start) + 1
            yield f"{page.name}:{line}: {place.name} is {computed!r}, the page says {shown!r}"


def faults_of_pictures(pictures: dict[Path, str], pages: str) -> Iterator[str]:
    shown = set(re.findall(r"\(pictures/([^)]+)\)", pages))
    for file, svg in pictures.items():
        if not file.exists() or not same_picture(file.read_text(encoding="utf-8"), svg):
            yield f"pictures/{file.name} is not what the chapter draws"
        if file.name not in shown:
            yield f"pictures/{file.name} is on no page"
    for name in sorted(shown - {file.name for file in pictures}):
        yield f"pictures/{name} is on a page, and the chapter does not draw it"


def first_difference(computed: str, shown: str) -> tuple[int, str, str]:
    """The first line that differs: its number, and the line in both texts ("" past the end)."""
    lines = zip_longest(computed.split("\n"), shown.split("\n"), fillvalue="")
    return next((number, one, other) for number, (one, other) in enumerate(lines) if one != other)


def same_picture(one: str, other: str) -> bool:
    """Equal up to one unit of the last decimal of a coordinate, by which another CPU may move a mark."""
    first, second = (COORDINATE.findall(svg) for svg in (one, other))
    if COORDINATE.sub("0", one) != COORDINATE.sub("0", other):
        return False
    units = (10.0 ** (number.find(".") + 1 - len(number)) for number in first)
    return all(abs(float(a) - float(b)) < 1.1 * unit for a, b, unit in zip(first, second, units, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description="Fill the computed parts of the tour's pages, or check them.")
    parser.add_argument("chapters", nargs="*", help="the first characters of chapters, such as 03 (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a place differs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    chosen = [each for each in chapters() if not args.chapters or each.name.startswith(tuple(args.chapters))]
    found = [fault for chapter in chosen for fault in faults(chapter, write=not args.check)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
