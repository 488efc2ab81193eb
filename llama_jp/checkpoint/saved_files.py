"""The files of a save beside its weights: tokenizer files to copy, and files of an earlier save to remove."""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from .chat_template import carry_chat_template
from .gguf.header import is_gguf
from .gguf.small_files import derived_tokenizer
from .hub import TEMPLATE_FOLDER, tokenizer_files, tokenizer_home

# The files that decide which model a folder is, for llama_jp and for transformers, as paths in the folder.
MODEL_FILE = re.compile(
    r"config\.json|generation_config\.json|certificate\.json|quantize_config\.json|quant_config\.json"
    r"|(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
)
ADAPTER_FILE = re.compile(r"adapter_config\.json|adapter_model\.(safetensors|bin)")
# The files that decide the tokenizer and its chat templates. The last line has those of other tokenizers, which
# transformers finds as well.
TOKENIZER_FILE = re.compile(
    r"tokenizer\.json|tokenizer\.model|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json"
    rf"|chat_template\.jinja|{TEMPLATE_FOLDER}/[^/]+\.jinja"
    r"|tokenizer\.model\..+|tekken\.json|tiktoken\.model|vocab\.(json|txt)|merges\.txt"
)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer files of a checkpoint, byte for byte, into another folder, its chat templates with them.

    Those of a GGUF file are derived from its keys. The tokenizer files of an earlier save go. A copy into the same
    folder changes nothing.
    """
    source = tokenizer_home(source)
    if target.exists() and target.samefile(source):
        return
    if is_gguf(source):
        target.mkdir(parents=True, exist_ok=True)
        contents = {target / name: content for name, content in derived_tokenizer(source).items()}
        for file, content in contents.items():
            file.unlink(missing_ok=True)  # a link would be written through
            file.write_bytes(content)
        remove_stale(target, [file.relative_to(target) for file in contents])
        carry_chat_template(source, target)
        return
    names = {file.relative_to(source) for file in tokenizer_files(source)}
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.unlink(missing_ok=True)  # a link would be written through
        shutil.copyfile(source / name, copy)
    remove_stale(target, names)
    carry_chat_template(source, target)


def remove_stale(folder: Path, new_files: Collection[Path]) -> None:
    """Remove the files of an earlier save that would make the folder another model than the one that is saved.

    new_files  the files of this save, as paths in the folder

    A save of a model, an adapter or a tokenizer replaces the files of that kind. When a model without a
    tokenizer is saved, the tokenizer files stay, because its tokenizer may have been saved before it. All other files
    stay.
    """
    for kind in (MODEL_FILE, ADAPTER_FILE, TOKENIZER_FILE):
        if not any(kind.fullmatch(name.as_posix()) for name in new_files):
            continue
        for file in [*folder.iterdir(), *folder.glob(f"{TEMPLATE_FOLDER}/*")]:
            name = file.relative_to(folder)
            if name not in new_files and kind.fullmatch(name.as_posix()):
                file.unlink()
