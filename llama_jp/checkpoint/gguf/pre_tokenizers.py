"""The pre-tokenizers of byte-level vocabularies: the rules that split a text into words before any merge.

A GGUF file names its pre-tokenizer in `tokenizer.ggml.pre`, and does not hold the rules. Reference: llama.cpp
`src/llama-vocab.cpp`, and the tokenizer.json of the models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
GPT_2 = rf"{CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"


def words_of_llama3(digits: str) -> str:
    """The regular expression of Llama 3, with another one for a group of digits."""
    marks = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    return rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}|{marks}"


@dataclass(frozen=True)
class PreTokenizer:
    """The rules of one name in `tokenizer.ggml.pre`.

    splits         regular expressions, applied one after the other to the parts of a text
    ignore_merges  whether a word that is a piece becomes this piece, whatever the merges are
    adds_bos       whether texts begin with BOS in a file without `tokenizer.ggml.add_bos_token`
    """

    splits: tuple[str, ...]
    ignore_merges: bool = False
    adds_bos: bool = False

    def to_json(self) -> dict[str, Any]:
        """The content of `pre_tokenizer` in tokenizer.json."""
        splits = [
            {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
            for regex in self.splits
        ]
        spelling = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        return {"type": "Sequence", "pretokenizers": [*splits, spelling]}


LLAMA_3 = PreTokenizer((words_of_llama3(r"\p{N}{1,3}"),), ignore_merges=True, adds_bos=True)
SINGLE_DIGITS = PreTokenizer((r"\p{N}", GPT_2))

PRE_TOKENIZERS = {
    "llama-bpe": LLAMA_3,
    "llama3": LLAMA_3,
    "llama-v3": LLAMA_3,
    "smaug-bpe": PreTokenizer(LLAMA_3.splits),
    "smollm": SINGLE_DIGITS,
    "refact": SINGLE_DIGITS,
    "gpt-2": PreTokenizer((GPT_2,)),
    "qwen2": PreTokenizer((words_of_llama3(r"\p{N}"),)),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]")),
}
