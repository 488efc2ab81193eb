"""certificate.json: the distance of a quantised model from its original on a named text.

The file names every setting of the measurement, so anybody can repeat it with `verify`.

kl_divergence      mean over tokens of sum p log(p / p'), p from the original and p' from the quantised model; nats
top1_agreement     share of tokens for which both models have the same most probable token
perplexity         of the text, for each of the two models
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

import torch

from ..checkpoint.config import config_file, dtype_name, read_config, read_scheme
from ..checkpoint.hub import find_checkpoint, tokenizer_files, tokenizer_home
from ..checkpoint.json_files import read_json
from ..checkpoint.layouts import weight_files
from ..evaluation.divergence import measure_divergence
from ..evaluation.documents import WINDOW_LENGTH, Text, read_text
from ..evaluation.layerwise import choose_compute_dtype, logits_by_layer
from ..text.tokenizer import Tokenizer
from ..version import __version__

CERTIFICATE_FILE = "certificate.json"

FORMAT = 1  # file format version; increment on incompatible changes


class Perplexities(TypedDict):
    original: float
    quantized: float


class Result(TypedDict):
    """The measured numbers; see the top of this file."""

    kl_divergence: float
    top1_agreement: float
    perplexity: Perplexities


class TextEntry(TypedDict):
    """The text of the measurement."""

    file: str  # without folders
    sha256: str
    tokens: int  # predicted ones
    windows: int
    window_length: int


class Arithmetic(TypedDict):
    """The settings that decide the order of rounding."""

    dtype: str
    products: str
    attention: str
    device: str
    threads: int
    cpu_capability: str
    torch: str
    llama_jp: str


class OriginalEntry(TypedDict):
    """The checkpoint that was quantised."""

    source: str | None  # short name or hub repository; None: a local folder, whose path stays private
    sha256: dict[str, str]


class Certificate(TypedDict):
    """The content of certificate.json. The keys are the file format."""

    format: int
    quantization: dict[str, Any]  # `Scheme.to_json`
    text: TextEntry
    arithmetic: Arithmetic
    result: Result
    original: OriginalEntry
    sha256: dict[str, str]  # of each file of the quantised checkpoint


class Tolerance(TypedDict):
    """For each number of a `Result`: the allowed relative difference, then the absolute one; both are added."""

    kl_divergence: tuple[float, float]
    top1_agreement: tuple[float, float]
    perplexity: tuple[float, float]


# Another CPU or number of threads adds in another order. These differences are then allowed.
TOLERANCES: dict[str, Tolerance] = {
    "float32": {"kl_divergence": (0.01, 1e-7), "top1_agreement": (0, 0.001), "perplexity": (0.0001, 0)},
    "bfloat16": {"kl_divergence": (0.1, 0.0005), "top1_agreement": (0, 0.01), "perplexity": (0.005, 0)},
}


def certify(
    folder: Path, original: Path, text: Text, source: str | None, dtype: torch.dtype | None = None
) -> Certificate:
    """Measure a quantised checkpoint and make its certificate.

    folder    of the quantised checkpoint
    original  folder of the checkpoint that was quantised
    source    short name or hub repository of the original, or None
    dtype     of the computation; None: `choose_compute_dtype` decides
    """
    scheme = read_scheme(folder)
    if scheme is None:
        raise ValueError(f"{folder} is not quantised, so there is nothing to certify")
    dtype = dtype or choose_compute_dtype(read_config(original))
    original_logits = logits_by_layer(original, text.windows, dtype, "the original")
    quantized_logits = logits_by_layer(folder, text.windows, dtype, "the quantised model")
    divergence = measure_divergence(original_logits, quantized_logits, text)
    return {
        "format": FORMAT,
        "quantization": scheme.to_json(),
        "text": {
            "file": text.file,
            "sha256": text.sha256,
            "tokens": text.scored_tokens,
            "windows": len(text.windows),
            "window_length": WINDOW_LENGTH,
        },
        "arithmetic": {
            "dtype": dtype_name(dtype),
            "products": "the dequantised weight, through F.linear",
            "attention": "sdpa",
            "device": "cpu",
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "torch": torch.__version__,
            "llama_jp": __version__,
        },
        "result": {
            "kl_divergence": divergence.kl_divergence,
            "top1_agreement": divergence.top1_agreement,
            "perplexity": {"original": divergence.reference_perplexity, "quantized": divergence.perplexity},
        },
        "original": {"source": source, "sha256": checksums(original)},
        "sha256": checksums(folder),
    }


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of every file of a checkpoint: config, weights, tokenizer. Keys are paths in its folder."""
    if folder.is_file():  # GGUF
        return {file.name: sha256(file) for file in weight_files(folder)}
    files = [config_file(folder), *tokenizer_files(tokenizer_home(folder)), *weight_files(folder)]
    # Meta's tokenizer may lie above the folder: "../tokenizer.model"
    return {Path(os.path.relpath(file, folder)).as_posix(): sha256(file) for file in sorted(files)}


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


