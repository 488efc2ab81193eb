"""The documentation site builds without a warning, is complete, and has no broken link, anchor or picture."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import llama_jp

ROOT = Path(__file__).parents[2]
NEEDED = ("mkdocs", "material", "mkdocs_static_i18n", "mkdocstrings")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_docs = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed; the extra `docs` has them")


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, html: str):
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.language: str | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "html":
            self.language = values.get("lang")
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in ("img", "script", "source") and "src" in values:
            self.loads.append(values["src"])
        if tag == "link" and values.get("rel") not in ("canonical", "alternate", "next", "prev"):
            self.loads.append(values["href"])


def read_pages(site: Path) -> dict[Path, Page]:
    """Every page but 404.html, whose links start at the root of a server that has no address yet."""
    return {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html") if file.name != "404.html"}


def broken_links(site: Path) -> list[str]:
    """A sentence for each relative link or loaded file without a target, and for each anchor that a page lacks."""
    pages, broken = read_pages(site), []
    for file, page in pages.items():
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if target.is_dir():
                target /= "index.html"
            where = f"{file.relative_to(site)}: {link}"
            if not target.is_file():
                broken.append(f"{where} does not exist")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{where} has no such anchor")
    return broken


def build(site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(site)]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run = build(folder)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder.resolve()


@needs_docs
def test_no_link_anchor_or_picture_is_broken(site):
    assert broken_links(site) == []


@needs_docs
def test_pages_load_nothing_from_the_network(site):
    loaded = {link for page in read_pages(site).values() for link in page.loads}
    assert {link for link in loaded if urlsplit(link).netloc} == set()
    styles = [file for file in site.rglob("*.css") if re.search(r"url\(.?(https?:)?//", file.read_text("utf-8"))]
    assert styles == []


@needs_docs
def test_every_public_name_is_in_the_api_reference(site):
    anchors = {anchor for file, page in read_pages(site).items() if "api" in file.parts for anchor in page.anchors}
    public = {f"llama_jp.{name}" for name in llama_jp.__all__ if name != "__version__"}
    assert public - anchors == set()


@needs_docs
def test_every_page_exists_in_both_languages(site):
    pages = {file.relative_to(site): page.language for file, page in read_pages(site).items()}
    japanese = {file.relative_to("ja") for file in pages if file.parts[0] == "ja"}
    english = {file for file in pages if file.parts[0] != "ja"}
    assert japanese == english
    assert all(language == ("ja" if file.parts[0] == "ja" else "en") for file, language in pages.items())
    for guide in (ROOT / "docs").rglob("*.ja.md"):
        heading = re.search(r"^# (.+)$", guide.read_text(encoding="utf-8"), re.M)[1]
        name = guide.relative_to(ROOT / "docs").as_posix().removesuffix(".ja.md").removesuffix("index")
        html = site / "ja" / name / "index.html"
        assert heading.split()[0] in html.read_text(encoding="utf-8"), f"{html} is not the Japanese page"


@needs_docs
def test_lines_of_japanese_join_without_a_space(site):
    """In lists the next line is indented."""
    for page in ("index.html", "evaluate/index.html"):
        found = re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", (site / "ja" / page).read_text(encoding="utf-8"), re.S)
        assert found and not any(re.search(r"[ぁ-んァ-ン一-龥]\s*\n\s*[ぁ-んァ-ン一-龥]", each) for each in found)


def test_a_broken_link_is_found(tmp_path):
    """Guards against a check that finds nothing: one link of each kind is broken here, and one of each is right."""
    (tmp_path / "page").mkdir()
    (tmp_path / "here.svg").touch()
    links = ["page/", "page/#there", "#top", "https://example.org/", "gone/", "page/#gone", "#gone"]
    anchors = "".join(f'<a href="{link}">x</a>' for link in links)
    (tmp_path / "index.html").write_text(f'<p id="top">{anchors}<img src="here.svg"><img src="gone.svg"></p>')
    (tmp_path / "page" / "index.html").write_text('<h2 id="there">x</h2>')
    assert [sentence.split()[1] for sentence in broken_links(tmp_path.resolve())] == [
        "gone/",
        "page/#gone",
        "#gone",
        "gone.svg",
    ]


@needs_docs
def test_docstrings_become_markdown(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "site"))
    from docstrings import as_markdown

    table = "points    names\nedit      a function,\n          or None"
    assert as_markdown(table, set()) == "- `points`: names\n- `edit`: a function, or None"
    assert as_markdown("factor: at least 1", {"factor"}) == "- `factor`: at least 1"
    assert as_markdown("Note: at least 1", {"factor"}) == "Note: at least 1"
    assert as_markdown("It begins with <s>, see `<s>`.", set()) == "It begins with &lt;s>, see `<s>`."
    assert as_markdown("    a  code < block", set()) == "    a  code < block"
