"""The tour in docs/learn: every number is computed, every block of code runs, every claim holds."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from helpers.tokenizer_files import real_data

from llama_jp import Tokenizer

LEARN = Path(__file__).parents[2] / "docs" / "learn"
sys.path.insert(0, str(LEARN))

import build  # noqa: E402
from build import Chapter, chapters, code_blocks, faults, faults_between, faults_of_page, places  # noqa: E402

CHAPTERS = {chapter.name: chapter for chapter in chapters()}


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_chapter_is_what_its_code_computes(name):
    """Guards against a number, an output, a picture, a quoted line or a claim that is stale."""
    assert faults(CHAPTERS[name]) == []


@pytest.mark.parametrize("name", [name for name in CHAPTERS if name != "index"])
def test_the_chapter_has_its_parts(name):
    """Guards against a chapter without a picture, exercises with answers, or the code that it explains."""
    for page in CHAPTERS[name].pages:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^\*\*\d\.\*\* ", text, re.M)) == 3, f"{page.name}: three exercises"
        assert text.count('<details markdown="1">') == text.count("</details>") >= 3, f"{page.name}: an answer for each"
        assert "(pictures/" in text and "<!--source " in text, page.name
        commands = [line for block in code_blocks(text) for line in block[2].splitlines() if line.startswith("$ ")]
        assert all(command.startswith("$ llama-jp ") for command in commands), f"{page.name}: {commands}"


def test_llama_2_cuts_the_sentence_as_chapter_1_says():
    chapter = CHAPTERS["01-tokens"].module
    tokenizer = Tokenizer.from_pretrained(real_data("llama2-tokenizer"))
    assert tokenizer.pieces(tokenizer.encode(chapter.SENTENCE)) == chapter.LLAMA_2


# --- each rule goes red -----------------------------------------------------------------------------------------------


PAGE = """# Title 1.5

