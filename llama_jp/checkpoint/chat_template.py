"""The chat template of a checkpoint: the file that holds it, and ELYZA's own for the repositories that publish none."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..text_files import read_text_file
from .gguf.header import is_gguf
from .hub import SHORT_NAMES, TEMPLATE_FILE, TEMPLATE_FOLDER
from .json_files import read_json

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
    """The default chat template of the checkpoint in a folder; None for a base model. See `find_chat_templates`.

    Raises ValueError for several templates of which none is the default.
    """
    return choose_template(find_chat_templates(folder))


def find_chat_templates(folder: Path) -> dict[str, ChatTemplate]:
    """The chat templates of the checkpoint in a folder, by name; nothing for a base model.

    The order of precedence is chat_template.jinja and additional_chat_templates/NAME.jinja, `chat_template` in
    tokenizer_config.json, and the repository's name. The first two are transformers': files count alone, without
    tokenizer_config.json. A template that is alone has the name "default".

    Raises ValueError for a template that is not text, and for a list that is not made of names and templates.
    """
    files = [folder / TEMPLATE_FILE] if (folder / TEMPLATE_FILE).is_file() else []
    files += sorted((folder / TEMPLATE_FOLDER).glob("*.jinja"))
    if files:
        names = ["default" if file.parent == folder else file.stem for file in files]
        return {name: read_template(file, folder) for name, file in zip(names, files, strict=True)}
    file = folder / "tokenizer_config.json"
    value = read_json(file, missing_ok=True).get("chat_template")
    if isinstance(value, list):
        if not all(isinstance(each, dict) and {"name", "template"} <= each.keys() for each in value):
            raise ValueError(f"{file}: chat_template is a list, but not of objects with a name and a template")
        value = {str(each["name"]): each["template"] for each in value}
    named = value if isinstance(value, dict) else {"default": value}
    templates = {name: template for name, template in named.items() if template is not None}
    for template in templates.values():
        if not isinstance(template, str):
            raise ValueError(f"{file}: chat_template is a {type(template).__name__} where text was expected")
    repository = published_repository(folder)
    if not templates and repository in INSTRUCT_REPOSITORIES:
        return {"default": elyza_template(f"the name {repository}")}
    origin = folder.name if folder.is_file() else file.name  # a GGUF file has the template in its keys
    return {name: ChatTemplate(template, file, origin) for name, template in templates.items()}


def choose_template(
    templates: Mapping[str, ChatTemplate], name: str | None = None, with_tools: bool = False
) -> ChatTemplate | None:
    """The template of a name. Without one, as in transformers: "tool_use" if there are tools, else "default".

    The result is None if there is no template at all. Raises ValueError, with the names, for a name that is not there
    and for several templates of which none is the default.
    """
    if name is None and (not templates or "default" in templates or (with_tools and "tool_use" in templates)):
        return templates.get("tool_use" if with_tools and "tool_use" in templates else "default")
    if name is not None and name in templates:
        return templates[name]
    known = ", ".join(templates)
    if name is not None:
        raise ValueError(f"the checkpoint has no chat template {name!r}; it has {known or 'none'}")
    file = next(iter(templates.values())).file
    raise ValueError(f'{file}: chat_template names {known}, but none of them is the default; name one "default"')


def read_template(file: Path, folder: Path) -> ChatTemplate:
    """The chat template in a file. Raises ValueError for a file that is not UTF-8 text."""
    return ChatTemplate(read_text_file(file), file, file.relative_to(folder).as_posix())


def published_repository(folder: Path) -> str | None:
    """The repository of ELYZA's whose files a folder holds, by the hub's name; None for any other folder.

    A folder of the hub's cache lies in `models--elyza--NAME`. A clone or download has the name of the repository, and a
    GGUF file the same with the kind of its weights: NAME-q4_K_M.gguf.
    """
    for path in (folder, folder.resolve()):  # the folder behind "." or a link
        file_name = path.name if is_gguf(path) else ""
        for repository in (*SHORT_NAMES.values(), *INSTRUCT_REPOSITORIES):
            owner, name = repository.split("/")
            if re.fullmatch(rf"{name}([-.](I?Q\d\w*|B?F\d\d))?(-\d+-of-\d+)?\.gguf", file_name, re.IGNORECASE):
                return repository
            if path.name == name or f"models--{owner}--{name}" in path.parts:
                return repository
    return None


def carry_chat_template(source: Path, target: Path) -> None:
    """Write the template that the name of the source decides, so that a copy in another folder keeps it.

    The templates in the source's files are copied with them.
    """
    if published_repository(source) in INSTRUCT_REPOSITORIES and not find_chat_templates(target):
        shutil.copyfile(ELYZA_FILE, target / TEMPLATE_FILE)
