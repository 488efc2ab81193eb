"""Compare a model's greedy answers with published ones, without generating: where is the first different token?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..generation.options import Options
from ..model import Llama
from ..text.tokenizer import Tokenizer
from ..text.vocabulary import Vocabulary
from .perplexity import TOKENS_BEFORE, FirstDifference

CUT = "\ufffd"  # decoding writes it for bytes that are no whole character


@torch.inference_mode()
def compare_with_answer(
    model: Llama, tokenizer: Tokenizer, prompt: Sequence[int], answer: str, max_new_tokens: int
) -> FirstDifference | None:
    """The first token at which greedy decoding leaves a published answer; None if it gives this answer.

    max_new_tokens  limit of the published answer. An answer of this length, or one that was cut inside a character and
                    ends with U+FFFD, needs no EOS

    A published answer is text, and many sequences of ids have the same text. So the answer's own ids are only a guess:
    where the most probable token is another one with the right bytes, the comparison goes on with that token. The
    reference token of the result is the most probable one with the right bytes.

    Raises ValueError for a prompt and answer that exceed the context.
    """
    vocabulary, eos = tokenizer.vocabulary, Options.resolve(model, None, {}).eos
    cut = answer.endswith(CUT)
    rest, ids = answer.rstrip(CUT).encode("utf-8"), list[int]()
    while True:
        guess = [*ids, *encode_rest(tokenizer, rest)]
        logits = next_logits(model, prompt, guess)  # (tokens of the guess + 1, V)
        best = logits.argmax(-1).tolist()
        while len(ids) < len(guess) and best[len(ids)] == guess[len(ids)]:
            rest = rest[len(text_of(vocabulary, guess[len(ids)], begins=not ids)) :]
            ids.append(guess[len(ids)])
        if not rest and (cut or not eos or best[len(ids)] in eos or len(ids) >= max_new_tokens):
            return None
        token = best[len(ids)]
        if not (rest and has_next_bytes(vocabulary, token, rest, begins=not ids)):
            return describe(tokenizer, ids, logits[len(ids)], token, rest, eos)
        rest = rest[len(text_of(vocabulary, token, begins=not ids)) :]
        ids.append(token)


def next_logits(model: Llama, prompt: Sequence[int], ids: Sequence[int]) -> Tensor:
    """The logits (N + 1, V) after the prompt and after each of N ids."""
    context = model.config.context_length
    if len(prompt) + len(ids) > context:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens and the answer {len(ids)}, but the context holds {context}"
        )
    row = torch.tensor([[*prompt, *ids]], device=model.embed_tokens.weight.device)  # (1, T)
    return model(row)[0, len(prompt) - 1 :]


def describe(
    tokenizer: Tokenizer, ids: list[int], logits: Tensor, token: int, rest: bytes, eos: Sequence[int]
) -> FirstDifference:
    """The difference after `ids`: the model's token, and the most probable one that begins the rest of the answer."""
    vocabulary = tokenizer.vocabulary
    log_probs = logits.double().log_softmax(-1).tolist()
    right = [i for i in vocabulary.pieces if i < len(log_probs) and has_next_bytes(vocabulary, i, rest, not ids)]
    reference = max(right if rest else eos, key=lambda i: log_probs[i])
    piece, reference_piece = tokenizer.pieces([token, reference])
    return FirstDifference(
        position=len(ids),
        text_before=tokenizer.decode(ids[-TOKENS_BEFORE:]),
        token=token,
        piece=piece,
        reference_token=reference,
        reference_piece=reference_piece,
        margin=log_probs[token] - log_probs[reference],
    )


def has_next_bytes(vocabulary: Vocabulary, token: int, rest: bytes, begins: bool) -> bool:
    """Whether a token that is not special continues a text with the bytes `rest`."""
    return token not in vocabulary.special and rest.startswith(text_of(vocabulary, token, begins))


def text_of(vocabulary: Vocabulary, token: int, begins: bool) -> bytes:
    """The bytes of a token. The first token of a text loses a leading space, as in decoding."""
    data = vocabulary.token_bytes(token)
    strips = begins and vocabulary.strip and token not in vocabulary.byte_values
    return data.removeprefix(b" ") if strips else data


def encode_rest(tokenizer: Tokenizer, rest: bytes) -> list[int]:
    """Ids of the rest of a text, which may begin inside a character."""
    inside = next((i for i, byte in enumerate(rest) if byte & 0xC0 != 0x80), len(rest))
    ids = {byte: token for token, byte in tokenizer.vocabulary.byte_values.items()}
    return [ids[byte] for byte in rest[:inside]] + continue_text(tokenizer, rest[inside:].decode("utf-8"))


def continue_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in the middle of another one. Encoding adds a space to a text, so a line end takes the space."""
    line_end, ids = tokenizer.encode("\n", bos=False), tokenizer.encode("\n" + text, bos=False)
    same = ids[: len(line_end)] == line_end
    return ids[len(line_end) :] if same else tokenizer.encode(text, bos=False)
