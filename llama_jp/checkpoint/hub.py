"""Find the folder of a checkpoint: the bundled demo, a local folder, or a repository on the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from .json_files import read_json

SHORT_NAMES = {
    "7b": "elyza/ELYZA-japanese-Llama-2-7b",
    "7b-instruct": "elyza/ELYZA-japanese-Llama-2-7b-instruct",
    "7b-fast": "elyza/ELYZA-japanese-Llama-2-7b-fast",
    "7b-fast-instruct": "elyza/ELYZA-japanese-Llama-2-7b-fast-instruct",
}

# In order of preference, which is transformers'.
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)

TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def find_checkpoint(source: str | Path, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of a checkpoint. A hub repository is downloaded first.

    source    a folder, "demo", a key of SHORT_NAMES, or "owner/name" on the hub
    revision  a branch, tag or commit of a hub repository; None is its main branch
    weights   False downloads the small files only

    A download takes safetensors if the revision has them, and `.bin` files otherwise. A local folder takes precedence
    over a hub repository of the same name; a folder with a short name counts only if it holds a config.json.

    Raises FileNotFoundError for a source that does not exist or cannot be downloaded.
    """
    folder, short_names = Path(source).expanduser(), ["demo", *SHORT_NAMES]
    if folder.is_dir() and (str(source) not in short_names or (folder / "config.json").is_file()):
        return folder
    if str(source) == "demo":
        return demo_folder()
    name = SHORT_NAMES.get(str(source), str(source))
    if isinstance(source, Path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        raise FileNotFoundError(
            f"{source} is no folder, no hub repository (owner/name) and no short name ({', '.join(short_names)})"
        )
    return download(name, revision, weights)


def demo_folder() -> Path:
    """The folder of the bundled model: inside an installed package, or beside the package in a clone."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "weights" / "demo", package.parent / "weights" / "demo"):
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        "the bundled model weights/demo is not installed; name a folder or a hub repository instead"
    )


def download(repository: str, revision: str | None, weights: bool) -> Path:
    """Download the needed files of a hub repository into the hub's cache, and return their folder.

    The small files come first, because an index among them lists the weight files. Without a network, the cached files
    are used. The HF_* environment variables apply.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    at = f"{repository} at revision {revision}" if revision else repository
    patterns = ["config.json", "generation_config.json", "certificate.json", "*.index.json", *TOKENIZER_FILES]
    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        for weight_file in WEIGHT_FILES if weights else ():
            if weight_file.endswith(".index.json"):
                if not (folder / weight_file).is_file():
                    continue
                patterns = sorted(set(read_json(folder / weight_file).get("weight_map", {}).values()))
            else:
                patterns = [weight_file]
            if not all((folder / name).is_file() for name in patterns):
                snapshot_download(repository, revision=revision, allow_patterns=patterns)
            if patterns and (folder / patterns[0]).is_file():
                break
        return folder
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{at} is not in the local cache and the hub cannot be reached (or HF_HUB_OFFLINE is set); "
            "download it once with a network, or name a folder"
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"the hub refused {at}: {' '.join(str(error).split())}") from error
