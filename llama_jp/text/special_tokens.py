"""Which ids a checkpoint's files name as bos, eos, unk and pad."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..checkpoint.json_files import read_json
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class SpecialTokens:
    """Which ids a checkpoint's files name as bos, eos, unk and pad."""

    folder: Path
    tokenizer_config: dict
    vocabulary: Vocabulary
    own: dict[str, int]  # what the tokenizer file says of itself

    def id_of(self, role: str) -> int | None:
        """The first of: special_tokens_map.json, tokenizer_config.json, the tokenizer file, config.json; else None."""
        by_name = {
            "special_tokens_map.json": read_json(self.folder / "special_tokens_map.json", missing_ok=True),
            "tokenizer_config.json": self.tokenizer_config,
        }
        for file, content in by_name.items():
            token = content.get(f"{role}_token")
            name = token.get("content") if isinstance(token, dict) else token
            if name:
                return self._id_of_piece(name, file, role)
        if role in self.own:
            return self.own[role]
        value = read_json(self.folder / "config.json", missing_ok=True).get(f"{role}_token_id")
        value = value[0] if isinstance(value, list) and value else value  # Llama 3 style: several eos ids
        return value if isinstance(value, int) and value >= 0 else None  # Llama 1 wrote -1 for "none"

    def _id_of_piece(self, name: str, file: str, role: str) -> int:
        for token_id, piece in self.vocabulary.pieces.items():
            if piece == name:
                return token_id
        raise ValueError(f"{self.folder / file}: {role}_token is {name!r}, which is not in the tokenizer's vocabulary")
