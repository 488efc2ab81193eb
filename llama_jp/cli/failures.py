"""One sentence for each failure that a person can cause or mend."""

from __future__ import annotations

import errno
import re

# Parts of the messages of Python, torch, oneDNN, safetensors and the dynamic linker.
OUT_OF_MEMORY = re.compile(
    r"allocate memory|out of memory|not enough memory|bad_alloc|bad allocation|failed to map segment|unable to mmap|"
    r"ALLOC_FAILED|create a memory object|Storage size calculation overflowed",
    re.IGNORECASE,
)
NEEDED = re.compile(r"tried to allocate ([\d.,]+ ?(?:bytes|[KMGT]iB))", re.IGNORECASE)
OS_ERROR = re.compile(r"(?:I/O error: )?([^:]+) \(os error \d+\)")  # as Rust writes it
FULL_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG)


def describe(error: BaseException) -> str | None:
    """The sentence for an error, or None for a mistake in the program, which needs its traceback."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(text):
        return describe_memory(text)
    if type(error).__name__ == "SafetensorError":  # safetensors is imported late, so its class is not at hand
        found = OS_ERROR.search(text)
        return add_way_out(found[1].strip()) if found else text
    if isinstance(error, OSError) and error.strerror:
        file = f"{error.filename}: " if error.filename is not None else ""
        text = f"{file}{error.strerror}"
        return add_way_out(text) if error.errno in FULL_DISK else text
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not {error.encoding.upper()} text: byte {error.start} is 0x{error.object[error.start]:02x}"
    if isinstance(error, ImportError):
        return f"a library cannot be imported: {text}"
    if isinstance(error, OverflowError) or "Overflow when unpacking" in text:  # the latter is a TypeError of torch
        return f"a number is too large: {text.partition(' Exception raised')[0]}"
    if isinstance(error, ValueError | OSError):
        return text or type(error).__name__
    if isinstance(error, RuntimeError) and "CUDA" in text:
        return text.partition(" CUDA kernel errors")[0]
    return None


def shorten_words(text: str, most: int = 300) -> str:
    """Cut words that are longer than any file name, such as a number of thousands of digits."""
    return re.sub(rf"\S{{{most},}}", lambda word: f"{word[0][:50]}…", text)


def describe_memory(text: str) -> str:
    needed = NEEDED.search(text)
    size = ""
    if needed:
        number, _, unit = needed[1].partition(" ")
        size = (
            f": {int(number) / 2**30:.2f} GiB more are needed" if unit == "bytes" else f": {needed[1]} more are needed"
        )
    place = "the GPU's memory" if "CUDA" in text else "the memory"
    return f"{place} is full{size}; take a smaller model, batch or context, or a 16-bit --dtype"


def add_way_out(text: str) -> str:
    """Add the way out to the operating system's message for a full disk."""
    full = re.search("no space|quota|too large", text, re.IGNORECASE)
    return f"{text}; make room, or write to another disk" if full else text
