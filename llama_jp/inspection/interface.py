"""`report`: generate, record, and write the page."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..generation.interface import warn_without_assistant
from ..generation.options import Options, show_option_fields
from ..generation.speculation import SelfDraft
from ..generation.task import resolve_max_new_tokens
from ..model import Llama
from ..text.tokenizer import Tokenizer
from ..text_files import check_file_target, write_whole
from .content import page_content
from .run import Run, run_traced
from .text import tokens_of_text

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..generation.options import OptionFields

DEFAULT_NEW_TOKENS = 8
MOST_WEIGHTS = 3_000_000  # attention weights of a page: 8 MB as text. 1,024 heads of 76 tokens; 24 heads of 499
PAGE = Path(__file__).parent / "page"


@show_option_fields
def report(
    model: Llama,
    prompt: str | Sequence[int] | Tensor,
    path: str | Path,
    options: Options | None = None,
    *,
    text: str | None = None,
    tokenizer: Tokenizer | None = None,
    compare: Mapping[str, Tokenizer] | None = None,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    instruct: bool | None = None,
    assistant_model: Llama | SelfDraft | None = None,
    **named: Unpack[OptionFields],
) -> Run:
    """Generate an answer and write one HTML file that shows the prompt's way through the model.

    prompt           a text, or ids
    path             the file to write; an existing one is replaced
    text             the title of the page, which the tokenizers cut; default: the prompt
    tokenizer        default: that of the model's folder
    compare          name -> tokenizer: the page shows their tokens of the text as well
    layers, heads    those whose attention weights and values the page holds; default: all
    instruct         whether a text is put into the checkpoint's chat template; default: if it has one
    assistant_model  a draft model; the page then shows accepted and rejected draft tokens

    The options and their names are those of `generate`; the default of max_new_tokens is 8. Ids and logits are
    bit-identical to a run without the page. The file needs no network and no other file. Changed models have a page as
    well, without the parts that have no trace points.

    Returns the run: ids, answer and the recorded tensors.
    Raises FileNotFoundError for a missing folder, and ValueError for an unwritable file, for a layer or head that is
    not there, for too many tokens, and for options that the page cannot show (beams, guidance, shifted context).
    """
    path = Path(path)
    check_file_target(path, "page.html")
    if tokenizer is None:
        if model.folder is None:
            raise ValueError("the model has no folder with a tokenizer; pass tokenizer=…")
        tokenizer = Tokenizer.from_pretrained(model.folder)
    layers = check_indices("layer", layers, len(model.layers))
    heads = check_indices("head", heads, model.config.num_attention_heads)
    ids = as_ids(prompt, tokenizer, instruct)
    if text is None:
        text = prompt if isinstance(prompt, str) else tokenizer.decode(ids)
    warn_without_assistant(named, assistant_model)
    lengths = [named.get(name, getattr(options, name, None)) for name in ("max_new_tokens", "max_length")]
    if lengths == [None, None]:
        named["max_new_tokens"] = DEFAULT_NEW_TOKENS
    resolved = Options.resolve(model, options, named)
    check_size(len(ids) + resolve_max_new_tokens(model, [ids], resolved), len(layers), len(heads))
    run = run_traced(model, tokenizer, ids, resolved, layers, heads, assistant_model)
    tokenizers = {"": tokenizer, **(compare or {})}
    content = page_content(model, tokenizer, run, layers, heads)
    content["texts"] = [tokens_of_text(name, each, text) for name, each in tokenizers.items()]
    write_page(path, content)
    return run


def as_ids(prompt: str | Sequence[int] | Tensor, tokenizer: Tokenizer, instruct: bool | None) -> list[int]:
    """The ids of a prompt: a text is encoded, in the chat template or as it is."""
    if not isinstance(prompt, str):
        return list(prompt.flatten().tolist() if isinstance(prompt, Tensor) else prompt)
    if tokenizer.chat_template is not None if instruct is None else instruct:
        return tokenizer.chat([{"role": "user", "content": prompt}])
    return tokenizer.encode(prompt, bos=tokenizer.adds_bos)


def check_indices(noun: str, given: Sequence[int] | None, count: int) -> list[int]:
    """The given indices in order, or all. Raises ValueError for one that is not there."""
    for index in given or ():
        if not 0 <= index < count:
            raise ValueError(f"there is no {noun} {index}; the model has {noun}s 0 to {count - 1}")
    if given is not None and not given:
        raise ValueError(f"there are no {noun}s to show; name at least one of 0 to {count - 1}")
    return sorted(set(range(count) if given is None else given))


def check_size(tokens: int, layers: int, heads: int) -> None:
    """Raise ValueError for more attention weights than a browser shows with ease."""
    each = tokens * (tokens - 1) // 2  # the last token is never an input
    if layers * heads * each > MOST_WEIGHTS:
        fewer = f"show at most {MOST_WEIGHTS // each} heads (layers and heads, --layers and --heads), or "
        raise ValueError(
            f"{tokens} tokens have {layers * heads * each:,} attention weights in {layers} layers of {heads} heads, "
            f"and a page holds {MOST_WEIGHTS:,}; {fewer if each <= MOST_WEIGHTS else ''}take fewer tokens"
        )


def write_page(path: Path, content: Mapping[str, Any]) -> None:
    """Put style, scripts and data into the page, and write it. After a failure, nothing new is there."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    parts = {file.name: file.read_text(encoding="utf-8") for file in PAGE.glob("*.*")}
    parts["data.json"] = data.replace("<", "\\u003c")  # a text cannot end the element that holds it
    html = re.sub(r"/\* include (\S+) \*/", lambda found: parts[found[1]], parts["page.html"])
    write_whole(path, html)
