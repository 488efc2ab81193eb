"""Find a checkpoint: the bundled demo, a local folder or GGUF file, or a repository on the Hugging Face hub."""

from __future__ import annotations

import contextlib
import difflib
import re
from pathlib import Path

from .gguf.header import is_gguf
from .json_files import read_json
from .meta import is_meta
from .packed_weights import SIDE_FILES, packing_config
from .recognise import FILE_SUFFIXES, check_file, check_folder, describe_address, describe_file, shorten, with_name

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

GGUF_ON_HUB = re.compile(r"([\w-][\w.-]*/[\w.-]+)/(.+\.gguf)")  # owner/name/FILE.gguf

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"  # NAME.jinja for each template that is not the default

# Patterns of the files that a tokenizer and its chat templates consist of.
TOKENIZER_FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    TEMPLATE_FILE,
    f"{TEMPLATE_FOLDER}/*.jinja",
)


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer files in the folder of a checkpoint; of a GGUF file, the file itself."""
    if is_gguf(folder):
        return [folder]
    return [file for pattern in TOKENIZER_FILES for file in sorted(folder.glob(pattern)) if file.is_file()]


def tokenizer_home(folder: Path) -> Path:
    """The folder of a checkpoint's tokenizer: its own, or the one above if Meta's layout has tokenizer.model there."""
    has_own = any((folder / name).is_file() for name in ("tokenizer.model", "tokenizer.json"))
    above = folder.resolve().parent
    return above if is_meta(folder) and not has_own and (above / "tokenizer.model").is_file() else folder


def find_checkpoint(source: str | Path, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of a checkpoint, or its GGUF file. A hub repository is downloaded first.

    source    a folder, a GGUF file, "demo", a key of SHORT_NAMES, or "owner/name" or "owner/name/FILE.gguf" on the hub
    revision  a branch, tag or commit of a hub repository; None is its main branch
    weights   False downloads the small files only; a GGUF file is one file, and is downloaded whole

    A download takes safetensors if the revision has them, and `.bin` files otherwise. A local folder takes precedence
    over a hub repository of the same name; a folder with a short name counts only if it holds a config.json.

    Raises FileNotFoundError for a source that does not exist or cannot be downloaded, PermissionError for a folder that
    cannot be read, and ValueError for a revision of a folder, which has none.
    """
    name, short_names = str(source), ["demo", *SHORT_NAMES]
    folder = local_path(source)
    if folder.is_dir() and (name not in short_names or (folder / "config.json").is_file()):
        check_folder(folder)
    elif is_gguf(folder):
        check_file(folder)
    elif name == "demo":
        folder = demo_folder()
    elif (match := GGUF_ON_HUB.fullmatch(name)) and not folder.parent.is_dir():
        return download_gguf(match[1], match[2], revision)
    else:
        check_name(source)
        return download(SHORT_NAMES.get(name, name), revision, weights)
    if revision is not None:
        kind = "file" if folder.is_file() else "folder"
        raise ValueError(
            f"{source} is the {kind} {folder}, and only hub repositories have revisions; drop {revision!r}"
        )
    return folder


def local_path(source: str | Path) -> Path:
    """The source as a path, with the home folder for "~" and a name for ".". FileNotFoundError for an empty name."""
    if not str(source):
        raise FileNotFoundError("the name of the model is empty; name a folder, a hub repository, or demo")
    try:
        return with_name(Path(source).expanduser())
    except RuntimeError as error:  # "~name" of an unknown user
        raise FileNotFoundError(f"{source}: {error}") from None


def check_name(source: str | Path) -> None:
    """Raise FileNotFoundError, in one sentence, for a source that can be no hub repository and no short name."""
    name, path = str(source), local_path(source)
    if isinstance(source, str) and ("://" in name or name.startswith(("git@", "huggingface.co/", "hf.co/"))):
        raise FileNotFoundError(describe_address(name))
    if name.startswith(("llama.cpp:", "checkout:")):
        raise FileNotFoundError(
            f"only `llama-jp parity` takes {source}; name a folder, a GGUF file or a hub repository"
        )
    if path.is_file():
        raise FileNotFoundError(describe_file(path))
    if isinstance(source, str) and name in SHORT_NAMES:
        return
    is_repository = isinstance(source, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith(".")
    if path.suffix.lower() in FILE_SUFFIXES:
        raise FileNotFoundError(f"there is no file {source}{suggest(source)}")
    if not is_repository:
        short_names = ", ".join(["demo", *SHORT_NAMES])
        raise FileNotFoundError(
            f"{source} is no folder, no hub repository (owner/name) and no short name ({short_names}){suggest(source)}"
        )


def suggest(source: str | Path) -> str:
    """ "; did you mean …?" for a name that resembles a known name or a folder or GGUF file beside it, or ""."""
    path = local_path(source)
    name = str(path)  # "./my-model/" is my-model
    known = ["demo", *SHORT_NAMES, *SHORT_NAMES.values()]
    names = {key.lower(): key for key in known} | {key.split("/")[-1].lower(): key for key in SHORT_NAMES.values()}
    with contextlib.suppress(OSError):
        beside = (entry for entry in path.parent.iterdir() if entry.is_dir() or entry.suffix.lower() == ".gguf")
        names |= {str(entry).lower(): str(entry) for entry in beside}
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.8)
    return f"; did you mean {names[close[0]]}?" if close and name not in known else ""


