"""Train the demo's tokenizer on the corpus, and write its files in the form of ELYZA's published tokenizers.

    python weights/demo/make_tokenizer.py

SentencePiece runs with Llama 2's settings (BPE, byte fallback, identity normaliser, single digits and spaces) and a
smaller vocabulary. One rule is added: pieces do not cross the borders of names and punctuation. So クマ is the same
piece in クマが and in クマは, and the model can continue a text that ends at any punctuation. The vocabulary has no
emoji, which are therefore encoded as bytes, like rare kanji.
"""

from __future__ import annotations

import io
import json
import re
from itertools import islice
from pathlib import Path

import corpus
import sentencepiece

HERE = Path(__file__).resolve().parent
ELYZA_TEMPLATE = HERE.parents[1] / "llama_jp" / "checkpoint" / "elyza.jinja"
VOCABULARY = 3072
DOCUMENTS = 20_000
KANA_AND_ASCII = "".join(map(chr, [*range(0x21, 0x7F), *range(0x3041, 0x3097), *range(0x30A1, 0x30FD)])) + "\u3000、。"
SYSTEM_PROMPT = "あなたは誠実で優秀な日本人のアシスタントです。"
BORDER = "\x1f"  # a character that occurs in no text
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}  # of every special token

NAMES = [name for names, _ in corpus.ANIMALS.values() for name in names]
NAMES += [*corpus.PLACES, *(name for names in corpus.PLACE_NAMES.values() for name in names), *corpus.SYLLABLES]
NAMES += [*corpus.HOMES, *corpus.FOODS, *corpus.ITEMS, *(thing for p in corpus.PLACES.values() for thing in p.things)]
KATAKANA_NAMES = [name for name in NAMES if re.fullmatch("[ァ-ヶー]+", name)]
OTHER_NAMES = [name for name in NAMES if name not in KATAKANA_NAMES]
longest_first = sorted(set(OTHER_NAMES), key=len, reverse=True)
BORDERS = re.compile(rf"([ァ-ヶー]+|{'|'.join(map(re.escape, longest_first))}|[、。！？：「」『』])")
EMOJI = re.compile("[\u2000-\u2bff\ufe00-\ufe0f\U00010000-\U0010ffff]")


def mark_borders(text: str) -> str:
    """Insert BORDER around names and punctuation, and after the space that the encoder adds at the start."""
    return BORDER + BORDERS.sub(rf"{BORDER}\1{BORDER}", text)


def texts() -> list[str]:
    """The training lines of the tokenizer: parts of the template, requests, answers and stories, without emoji."""
    lines = ["[INST] <<SYS>>", "<</SYS>>", "[INST]", "[/INST]", mark_borders(SYSTEM_PROMPT)] * DOCUMENTS
    for turns in islice(corpus.documents("tokenizer"), DOCUMENTS):
        for part in (part for turn in turns for part in turn if part is not None):
            lines += (mark_borders(line) for line in EMOJI.sub("", part).split("\n") if line)
    return lines


def train() -> bytes:
    """The content of tokenizer.model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        character_coverage=0.99995,
        required_chars=KANA_AND_ASCII,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        max_sentencepiece_length=8,
        pretokenization_delimiter=BORDER,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,  # the order of equal counts must not depend on the machine
        minloglevel=1,
    )
    return model.getvalue()


def to_json(model: bytes) -> dict:
    """The tokenizer.json of a tokenizer.model, in the layout of transformers 4.30.

    SentencePiece joins the two neighbours that form the piece with the highest score, and `tokenizers` applies the
    merge with the lowest rank. Each pair of pieces that forms a third piece is therefore a merge, ranked by the score
    of the third piece.
    """
    sp = sentencepiece.SentencePieceProcessor(model_proto=model)
    vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    text_pieces = [i for i in vocab.values() if not (sp.is_byte(i) or sp.is_control(i) or sp.is_unknown(i))]
    pieces = {sp.id_to_piece(i) for i in text_pieces}
    merges = []
    for i in sorted(text_pieces, key=lambda i: (-sp.get_score(i), i)):
        piece = sp.id_to_piece(i)
        splits = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += [f"{left} {right}" for left, right in splits if left in pieces and right in pieces]

    special = [
        {"id": i, "content": content, **PLAIN, "special": True} for i, content in enumerate(("<unk>", "<s>", "</s>"))
    ]
    bos_a, bos_b = ({"SpecialToken": {"id": "<s>", "type_id": n}} for n in (0, 1))
    a, b = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos_a, a],
            "pair": [bos_a, a, bos_b, b],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": merges,
        },
    }


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.model, tokenizer.json, tokenizer_config.json and special_tokens_map.json."""

    def write(name: str, content: dict, sort_keys: bool = False) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=sort_keys)
        (folder / name).write_text(text + "\n", encoding="utf-8")

    model = train()
    (folder / "tokenizer.model").write_bytes(model)
    write("tokenizer.json", to_json(model))

    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    added = {key: {"__type": "AddedToken", "content": name, **PLAIN} for key, name in names.items()}
    template = ELYZA_TEMPLATE.read_text(encoding="utf-8").rstrip("\n")
    rest = {
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "legacy": False,
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": None,
        "padding_side": "right",
        "sp_model_kwargs": {},
        "tokenizer_class": "LlamaTokenizer",
    }
    write("tokenizer_config.json", added | rest, sort_keys=True)
    tokens = {key: {"content": name, **PLAIN} for key, name in names.items()}
    write("special_tokens_map.json", tokens | {"pad_token": "</s>"}, sort_keys=True)


if __name__ == "__main__":
    write_tokenizer(HERE)
