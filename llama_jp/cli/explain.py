"""llama-jp tokenize --explain: a model's prompt in five forms, and the mistakes in ids that somebody pastes."""

from __future__ import annotations

import argparse
import json
import re
from difflib import SequenceMatcher

from ..text.prompt_forms import PromptForm, forms_of_prompt
from ..text.prompt_mistakes import KINDS, Diagnosis, find_mistakes
from ..text.tokenizer import Tokenizer
from ..text.vocabulary import first_difference
from .columns import display_width, pad, visible

GAP = "  "
SAME = "="  # in the table: the same token as in the trained prompt


def pasted_ids(text: str) -> list[int]:
    """A list of ids as people paste it: 1,518 or [1, 518, …] or tensor([[1, 518]])."""
    inner = re.sub(r"tensor\(|, device='[^']*'|[\[\]()…]|\.\.\.", " ", text)
    if not re.fullmatch(r"[\s,]*-?\d+([\s,]+-?\d+)*[\s,]*", inner):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of ids, such as 1,518,25580")
    return [int(number) for number in re.findall(r"-?\d+", inner)]


def explain_prompt(tokenizer: Tokenizer, message: str, as_json: bool) -> None:
    """Print the five forms of a prompt as a table, or as one JSON object."""
    forms = forms_of_prompt(tokenizer, message)
    if as_json:
        content = [{"name": f.name, "source": f.source, "ids": f.ids, "pieces": tokenizer.pieces(f.ids)} for f in forms]
        print(json.dumps({"forms": content}, ensure_ascii=False))
        return
    print("\n".join(table(tokenizer, forms)))
    print()
    width = max(len(form.name) for form in forms)
    for form in forms:
        difference = first_difference(form.ids, forms[0].ids)
        where = (
            "" if form is forms[0] else "the same ids; " if difference is None else f"differs at token {difference}; "
        )
        print(f"{form.name.ljust(width)}{GAP}{len(form.ids)} tokens; {where}{form.source}")
    print()
    print("ids as trained: " + ",".join(map(str, forms[0].ids)))


def explain_ids(tokenizer: Tokenizer, ids: list[int], message: str | None, as_json: bool) -> None:
    """Print the mistakes in ids, one a line, or as one JSON object."""
    diagnosis = find_mistakes(tokenizer, ids, message)
    if as_json:
        mistakes = [{"kind": m.kind, "details": m.details, "cure": KINDS[m.kind]} for m in diagnosis.mistakes]
        content = {"mistakes": mistakes, "message": diagnosis.message, "trained": diagnosis.trained}
        print(json.dumps(content | {"first_difference": diagnosis.first_difference}, ensure_ascii=False))
        return
    if not diagnosis.mistakes:
        print(f"{len(ids)} ids, no mistake: this is the prompt of {diagnosis.message!r} as trained")
        return
    count = len(diagnosis.mistakes)
    print(f"{len(ids)} ids, {count} mistake{'s' * (count > 1)}:")
    print("\n".join(f"{GAP}{mistake}" for mistake in diagnosis.mistakes))
    if diagnosis.trained is not None:
        print(difference_line(tokenizer, diagnosis))
        print(f"trained for {diagnosis.message!r}: " + ",".join(map(str, diagnosis.trained)))


def difference_line(tokenizer: Tokenizer, diagnosis: Diagnosis) -> str:
    """One line: the first token that differs from the trained prompt."""
    at = diagnosis.first_difference
    shown = []
    for ids in (diagnosis.ids, diagnosis.trained or []):
        if at is None or at >= len(ids):
            shown.append("nothing")
        elif ids[at] in tokenizer.vocabulary.pieces:
            shown.append(f"{ids[at]} {visible(tokenizer.vocabulary.display(ids[at]))}")
        else:
            shown.append(str(ids[at]))
    return f"first difference at token {at}: {shown[0]}, where {shown[1]} was trained"


def table(tokenizer: Tokenizer, forms: list[PromptForm]) -> list[str]:
    """A table with one column for each form: id and piece, or SAME for a token of the first form.

    A row is (index in the first form, n): n > 0 for tokens of other forms that stand behind that token.
    """
    trained = forms[0].ids
    cells = [align(form.ids, trained) for form in forms]
    rows = sorted({row for column in cells for row in column})
    blocks = []
    for form, column in zip(forms, cells, strict=True):
        lines = [form.name]
        for row in rows:
            token = column.get(row)
            if token is None:
                lines.append("")
            elif form is not forms[0] and row[1] == 0 and token == trained[row[0]]:
                lines.append(f"{SAME:>5}")
            else:
                lines.append(f"{token:>5} {visible(tokenizer.vocabulary.display(token))}")
        width = max(map(display_width, lines))
        blocks.append([pad(line, width) for line in lines])
    return [GAP.join(parts).rstrip() for parts in zip(*blocks, strict=True)]


def align(ids: list[int], trained: list[int]) -> dict[tuple[int, int], int]:
    """Each token of `ids` in its row of the table, by the longest common runs of tokens."""
    rows = {}
    for _, start, stop, first, last in SequenceMatcher(None, trained, ids, autojunk=False).get_opcodes():
        for n, token in enumerate(ids[first:last]):
            fits = start + n < stop
            rows[(start + n, 0) if fits else (stop - 1, n - (stop - start) + 1)] = token
    return rows
