"""The ids of the special tokens that the files of a checkpoint name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken

from ..checkpoint.json_files import read_json
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class SpecialTokens:
    """The ids of BOS, EOS, UNK and PAD in one checkpoint.

    named        the tokens that special_tokens_map.json and tokenizer_config.json name, see `AddedTokens`
    special_ids  the ids that the tokenizer file itself names, by role: "bos", "eos", "unk", "pad"
    """

    folder: Path
    named: dict[str, AddedToken]
    vocabulary: Vocabulary
    special_ids: dict[str, int]

    def id_of(self, role: str) -> int | None:
        """The id of "bos", "eos", "unk" or "pad"; None if no file names one.

        The order of precedence is special_tokens_map.json, tokenizer_config.json, the tokenizer file, config.json.
        A tokenizer_config.json with `added_tokens_decoder` counts alone, without special_tokens_map.json.
        """
        token = self.named.get(f"{role}_token")
        if token is not None:
            return next(i for i, piece in self.vocabulary.pieces.items() if piece == token.content)
        if role in self.special_ids:
            return self.special_ids[role]
        value = read_json(self.folder / "config.json", missing_ok=True).get(f"{role}_token_id")
        value = value[0] if isinstance(value, list) and value else value  # Llama 3 has a list of EOS ids
        return value if isinstance(value, int) and value >= 0 else None  # Llama 1 wrote -1 for "none"
