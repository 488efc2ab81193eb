"""Small tokenizers, trained when a test needs them, in the file format of ELYZA's published tokenizers."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import sentencepiece

SPACE = "▁"

TEXT = """
朝の駅前で、小さな犬が郵便屋さんを待っていました。雨が降っても、風が吹いても、犬は同じ場所に座っています。
郵便屋さんは毎朝、赤い自転車で坂を下りてきます。「おはよう。今日も手紙が多いよ」と言って、犬の頭をなでました。
ある日、犬は手紙を一通くわえて帰りました。手紙には「ありがとう」と書いてありました。だれが書いたのでしょう。
夏になると、町の子どもたちは川で泳ぎます。川の水は冷たくて、とてもきれいです。魚も子どもたちと一緒に泳ぎます。
図書館には古い本がたくさんあります。おばあさんは窓のそばで、海の物語を読んでいました。物語の海は青く、広く、静かです。
秋の夜、月が山の上に出ました。山の村では、みんなで団子を食べながら月を見ます。月は何も言わずに村を見ています。
パンを焼く人は、朝の三時に起きます。粉と水と塩だけで、こんなにおいしいパンができるのは不思議です。
The train leaves at 7 and the dog waits for the letter. Letters are written on the train, and the train is late.
A small dog, a red bicycle and  two  letters: that is all there is in the story, 100 words and 25 more.
"""

# Texts that tokenizers often get wrong: spaces, line ends, half and full width, rare kanji, emoji, marks, more scripts.
HARD_TEXTS = [
    "",
    " ",
    "   ",
    "a",
    " a",
    "a ",
    "  a  b ",
    "\n",
    "\r\n\r\n",
    "\t犬\t",
    "　犬　",
    "ＡＢＣ１２３ｱｲｳ",
    "𠮷野家で𩸽を食べる",
    "が と が、パ と パ",
    "👩‍👩‍👧‍👦 と 🇯🇵",
    "\ufffd と \ufffd\ufffd",
    "\ufeff犬",
    "▁犬▁▁",
    "<0xE3><0x81>",
    "[INST] <<SYS>>\n犬\n<</SYS>>\n\n魚 [/INST] ",
    "<s>犬</s><unk><pad>",
    "a\0b",
    "ａ\u200b\u00a0\u2003b",
    "안녕하세요 Здравствуйте ﷽",
]

_MADE: dict[str, bytes] = {}


def llama_model(text: str = TEXT, **flags) -> bytes:
    """The bytes of a tokenizer.model with Llama's settings. `flags` are arguments of the SentencePiece trainer."""
    settings = {
        "model_type": "bpe",
        "vocab_size": 560,
        "byte_fallback": True,
        "character_coverage": 0.98,  # some kanji of TEXT have no piece
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "num_threads": 1,
        "minloglevel": 2,
    } | flags
    key = json.dumps([text, settings], sort_keys=True)
    if key not in _MADE:
        out = io.BytesIO()
        lines = iter(line for line in text.splitlines() if line)
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=lines, model_writer=out, **settings)
        _MADE[key] = out.getvalue()
    return _MADE[key]


def llama_json(model: bytes, add_dummy_prefix: bool = True, user_defined: tuple[str, ...] = ()) -> dict:
    """The tokenizer.json of a tokenizer.model, in the layout of transformers 4.30.

    Each pair of pieces that forms a third piece is a merge. Merges are sorted by the score of the third piece.
    """
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    merges = []
    for piece, i in vocab.items():
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_byte(i) or piece in user_defined:
            continue
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        halves = [(left, right) for left, right in halves if left in vocab and right in vocab]
        merges += [
            (-sp.get_score(i), n, f"{left} {right}")
            for n, (left, right) in enumerate(sorted(halves, key=lambda pair: (vocab[pair[0]], vocab[pair[1]])))
        ]
    special = [i for i in range(sp.get_piece_size()) if sp.is_control(i) or sp.is_unknown(i)]
    space_in = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    space_out = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    prepend, strip = [], []
    if add_dummy_prefix:
        prepend = [{"type": "Prepend", "prepend": SPACE}]
        strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    bos = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [added_token(i, sp.id_to_piece(i)) for i in special]
        + [added_token(vocab[piece], piece, special=False) for piece in user_defined],
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, space_in]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, bos, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [space_out, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [merge for _, _, merge in sorted(merges, key=lambda each: each[0])],
        },
    }


def added_token(token_id: int, content: str, special: bool = True) -> dict:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    return {"id": token_id, "content": content} | flags


def write(folder: Path, **files: bytes | dict | str | list) -> Path:
    """Write files of a checkpoint: write(path, tokenizer_model=b"...", special_tokens_map_json={...})."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        stem, _, suffix = name.rpartition("_")
        if not isinstance(content, bytes):
            text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            content = text.encode("utf-8")
        (folder / f"{stem}.{suffix}").write_bytes(content)
    return folder


def real_data(name: str) -> Path:
    """A folder of real files, which are not part of the project. Without them, the test is skipped."""
    root = os.environ.get("LLAMA_JP_TEST_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"needs real files: set LLAMA_JP_TEST_DATA to a folder with {name}/")
    return Path(root) / name


def llama_folder(folder: Path) -> Path:
    """A folder with both tokenizer files and the two JSON files beside them, as in ELYZA's checkpoints."""
    model = llama_model()
    special = {name: {"content": text, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
               for name, text in (("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>"))}  # fmt: skip
    return write(
        folder,
        tokenizer_model=model,
        tokenizer_json=llama_json(model),
        tokenizer_config_json={"tokenizer_class": "LlamaTokenizer", "legacy": False, "pad_token": None} | special,
        special_tokens_map_json={**special, "pad_token": "</s>"},
    )
