"""The chat template of a checkpoint: the file that holds it, and ELYZA's own for the repositories that publish none."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ..text_files import read_text_file
from .hub import SHORT_NAMES
from .json_files import read_json

TEMPLATE_FILE = "chat_template.jinja"
ELYZA_FILE = Path(__file__).with_name("elyza.jinja")

# Instruct models that are published without a chat template; their cards show one and the same prompt.
INSTRUCT_REPOSITORIES = (
    *(name for name in SHORT_NAMES.values() if name.endswith("-instruct")),
    "elyza/ELYZA-japanese-Llama-2-13b-instruct",
)


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template: a program in Jinja that writes a conversation as one text.

    text    the program
    file    the file that holds it, for error messages
    origin  where it was found, for people: the name of that file, or a reason
    """

    text: str
    file: Path
    origin: str

    @property
    def is_elyza(self) -> bool:
        """Whether this is ELYZA's instruction template."""
        return self.text.strip() == elyza_template().text.strip()

    def __str__(self) -> str:
        name = "ELYZA's instruction template" if self.is_elyza else "the checkpoint's chat template"
        return f"{name} (from {self.origin})"


def elyza_template(origin: str = "llama_jp, because the checkpoint has none") -> ChatTemplate:
    """ELYZA's instruction template, as llama_jp contains it."""
    return ChatTemplate(ELYZA_FILE.read_text(encoding="utf-8"), ELYZA_FILE, origin)


def find_chat_template(folder: Path) -> ChatTemplate | None:
    """The chat template of the checkpoint in a folder; None for a base model.

    The order of precedence is chat_template.jinja, `chat_template` in tokenizer_config.json, and the repository's name.
    The first two are transformers'. Of several named templates, the one with the name "default" counts.

    Raises ValueError for a template that is not text, and for several of which none is the default.
    """
    file = folder / TEMPLATE_FILE
    if file.is_file():
        return ChatTemplate(read_text_file(file), file, file.name)
    file = folder / "tokenizer_config.json"
    value = read_json(file, missing_ok=True).get("chat_template")
    if isinstance(value, list):
        if not all(isinstance(each, dict) and {"name", "template"} <= each.keys() for each in value):
            raise ValueError(f"{file}: chat_template is a list, but not of objects with a name and a template")
        value = {each["name"]: each["template"] for each in value}
    if isinstance(value, dict):
        if "default" not in value:
            raise ValueError(
                f"{file}: chat_template names {', '.join(map(str, value))}, but none of them is the default; "
                'name one "default"'
            )
        value = value["default"]
    if isinstance(value, str):
        return ChatTemplate(value, file, file.name)
    if value is not None:
        raise ValueError(f"{file}: chat_template is a {type(value).__name__} where text was expected")
    repository = published_repository(folder)
    return elyza_template(f"the name {repository}") if repository in INSTRUCT_REPOSITORIES else None


def published_repository(folder: Path) -> str | None:
    """The repository of ELYZA's whose files a folder holds, by the hub's name; None for any other folder.

    A folder of the hub's cache lies in `models--elyza--NAME`. A clone or download has the name of the repository.
    """
    for path in (folder, folder.resolve()):  # the folder behind "." or a link
        for repository in (*SHORT_NAMES.values(), *INSTRUCT_REPOSITORIES):
            owner, name = repository.split("/")
            if path.name == name or f"models--{owner}--{name}" in path.parts:
                return repository
    return None


def carry_chat_template(source: Path, target: Path) -> None:
    """Write the template that the name of the source decides, so that a copy in another folder keeps it.

    A template in the source's files is copied with them.
    """
    present = (target / TEMPLATE_FILE).is_file() or "chat_template" in read_json(
        target / "tokenizer_config.json", missing_ok=True
    )
    if not present and published_repository(source) in INSTRUCT_REPOSITORIES:
        shutil.copyfile(ELYZA_FILE, target / TEMPLATE_FILE)