The factor is <!--n factor-->18.118<!--/n-->, `eps` is `0.000001`, see [section 3.2](https://example.org/1.0).

<!--source llama_jp.model:repeat_heads "return" "return x[:"-->
<!--/source-->

```python
print(6 * 7)  # {comment}
```

```text
42
```
"""
NUMBERS = {"factor": "18.118"}


def stale(text: str, outputs: dict[int, str] | None = None) -> list[str]:
    found = places(text, NUMBERS, {0: "42\n"} if outputs is None else outputs)
    return [place.name for place in found if text[place.start : place.end] != place.computed]


def test_a_place_that_differs_is_named():
    [source] = stale(PAGE)
    assert source == "llama_jp.model:repeat_heads"
    [place] = [place for place in places(PAGE, NUMBERS, {}) if place.name == source]
    filled = PAGE[: place.start] + place.computed + PAGE[place.end :]
    assert re.search(r"```python\n# llama_jp/model.py, line \d+\nreturn x\nreturn x\[:, :, None]", filled) is None
    assert re.search(r"```python\n# llama_jp/model.py, line \d+\n +return x\nreturn x\[:, :, None\]", filled)
    assert stale(filled) == []
    assert stale(filled.replace("18.118", "18.119")) == ["factor"]
    assert stale(filled.replace("\n42\n", "\n43\n")) == ["output of block 1"]
    assert stale(filled.replace("return x\n", "return y\n")) == [source]
    assert stale(filled.replace("\n```text\n42\n```\n", "")) == ["output of block 1"], "what is printed is shown"


def test_the_fault_has_file_line_name_and_both_values(tmp_path, monkeypatch):
    for name in ("99-test.md", "99-test.ja.md"):
        (tmp_path / name).write_text("# Test\n\nIt is <!--n factor-->18.119<!--/n-->.\n", encoding="utf-8")
    monkeypatch.setattr(Chapter, "numbers", lambda self: (NUMBERS, []))
    assert faults(Chapter("99-test", tmp_path)) == [
        "99-test.ja.md:3: factor is '18.118', the page says '18.119'",
        "99-test.md:3: factor is '18.118', the page says '18.119'",
    ]
    assert faults(Chapter("99-test", tmp_path), write=True) == [] == faults(Chapter("99-test", tmp_path))


def test_the_fault_of_a_block_has_the_line_that_differs():
    assert build.first_difference("a\nb\n", "a\nc\n") == (1, "b", "c")
    assert build.first_difference("a\n", "") == (0, "a", "")


def test_a_number_that_float64_prints_otherwise_is_named(monkeypatch):
    """Guards against digits that another CPU would print in another way."""

    class Module:
        @staticmethod
        def numbers(demo):
            return {"stable": "0.30", "unstable": f"{(demo.weights['norm.weight'] / 3).sum():.9f}"}

    monkeypatch.setattr(Chapter, "module", Module)
    _, found = Chapter("99-test").numbers()
    assert len(found) == 1 and "unstable is" in found[0] and "print fewer digits" in found[0]


def test_numbers_typed_by_hand_are_named():
    assert list(faults_of_page(Path("page.md"), PAGE)) == []
    for typed, line in (("It is 0.25 wide.", 16), ("| 1 | 2.5 |", 16)):
        [fault] = faults_of_page(Path("page.md"), f"{PAGE}\n{typed}\n")
        assert fault.startswith(f"page.md:{line}: {re.search(build.DECIMAL, typed)[0]} is typed by hand")


def test_text_that_no_code_prints_is_named():
    [fault] = faults_of_page(Path("page.md"), PAGE + "\n```text\n17\n```\n")
    assert fault == "page.md:16: this block is the output of no code"


def test_a_link_to_the_other_language_is_named():
    link = "[4. Attention](04-attention.md), [trace](../trace.md#top)"
    assert list(faults_of_page(LEARN / "page.md", link)) == []
    assert len(list(faults_of_page(LEARN / "page.ja.md", link))) == 2
    assert list(faults_of_page(LEARN / "page.ja.md", "English: [page.md](04-attention.md)")) == []


def test_a_link_with_the_number_of_another_chapter_is_named():
    [fault] = faults_of_page(LEARN / "page.md", "the last chapter ([chapter 5](04-attention.md))")
    assert fault == "page.md:1: the link says 5 and goes to chapter 4"
    links = "[4. Attention](04-attention.md), [the last one](13-training.md)"
    assert list(faults_of_page(LEARN / "page.md", links)) == []


@pytest.mark.parametrize("start", ["", "- ", "1. ", "> "])
def test_a_number_at_the_start_of_a_line_is_named(start):
    """Guards against a line that GitHub takes for HTML, so that its emphasis and code stay as they are typed."""
    [fault] = faults_of_page(Path("page.md"), f"{start}<!--n factor-->18.118<!--/n--> is **it**\n")
    assert fault.startswith("page.md:1: a number is first")
    assert list(faults_of_page(Path("page.md"), "<!--n table-->\n\n| a | b |\n\n<!--/n-->\n")) == []


def test_differences_between_the_languages_are_named():
    other = PAGE.replace("{comment}", "注釈")
    assert list(faults_between(PAGE, other, "99", NUMBERS)) == []
    assert "factor" in next(faults_between(PAGE, build.SPAN.sub("", other), "99", NUMBERS))
    assert "block 1 is other code" in next(faults_between(PAGE, other.replace("6 * 7", "7 * 6"), "99", NUMBERS))
    assert "quote different code" in next(faults_between(PAGE, other.replace(":repeat", ":rotate"), "99", NUMBERS))
    assert "computes no number factor" in next(faults_between(PAGE, other, "99", {}))
    [typed] = faults_between(PAGE + "\nIt has 4,096 tokens.\n", other, "99", NUMBERS)
    assert typed.startswith("99.ja.md:16: 4,096 is typed by hand and is not on the other page")
    assert "no page shows the number spare" in next(faults_between(PAGE, other, "99", NUMBERS | {"spare": "1"}))


def test_pictures_may_differ_by_a_tenth_of_a_pixel_only():
    svg = '<text x="10.1" y="2" fill-opacity="0.30">0.30</text>'
    assert build.same_picture(svg, svg.replace("10.1", "10.2"))
    for stale_one in ("10.1", "10.4"), ('y="2"', 'y="3"'), ("text", "circle"), ('"0.30"', '"0.33"'), (">0.30", ">0.31"):
        assert not build.same_picture(svg, svg.replace(*stale_one)), stale_one


def test_an_error_in_a_block_has_the_page_and_its_line():
    with pytest.raises(ZeroDivisionError) as error:
        build.run_blocks(Path("page.md"), "# Title\n\n```python\n1 / 0\n```\n")
    last = error.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("page.md", 4)


def test_a_claim_that_is_not_true_is_named(tmp_path, monkeypatch):
    class Module:
        @staticmethod
        def claims(demo):
            raise AssertionError("the vectors grow in every layer")

    for name in ("99-test.md", "99-test.ja.md"):
        (tmp_path / name).write_text("# Test\n", encoding="utf-8")
    monkeypatch.setattr(Chapter, "module", Module)
    assert faults(Chapter("99-test", tmp_path)) == ["99-test: a sentence is not true: the vectors grow in every layer"]
