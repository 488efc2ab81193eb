"""Choose a model with flags, and open it."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import torch
from torch import Tensor

from ..checkpoint.load import load_model
from ..environment import available_memory
from ..evaluation.documents import TEXTS
from ..generation.options import Options
from ..generation.speculation import ASSISTANT_TOKENS, SELF_DRAFT_TOKENS, SelfDraft
from ..generation.task import DEFAULT_MAX_NEW_TOKENS
from ..linear.scheme import Scheme
from ..loading import load
from ..long_context import extend_context
from ..model import ATTENTIONS, Llama
from ..speed.automatic import pays
from ..speed.optimization import LEVELS, Optimized, optimize
from ..speed.self_drafting import draft_memory, self_draft
from ..speed.static_steps import StaticLlama
from ..text.tokenizer import Tokenizer
from ..text.vocabulary import first_other_piece
from .arguments import (
    DTYPES,
    add_adapter_argument,
    add_source_arguments,
    add_tokenizer_argument,
    add_trust_argument,
    thread_count,
)
from .console import note
from .failures import describe

SAMPLE_TOKENS = 128  # length of the text on which --optimize measures the numerical deviation


OPTIMIZE_DEFAULTS = {"none": "none", "auto": "auto", "large": "auto for over a billion parameters, else none"}
LARGE = 10**9  # parameters


def add_model_arguments(parser: argparse.ArgumentParser, optimize: str = "none") -> None:
    """The flags of a model for a command with positional arguments of its own."""
    add_source_arguments(parser.add_argument_group("model"))
    add_computation_arguments(parser, optimize)


def add_computation_arguments(parser: argparse.ArgumentParser, optimize: str = "none") -> None:
    """The flags for a model's computation.

    optimize  the default of --optimize
    """
    group = parser.add_argument_group("computation")
    group.add_argument(
        "--dtype",
        choices=DTYPES,
        default="auto",
        help="dtype of weights and computation; stored: as in the files; auto: as stored on a GPU, and on a CPU "
        "bfloat16 if the CPU multiplies it natively, else float32 (default: auto)",
    )
    group.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="auto, cpu, cuda, cuda:1, …; auto: a CUDA GPU if there is one, else the CPU (default: auto)",
    )
    group.add_argument(
        "--attention",
        choices=list(ATTENTIONS),
        default="sdpa",
        help="sdpa: PyTorch's fused attention; eager: attention written out (default: sdpa)",
    )
    add_tokenizer_argument(group)
    add_adapter_argument(group)
    add_trust_argument(group)
    group.add_argument("--threads", type=thread_count, metavar="N", help="number of CPU threads (default: PyTorch's)")
    group.add_argument(
        "--optimize",
        choices=["auto", "none", *LEVELS],
        default=optimize,
        help="measure and choose faster kernels for the CPU; exact: the logits stay bit-identical; close: rounding may "
        "differ; int8: activations of int8 weights are also rounded to int8; auto: exact if it saves more time in an "
        f"answer than it takes (default: {OPTIMIZE_DEFAULTS[optimize]})",
    )


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    """The flag for compiled decoding steps, read by `compile_as_asked`."""
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the decoding step, which speeds up small models on the CPU and all models on a GPU; it takes "
        "from some seconds to minutes at the first start, and less at later ones; rounding may differ (as --optimize "
        "close)",
    )


def model_name(args: argparse.Namespace) -> str:
    """The name of the model in results: --model, with --adapter if there is one."""
    return args.model if args.adapter is None else f"{args.model} with {args.adapter}"


def open_model(args: argparse.Namespace, rows: int | None = None) -> tuple[Llama, Tokenizer]:
    """Load the model and the tokenizer of --model, then apply --rope-scaling and --optimize, for `rows` in a step."""
    model, tokenizer = load_model_of(args)
    optimize_as_asked(args, model, tokenizer, rows)
    return model, tokenizer


def load_model_of(args: argparse.Namespace) -> tuple[Llama, Tokenizer]:
    """Load the model and the tokenizer of --model, then apply --rope-scaling."""
    if args.threads:
        torch.set_num_threads(args.threads)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        model, tokenizer = open_shard(args)
    else:
        model, tokenizer = load(
            args.model,
            dtype=args.dtype,
            device=args.device,
            revision=args.revision,
            attention=args.attention,
            adapter=args.adapter,
            trust_parts=args.trust_parts,
            tokenizer=args.tokenizer,
        )
    if args.rope_scaling:
        extend_context(model, *args.rope_scaling)
    return model, tokenizer


def optimize_as_asked(args: argparse.Namespace, model: Llama, tokenizer: Tokenizer, rows: int | None = None) -> None:
    """Apply --optimize for `rows` in a decoding step, and report the numerical deviation."""
    rows = rows or rows_of_step(args)
    if getattr(args, "compile", False):
        check_compile(args)
        if args.optimize not in LEVELS:
            return  # auto is "exact"
    if args.optimize == "auto" or (args.optimize == "large" and number_of_weights(model) > LARGE):
        optimize_automatically(args, model, rows)
    if args.optimize not in LEVELS:
        return
    text = (TEXTS / "prose.ja.txt").read_text(encoding="utf-8")
    ids = torch.tensor([tokenizer.encode(text)[:SAMPLE_TOKENS]])  # (1, T)
    optimized = optimize_model(model, args.optimize, rows, ids, measure=False)
    if optimized.deviation is None:
        checked = "bit-identical to" if args.optimize == "exact" else "close to"
        note(f"optimised with the kept choices of this machine; each product is {checked} its layers")
        return
    tokens, deviation = ids.shape[1], optimized.deviation
    note(f"optimised; numerical deviation on {tokens} tokens of prose: {deviation}")


def check_compile(args: argparse.Namespace) -> None:
    """Raise ValueError for --compile with a level whose promise it would break."""
    if args.compile and args.optimize == "exact":
        raise ValueError("--compile changes the rounding, which --optimize exact excludes; leave out one of them")


def compile_as_asked(args: argparse.Namespace, model: Llama) -> Llama:
    """The model with compiled decoding steps for --compile, else the model itself."""
    return StaticLlama(model, on_compile=note) if args.compile else model


def optimize_automatically(args: argparse.Namespace, model: Llama, rows: int) -> None:
    """Optimise at level "exact" where that saves more time in an answer than it takes. Else leave it as loaded."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return
    reason = pays(model, rows, tokens_of_answer(args, model))
    if reason is None:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # kernels that this machine lacks; nobody asked for them
            optimize(model, "exact", rows, measure=False)
    except RuntimeError as error:  # the bits cannot be kept on this machine
        note(f"--optimize auto: as loaded, because {error}")
        return
    note(f"--optimize auto: exact, {reason}; the results stay bit-identical")