def demo_folder() -> Path:
    """The folder of the bundled model: inside an installed package, or beside the package in a clone."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "weights" / "demo", package.parent / "weights" / "demo"):
        if (folder / "config.json").is_file():
            return folder
    raise FileNotFoundError(
        "the bundled model weights/demo is not installed; name a folder or a hub repository instead"
    )


def other_weight_files(folder: Path) -> list[str]:
    """Patterns of the weight files of Meta's layout, or of GPTQ's and AWQ's libraries, from the small files beside."""
    if not (folder / "config.json").is_file() and (folder / "params.json").is_file():
        return ["consolidated*"]
    return ["*.safetensors"] if packing_config(folder)[0] else []


def download(repository: str, revision: str | None, weights: bool) -> Path:
    """Download the needed files of a hub repository into the hub's cache, and return their folder.

    The small files come first, because an index among them lists the weight files. Without a network, the cached files
    are used. The HF_* environment variables apply.
    """
    # With adapter_config.json, `describe_folder` recognises an adapter; the other three describe Meta's, GPTQ's and
    # AWQ's weights.
    patterns = ["config.json", "generation_config.json", "certificate.json", "*.index.json", *TOKENIZER_FILES]
    patterns += ["adapter_config.json", "params.json", *SIDE_FILES]
    folder = fetch(repository, revision, patterns)
    if not any((folder / name).is_file() for name in ("config.json", "params.json", "adapter_config.json")):
        refuse_gguf_only(repository, revision, folder)
    for weight_file in WEIGHT_FILES if weights else ():
        if weight_file.endswith(".index.json"):
            if not (folder / weight_file).is_file():
                continue
            patterns = sorted(set(read_json(folder / weight_file).get("weight_map", {}).values()))
        else:
            patterns = [weight_file]
        if not all((folder / name).is_file() for name in patterns):
            fetch(repository, revision, patterns)
        if patterns and (folder / patterns[0]).is_file():
            break
    else:
        if weights and (patterns := other_weight_files(folder)):
            fetch(repository, revision, patterns)
    return folder


def refuse_gguf_only(repository: str, revision: str | None, folder: Path) -> None:
    """Raise FileNotFoundError, with the names to use, for a repository of GGUF files without a config.json."""
    from huggingface_hub import list_repo_files
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        names = list_repo_files(repository, revision=revision)
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        names = [file.relative_to(folder).as_posix() for file in folder.rglob("*.gguf")]  # those in the local cache
    later_part = re.compile(r"-(?!00001)\d{5}-of-\d{5}\.gguf$")
    if found := sorted(name for name in names if name.endswith(".gguf") and not later_part.search(name)):
        raise FileNotFoundError(
            f"{repository} on the hub holds GGUF files: name one of them, {repository}/{found[0]}"
            + (f"; the others are {shorten(found[1:], 20)}" if found[1:] else "")
        )


def download_gguf(repository: str, name: str, revision: str | None) -> Path:
    """Download a GGUF file of a hub repository, all parts of a split one, and return its path."""
    every_part = re.sub(r"-\d{5}-of-", "-?????-of-", name)
    try:
        file = fetch(repository, revision, [every_part]) / name
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no file {repository}/{name}, and on the hub: {error}") from error
    if not file.is_file():
        raise FileNotFoundError(f"there is no {name} in {repository} on the hub; see the names at its Files tab")
    return file


def fetch(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """Download the files of a hub repository that match some pattern, and return their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    at = f"{repository} at revision {revision}" if revision else repository
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
    except LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{at} is not in the local cache and the hub cannot be reached (or HF_HUB_OFFLINE is set); "
            f"download it once with a network, or name a folder{suggest(repository)}"
        ) from error
    except HfHubHTTPError as error:
        raise FileNotFoundError(f"the hub refused {at}: {' '.join(str(error).split())}{suggest(repository)}") from error
