"""Byte-level BPE tokenizers, trained when a test needs them, in the file formats of Llama 3 and of SmolLM2."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from helpers.tokenizer_files import TEXT, added_token, write

# From the tokenizer.json of meta-llama/Meta-Llama-3-8B
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPLIT = {"type": "Split", "pattern": {"Regex": LLAMA_3}, "behavior": "Isolated", "invert": False}
PRE_TOKENIZERS = {
    "llama-bpe": [SPLIT, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}],
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    ],
}
SPECIAL = {
    "llama-bpe": ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
    "smollm": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}
TEMPLATES = {
    "llama-bpe": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "smollm": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
}

ADDED = ["<tag>", "<名 前>"]  # tokens that are not special
WORDS = ["xyzzy", "123"]  # pieces that no merges form, for `ignore_merges`

# Spaces, digits, contractions, marks, characters of two to four bytes, joined emoji, names of special tokens
CHUNKS = [
    *(" ", "  ", "   ", "\n", "\n\n", " \n", "\r\n", "\t", "　", "\u00a0", "\u2003", "\ufeff", "\0"),
    *("1", "12", "123", "1234567", "½", "²", "１２", "٣", "'s", "'S", "I've", "DON'T", "we'll"),
    *("hello", " World", "é", "ß", "日本", "猫", "𠮷野家", "カナ", "ー", "が", "。", "、", "「", "안녕", "Ж", "ﷺ"),
    *("!", "?!", "...", "[INST]", "<", "|>", "$+=~^", "(", "_", "-", "def f(x):\n    return x\n"),
    *("😀", "👩‍👩‍👧‍👦", "🇯🇵", "\ufffd", "Ġ", "Ċ", "ã", "<0xE3>", "▁", "<pad>", "xyzzy"),
    *ADDED,
    *TEXT.split("。")[:20],
    *SPECIAL["llama-bpe"],
    *SPECIAL["smollm"],
]


@functools.cache
def trained_spec(pre: str) -> str:
    """The tokenizer.json of a small byte-level BPE with the pre-tokenizer of a name, as a string."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    spec = json.loads(tokenizer.to_str())
    names = SPECIAL[pre]
    if pre == "smollm":  # the special tokens come first, and are in the vocabulary of the model as well
        spec["model"]["vocab"] = {
            piece: i
            for i, piece in enumerate([*names, *sorted(spec["model"]["vocab"], key=spec["model"]["vocab"].get)])
        }
        first = 0
    else:
        for word in WORDS:
            spec["model"]["vocab"][word] = len(spec["model"]["vocab"])
        first = len(spec["model"]["vocab"])
        spec["model"]["ignore_merges"] = True
        begin = names[0]
        spec["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": begin, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {begin: {"id": begin, "ids": [first], "tokens": [begin]}},
        }
    spec["added_tokens"] = [added_token(first + i, name) for i, name in enumerate(names)]
    size = max(len(spec["model"]["vocab"]), first + len(names))
    spec["added_tokens"] += [added_token(size + i, name, special=False) for i, name in enumerate(ADDED)]
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": PRE_TOKENIZERS[pre]}
    return json.dumps(spec)


def byte_level_folder(folder: Path, pre: str, **config: object) -> Path:
    """A folder with tokenizer.json and tokenizer_config.json. `config` replaces keys of the second file."""
    spec = json.loads(trained_spec(pre))
    names = SPECIAL[pre]
    bos, eos = (names[0], names[-1]) if pre == "llama-bpe" else (names[1], names[2])
    base = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    base |= {"clean_up_tokenization_spaces": pre == "llama-bpe", "chat_template": TEMPLATES[pre]}
    return write(folder, tokenizer_json=spec, tokenizer_config_json=base | config)


def gguf_keys(folder: Path, pre: str) -> dict:
    """The keys of the vocabulary in a folder, as llama.cpp's converter writes them (`_set_vocab_gpt2`)."""
    spec = json.loads((folder / "tokenizer.json").read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    added = {each["id"]: each for each in spec["added_tokens"]}
    pieces = {i: piece for piece, i in spec["model"]["vocab"].items()} | {i: a["content"] for i, a in added.items()}
    ids = {piece: i for i, piece in pieces.items()}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [pieces[i] for i in range(len(pieces))],
        "tokenizer.ggml.token_type": [
            1 if i not in added else 3 if added[i]["special"] else 4 for i in range(len(pieces))
        ],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in spec["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": ids[config["bos_token"]],
        "tokenizer.ggml.eos_token_id": ids[config["eos_token"]],
        "tokenizer.chat_template": config["chat_template"],
    }
