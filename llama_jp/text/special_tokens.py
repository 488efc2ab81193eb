"""The ids of the special tokens that the files of a checkpoint name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint.json_files import read_json
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of BOS, EOS, UNK and PAD in one checkpoint.

    tokenizer_config  the content of tokenizer_config.json
    special_ids       the ids that the tokenizer file itself names, by role: "bos", "eos", "unk", "pad"
    """

    folder: Path
    tokenizer_config: dict[str, Any]
    vocabulary: Vocabulary
    special_ids: dict[str, int]

    def id_of(self, role: str) -> int | None:
        """The id of "bos", "eos", "unk" or "pad"; None if no file names one.

        The order of precedence is special_tokens_map.json, tokenizer_config.json, the tokenizer file, config.json.

        Raises ValueError if a file names a token that is not in the vocabulary.
        """
        named_in = {
            "special_tokens_map.json": read_json(self.folder / "special_tokens_map.json", missing_ok=True),
            "tokenizer_config.json": self.tokenizer_config,
        }
        for file, content in named_in.items():
            token = content.get(f"{role}_token")
            piece = token.get("content") if isinstance(token, dict) else token
            if piece:
                return self._id_of_piece(piece, file, role)
        if role in self.special_ids:
            return self.special_ids[role]
        value = read_json(self.folder / "config.json", missing_ok=True).get(f"{role}_token_id")
        value = value[0] if isinstance(value, list) and value else value  # Llama 3 has a list of EOS ids
        return value if isinstance(value, int) and value >= 0 else None  # Llama 1 wrote -1 for "none"

    def _id_of_piece(self, piece: str, file: str, role: str) -> int:
        for token_id, known in self.vocabulary.pieces.items():
            if known == piece:
                return token_id
        raise ValueError(f"{self.folder / file}: {role}_token is {piece!r}, which is not in the tokenizer's vocabulary")