@dataclass
class Verdict:
    """The comparison of a certificate with a new measurement."""

    certificate: Certificate  # from the file
    measured: Certificate  # the new measurement
    equal: bool | None  # every number within the tolerance; None: another text was measured, so there is no comparison
    exactly: bool  # every number equal to the last digit
    differences: list[str]  # a sentence for each number outside the tolerance


def verify(
    folder: str | Path,
    against: str | Path | None = None,
    text: str | Path | None = None,
    revision: str | None = None,
) -> Verdict:
    """Measure a quantised checkpoint again with the settings of its certificate, and compare the numbers.

    folder    of the quantised checkpoint
    against   the original; None: the certificate's, if it is a short name or a hub repository
    text      a text file; None: the certificate's. With another text there is no comparison
    revision  branch, tag or commit of the original on the hub

    Raises ValueError when a file of either checkpoint has another checksum than in the certificate.
    """
    folder = find_checkpoint(folder)
    written = read_certificate(folder)
    source = against or written["original"]["source"]
    if source is None:
        raise ValueError(f"{folder / CERTIFICATE_FILE} does not name the source of the original; use --against")
    original = find_checkpoint(source, revision)
    check_checksums(written["sha256"], folder)
    check_checksums(written["original"]["sha256"], original)

    name = text or written["text"]["file"]
    measured_text = read_text(name, Tokenizer.from_pretrained(folder), read_config(folder))
    same_text = measured_text.sha256 == written["text"]["sha256"]
    if text is None and not same_text:
        raise ValueError(f"{measured_text.file} has changed since the certificate; name the original text with --text")
    dtype = getattr(torch, written["arithmetic"]["dtype"])
    measured = certify(folder, original, measured_text, written["original"]["source"], dtype)
    if not same_text:
        return Verdict(written, measured, None, False, [])
    differences = list(compare_results(written, measured))
    return Verdict(written, measured, not differences, written["result"] == measured["result"], differences)


def read_certificate(folder: Path) -> Certificate:
    """Read and check the certificate of a quantised checkpoint. ValueError names a missing key or a wrong value."""
    file = folder / CERTIFICATE_FILE
    if read_scheme(folder) is None:
        raise ValueError(f"{folder} is not quantised, so there is nothing to verify")
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {CERTIFICATE_FILE} in {folder}: it was quantised without a tokenizer or saved after a change"
        )
    content = read_json(file)
    if content.get("format") != FORMAT:
        raise ValueError(f"{file} has format {content.get('format')!r}; supported is {FORMAT}")
    needed = ["text.file", "text.sha256", "original.source", "original.sha256", "sha256", "arithmetic.dtype"]
    numbers = ["kl_divergence", "top1_agreement", "perplexity.original", "perplexity.quantized"]
    for path in needed + [f"result.{name}" for name in numbers]:
        try:
            value = look_up(content, path)
        except (KeyError, TypeError):
            raise ValueError(f"{file} is incomplete: it has no {path}") from None
        if path.startswith("result.") and not isinstance(value, int | float):
            raise ValueError(f"{file} has {value!r} for {path}, but a number is needed")
    if (dtype := content["arithmetic"]["dtype"]) not in TOLERANCES:
        raise ValueError(f"{file} has the dtype {dtype!r}; supported are {', '.join(TOLERANCES)}")
    return cast(Certificate, content)  # every key that `verify` uses is checked above


def look_up(content: dict[str, Any], path: str) -> Any:
    """The value at a dotted path: look_up({"a": {"b": 1}}, "a.b") -> 1. KeyError or TypeError when it is missing."""
    value: Any = content
    for key in path.split("."):
        value = value[key]
    return value


def check_checksums(expected: dict[str, str], folder: Path) -> None:
    """ValueError names the files of a checkpoint whose sha256 is not the expected one."""
    found = checksums(folder)
    names = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if names:
        raise ValueError(
            f"the certificate has another sha256 for {', '.join(names)} in {folder}; use the certified files"
        )


def compare_results(written: Certificate, measured: Certificate) -> Iterator[str]:
    """A sentence for each number whose difference is larger than the tolerance."""
    then, now, tolerance = written["result"], measured["result"], TOLERANCES[written["arithmetic"]["dtype"]]
    rows = [
        ("kl_divergence", then["kl_divergence"], now["kl_divergence"], tolerance["kl_divergence"]),
        ("top1_agreement", then["top1_agreement"], now["top1_agreement"], tolerance["top1_agreement"]),
    ]
    for model in ("original", "quantized"):
        rows.append(
            (f"perplexity.{model}", then["perplexity"][model], now["perplexity"][model], tolerance["perplexity"])
        )
    for name, certified, found, (relative, absolute) in rows:
        if not abs(found - certified) <= relative * abs(certified) + absolute:  # "not <=" is true for NaN as well
            yield f"{name} is {found:.6g}, but the certificate has {certified:.6g}"