def number_of_weights(model: Llama) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def rows_of_step(args: argparse.Namespace) -> int:
    """The rows of a decoding step: the newest token and the draft tokens."""
    assistant = getattr(args, "assistant_model", None)
    default = 0
    if assistant is not None:
        default = SELF_DRAFT_TOKENS if assistant.partition(":")[0] == "self" else ASSISTANT_TOKENS
    return 1 + (args.prompt_lookup_num_tokens or getattr(args, "num_assistant_tokens", None) or default)


def tokens_of_answer(args: argparse.Namespace, model: Llama) -> int:
    """The most tokens that an answer may have."""
    typed = getattr(args, "max_new_tokens", None)
    return typed or Options.resolve(model, None, {}).max_new_tokens or DEFAULT_MAX_NEW_TOKENS


def optimize_model(model: Llama, level: str, rows: int, ids: Tensor | None = None, measure: bool = True) -> Optimized:
    """`speed.optimization.optimize`; ValueError for a level that the model cannot have."""
    scheme: Scheme | None = getattr(model, "quantization", None)
    if level == "int8" and (scheme is None or 8 not in (scheme.bits, scheme.head_bits)):
        stored = "float weights" if scheme is None else f"only {scheme}"
        raise ValueError(
            f"--optimize int8 needs int8 weights, but this model has {stored}; write them with "
            "`llama-jp quantize MODEL OUT --bits 8`, or use --optimize close"
        )
    try:
        return optimize(model, level, rows, ids, measure=measure)
    except RuntimeError as error:  # "exact" cannot be kept on this machine
        if describe(error) is None:
            raise ValueError(str(error)) from error
        raise


