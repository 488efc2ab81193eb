"""MkDocs hooks: pages from outside docs/ are on the site, and links fit the site as well as the repository.

Pages are written to be read in the repository, so their links name files of the repository. Here each link is moved to
the place of that file on the site. A link to a file that the site does not have, such as a source file, becomes text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import CombinedEvent, event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = [
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "examples/README.md",
    "benchmarks/RESULTS.md",
    "weights/README.md",
    "weights/demo/README.md",
    "weights/demo/README.ja.md",
    "weights/demo/loss.png",
]
HOME = {"README.md": "index.md", "README.ja.md": "index.ja.md"}
CJK = "\u3000-\u30ff\u3400-\u9fff\uff00-\uffef"
BETWEEN_CJK = re.compile(rf"(?<=[{CJK}])\n *(?=[{CJK}])")  # with the indentation of a list
LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


@event_priority(100)  # before the i18n plugin, which sorts the files by language and takes those of docs_dir only
def add_outside_files(files: Files, config: MkDocsConfig) -> Files:
    for path in OUTSIDE:
        files.append(File(path, config.docs_dir, config.site_dir, config.use_directory_urls))
    return files


@event_priority(-200)  # after it
def set_outside_paths(files: Files, config: MkDocsConfig) -> Files:
    for file in files:
        if file.src_uri in OUTSIDE:
            file.abs_src_path = str(ROOT / file.src_uri)
    return files


on_files = CombinedEvent(add_outside_files, set_outside_paths)


@event_priority(100)
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    source = posixpath.relpath(Path(page.file.abs_src_path).as_posix(), ROOT.as_posix())
    folder = posixpath.dirname(source)

    def on_the_site(match: re.Match[str]) -> str:
        image, text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(folder, target))
        if "://" in target or not (ROOT / path).exists():
            return match[0]  # MkDocs reports it if it is broken
        if (place := site_path(path)) is None:
            return text
        place = posixpath.relpath(place, posixpath.dirname(site_path(source) or source))
        return f"{image}[{text}]({place.replace('.ja.', '.')}{anchor or ''})"

    lines = [line for line in markdown.split("\n") if not names_other_language(line, source)]
    text = LINK.sub(on_the_site, "\n".join(lines))
    return with_scripts(text) if source == "examples/README.md" else text


def with_scripts(markdown: str) -> str:
    """Put the source of each example below its heading; the repository has it in a file beside the page."""

    def with_source(match: re.Match[str]) -> str:
        code = (ROOT / "examples" / match[1]).read_text(encoding="utf-8")
        return f"{match[0]}\n\n```python\n{code}```\n\nOutput:"

    return re.sub(r"^## (\w+\.py)$", with_source, markdown, flags=re.M)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Join lines between Japanese characters: a browser would show the line break as a space."""
    parts = re.split(r"(<pre.*?</pre>)", html, flags=re.S)
    return "".join(part if part.startswith("<pre") else BETWEEN_CJK.sub("", part) for part in parts)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Make links from the root of the server relative, so that the site works under any address."""
    root = posixpath.relpath(".", page.url or ".")
    return re.sub(r'href="/(?!/)', f'href="{root}/', output)


def site_path(path: str) -> str | None:
    """The place on the site of a file of the repository, or None."""
    if path in HOME:
        return HOME[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path in OUTSIDE else None


def names_other_language(line: str, source: str) -> bool:
    """Whether a line is the link to the same page in the other language. The site has a switch instead."""
    link = LINK.search(line)
    if link is None or len(line) > len(link[0]) + 12:
        return False
    name = posixpath.basename(source)
    return link[3] != name and link[3].replace(".ja.md", ".md") == name.replace(".ja.md", ".md")
