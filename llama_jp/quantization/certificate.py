"""certificate.json: how far a quantised model is from its original, on a text that is named, so that anybody can check.

kl_divergence      mean over positions of sum p log(p / p'), p the original's next-token probabilities; nats
top1_agreement     share of positions at which both have the same likeliest token
perplexity         of the text, for each of the two
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ..checkpoint.config import dtype_name, read_config, read_scheme
from ..checkpoint.hub import TOKENIZER_FILES, find_checkpoint
from ..checkpoint.json_files import read_json
from ..checkpoint.tensors import weight_files
from ..evaluation.divergence import measure_divergence
from ..evaluation.documents import WINDOW, Text, read_text
from ..evaluation.layerwise import choose_arithmetic, logits_by_layer
from ..text.tokenizer import Tokenizer
from ..version import __version__

FILE = "certificate.json"

FORMAT = 1

NUMBERS = ("kl_divergence", "top1_agreement", "perplexity.original", "perplexity.quantized")

# Another CPU, or another number of threads, adds in another order. What that may change: relative, then absolute.
TOLERANCES = {
    "float32": {"kl_divergence": (0.01, 1e-7), "top1_agreement": (0, 0.001), "perplexity": (0.0001, 0)},
    "bfloat16": {"kl_divergence": (0.1, 0.0005), "top1_agreement": (0, 0.01), "perplexity": (0.005, 0)},
}


def certify(folder: Path, original: Path, text: Text, source: str | None, dtype: torch.dtype | None = None) -> dict:
    """The certificate of the quantised checkpoint in `folder`, measured. `source`: where anybody gets the original."""
    dtype = dtype or choose_arithmetic(read_config(original))
    first = logits_by_layer(original, text.windows, dtype, "the original")
    second = logits_by_layer(folder, text.windows, dtype, "the quantised weights")
    return {
        "format": FORMAT,
        "quantization": read_scheme(folder).to_json(),
        "text": {
            "file": text.file,
            "sha256": text.sha256,
            "tokens": text.tokens,
            "windows": len(text.windows),
            "window_length": WINDOW,
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
        "result": measure_divergence(first, second, text),
        "original": {"source": source, "sha256": checksums(original)},
        "sha256": checksums(folder),
    }


def checksums(folder: Path) -> dict[str, str]:
    """sha256 of what a checkpoint consists of: config, weights, tokenizer."""
    small = [folder / name for name in ("config.json", *TOKENIZER_FILES)]
    files = [file for file in small if file.is_file()] + weight_files(folder)
    return {file.name: sha256(file) for file in sorted(files)}


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


@dataclass
class Verdict:
    """What measuring again has shown. `equal`: None where there was nothing to compare with (another text)."""

    certificate: dict  # as it is written
    measured: dict  # as measured now, in the same form
    equal: bool | None
    exactly: bool  # to the last digit
    differences: list[str]


def verify(
    folder: str | Path,
    against: str | Path | None = None,
    text: str | Path | None = None,
    revision: str | None = None,
) -> Verdict:
    """Measure a quantised checkpoint again, as its certificate says it was measured, and compare.

    against   the original; by default the one that the certificate names, where it is a short name or on the hub
    text      a file; another one than the certificate's is measured, and there is nothing to compare with

    Raises ValueError where a file of either checkpoint is not the one that the certificate is about.
    """
    folder = find_checkpoint(folder)
    written = read_certificate(folder)
    source = against or written["original"]["source"]
    if source is None:
        raise ValueError(f"{folder / FILE} does not say where the original is to be had; name it with --against")
    original = find_checkpoint(source, revision)
    compare_checksums(written["sha256"], folder)
    compare_checksums(written["original"]["sha256"], original)

    read = read_text(text or written["text"]["file"], Tokenizer.from_pretrained(folder), read_config(folder))
    same_text = read.sha256 == written["text"]["sha256"]
    if text is None and not same_text:
        raise ValueError(f"{read.file} is not as it was when the certificate was made; give that one with --text")
    dtype = getattr(torch, written["arithmetic"]["dtype"])
    measured = certify(folder, original, read, written["original"]["source"], dtype)
    if not same_text:
        return Verdict(written, measured, None, False, [])
    differences = list(compare_results(written, measured))
    return Verdict(written, measured, not differences, written["result"] == measured["result"], differences)


def read_certificate(folder: Path) -> dict:
    file = folder / FILE
    if read_scheme(folder) is None:
        raise ValueError(f"{folder} is not quantised, so there is nothing to verify")
    if not file.is_file():
        raise FileNotFoundError(
            f"there is no {FILE} in {folder}: it was quantised without a tokenizer, or changed since"
        )
    certificate = read_json(file)
    if certificate.get("format") != FORMAT:
        raise ValueError(f"{file} has the format {certificate.get('format')!r}; supported is {FORMAT}")
    needed = ["text.file", "text.sha256", "original.source", "original.sha256", "sha256", "arithmetic.dtype"]
    for path in needed + [f"result.{name}" for name in NUMBERS]:
        try:
            value = look_up(certificate, path)
        except (KeyError, TypeError):
            raise ValueError(f"{file} is not complete: it has no {path}") from None
        if path.startswith("result.") and not isinstance(value, int | float):
            raise ValueError(f"{file} has {value!r} for {path}, where a number was expected")
    if (dtype := certificate["arithmetic"]["dtype"]) not in TOLERANCES:
        raise ValueError(f"{file} has the dtype {dtype!r}; it can be {', '.join(TOLERANCES)}")
    return certificate


def look_up(content: dict, path: str) -> object:
    """look_up({"a": {"b": 1}}, "a.b") -> 1"""
    for key in path.split("."):
        content = content[key]
    return content


def compare_checksums(expected: dict[str, str], folder: Path) -> None:
    found = checksums(folder)
    names = [name for name in sorted(expected.keys() | found.keys()) if expected.get(name) != found.get(name)]
    if names:
        raise ValueError(f"{', '.join(names)} in {folder} is not what the certificate is about (another sha256)")


def compare_results(written: dict, measured: dict) -> Iterator[str]:
    """In words, each number that is further off than another CPU explains."""
    tolerances = TOLERANCES[written["arithmetic"]["dtype"]]
    for name in NUMBERS:
        then, now = (look_up(certificate["result"], name) for certificate in (written, measured))
        relative, absolute = tolerances[name.split(".")[0]]
        if not abs(now - then) <= relative * abs(then) + absolute:  # also where one is NaN
            yield f"{name} is {now:.6g}, the certificate says {then:.6g}"