def open_shard(args: argparse.Namespace) -> tuple[Llama, Tokenizer]:
    """Load this process's share of the model under torchrun."""
    from .ranks import open_sharded  # late, because torch.distributed takes long to import

    for flag, given in (
        ("--optimize", args.optimize in LEVELS),
        ("--compile", getattr(args, "compile", False)),
        ("--trust-parts", args.trust_parts),
        ("--adapter", args.adapter),
    ):
        if given:
            raise ValueError(f"{flag} works in a single process; leave it out under torchrun")
    return open_sharded(args)


def open_assistant(
    args: argparse.Namespace, tokenizer: Tokenizer, model: Llama | None = None
) -> Llama | SelfDraft | None:
    """Open --assistant-model, if given: a model with the same tokenizer, or a quantised copy of `model`.

    Raises ValueError for a model that was trained with another tokenizer.
    """
    if args.assistant_model is None:
        if args.num_assistant_tokens is not None:
            raise ValueError("--num-assistant-tokens needs --assistant-model")
        return None
    if args.prompt_lookup_num_tokens is not None:
        raise ValueError("--assistant-model and --prompt-lookup-num-tokens both draft; remove one of them")
    prefix, colon, form = args.assistant_model.partition(":")
    if model is not None and prefix == "self":
        bits = None if colon else choose_bits(model, packed=args.optimize != "none")
        return open_self_draft(model, f"int{bits}" if bits else form)
    check_same_tokenizer(args, tokenizer)
    return load_model(
        args.assistant_model,
        dtype=args.dtype,
        device=args.device,
        attention=args.attention,
        trust_parts=args.trust_parts,
    )


def choose_bits(model: Llama, packed: bool) -> int:
    """The bits of --assistant-model self: 8 if the memory allows, else 4.

    packed  whether --optimize may pack the model's weights, which then take memory besides the memory-mapped file

    Raises ValueError if the memory allows neither.
    """
    free = available_memory(torch.device("cpu"))
    weights = sum(parameter.nbytes for parameter in model.parameters()) if packed else 0
    sizes = {8: draft_memory(model, 8)}
    if free is None or sizes[8] + weights <= free:
        return 8
    free_gb, packed_gb = f"{free / 1e9:.2f}", f"{weights / 1e9:.2f}"
    try:
        sizes[4] = draft_memory(model, 4)
    except ValueError:
        pass  # int4 does not fit the sizes or the dtype of the model
    else:
        if sizes[4] + weights <= free:
            note(
                f"self: int4, because int8 would take {sizes[8] / 1e9:.2f} GB, and {free_gb} GB are free, of which "
                f"--optimize may take {packed_gb}"
            )
            return 4
    needed = ", ".join(f"{size / 1e9:.2f} GB (int{bits})" for bits, size in sizes.items())
    raise ValueError(
        f"--assistant-model self needs memory beside the model: {needed}; {free_gb} GB are free, of which "
        f"--optimize may take {packed_gb}; generate without it, or with --optimize none"
    )


def open_self_draft(model: Llama, form: str) -> SelfDraft:
    """The draft of --assistant-model self:FORM, after a line with the memory that it takes."""
    bits, folder = {"int8": (8, None), "int4": (4, None)}.get(form, (8, form))
    if folder is not None and (not folder or not Path(folder).is_dir()):
        raise ValueError(
            f"--assistant-model self:{form} is neither self, self:int8, self:int4, nor self: with a quantised folder "
            "of the same model"
        )
    size = draft_memory(model, bits, folder)
    free = available_memory(torch.device("cpu"))
    rest = "" if free is None else f"; {free / 1e9:.2f} GB are free"
    note(f"self:{form} takes {size / 1e9:.2f} GB of memory beside the model{rest}")
    return self_draft(model, bits, folder)


def check_same_tokenizer(args: argparse.Namespace, tokenizer: Tokenizer) -> None:
    """Raise ValueError if the draft model's tokenizer has other pieces than the model's.

    A draft model without tokenizer files passes; speculation compares the sizes of the vocabularies.
    """
    try:
        other = Tokenizer.from_pretrained(args.assistant_model)
    except FileNotFoundError:
        return
    if different := first_other_piece(tokenizer.vocabulary, other.vocabulary):
        i, piece, drafted = different
        raise ValueError(
            f"the draft model {args.assistant_model} has another tokenizer than {args.model}: id {i} is {drafted!r} "
            f"there and {piece!r} here; take a draft model with the same tokenizer"
        )
