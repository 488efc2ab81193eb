"""Flags for the options of generation.

Each group has a function that adds its flags and returns those that are options. The `dest` of an option's flag is the
name of a field of `Options`. The flag is this name with hyphens, except where a `dest` is given. A flag that is not
typed leaves None.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from ..generation.options import Options
from ..model import Llama
from .arguments import int_list, json_list, positive_int
from .console import check_decoded


def add_generation_arguments(parser: argparse.ArgumentParser, several_answers: bool = True) -> None:
    """Add one flag for each option that can be typed, in groups. Flags in frequent use come first.

    several_answers  False leaves out the flags of beam search and of several answers to one prompt

    The parser also sets `option_names` and `sampling_option_names`, from which `generation_options` collects.
    """
    length = add_length_flags(parser)
    sampling = add_sampling_flags(parser)
    options = [*length, *sampling, *add_repetition_flags(parser), *add_token_flags(parser)]
    options += [*add_guidance_flags(parser), *add_logits_flags(parser)]
    if several_answers:
        options += add_beam_flags(parser)
    options += add_speculation_flags(parser)
    options += add_context_flags(parser, several_answers)
    parser.set_defaults(
        option_names=[flag.dest for flag in options], sampling_option_names=[flag.dest for flag in sampling]
    )


def generation_options(args: argparse.Namespace, model: Llama) -> dict[str, Any]:
    """The options that were typed, by their names in `Options`.

    A flag of the sampling group implies do_sample. Sampling without --seed gets a random seed, so that the report can
    show it. Raises ValueError for --greedy with a flag of the sampling group, and for values that `Options` refuses.
    """
    options = {name: getattr(args, name) for name in args.option_names if getattr(args, name) is not None}
    if args.stop_strings is not None:
        options["stop_strings"] = [check_decoded(text, "a text of --stop") for text in args.stop_strings]
    sampling = [name for name in args.sampling_option_names if name in options]
    if args.greedy and sampling:
        flags = ", ".join("--" + name.replace("_", "-") for name in sampling)
        raise ValueError(f"--greedy does not sample, so it cannot be combined with {flags}")
    if args.greedy:
        options["do_sample"] = False
    elif args.sample or sampling:
        options["do_sample"] = True
    resolved = Options.resolve(model, None, options)
    for least, most in (("min_new_tokens", "max_new_tokens"), ("min_length", "max_length")):
        check_not_above(least, most, resolved)
    if resolved.do_sample:
        options.setdefault("seed", random.randrange(2**31))
    return options


def check_not_above(least: str, most: str, options: Options) -> None:
    """Raise ValueError if an answer cannot have both the least and the most number of tokens."""
    smallest, largest = getattr(options, least), getattr(options, most)
    unused = most == "max_length" and options.max_new_tokens is not None
    if smallest is not None and largest is not None and smallest > largest and not unused:
        raise ValueError(f"{least} is {smallest}, but {most} is {largest}; make {least} smaller or {most} larger")


def add_length_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    add = parser.add_argument_group(
        "length and stopping",
        "The defaults of this group and of the next ones apply where the checkpoint's\n"
        "generation_config.json has no value.",
    ).add_argument
    return [
        add("--max-new-tokens", type=positive_int, metavar="N", help="generate at most N tokens (default: 256)"),
        add(
            "--stop",
            action="append",
            dest="stop_strings",
            metavar="TEXT",
            help="end the answer before TEXT; can be given several times",
        ),
        add("--min-new-tokens", type=int, metavar="N", help="forbid the EOS token before N new tokens"),
        add(
            "--max-length",
            type=positive_int,
            metavar="N",
            help="limit prompt and answer together to N tokens; no effect with --max-new-tokens",
        ),
        add(
            "--min-length",
            type=int,
            metavar="N",
            help="forbid the EOS token before prompt and answer together have N tokens (default: 0)",
        ),
        add("--max-time", type=float, metavar="S", help="end the answer after S seconds (default: no limit)"),
        add(
            "--stop-on-loop",
            action="store_true",
            default=None,
            help="end the answer when it repeats the same tokens again and again",
        ),
        add(
            "--eos-token-id",
            type=int_list,
            metavar="IDS",
            help="ids of the EOS tokens, which end the answer, such as 2 or 2,13 (default: the checkpoint's)",
        ),
    ]


def add_sampling_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of sampling. --greedy and --sample are not among them: both set do_sample."""
    group = parser.add_argument_group("sampling", "Every flag except --greedy implies --sample. Flags can be combined.")
    do_sample = group.add_mutually_exclusive_group()
    do_sample.add_argument("--greedy", action="store_true", help="always choose the most probable token (the default)")
    do_sample.add_argument("--sample", action="store_true", help="sample each token from the model's distribution")
    add = group.add_argument
    return [
        add(
            "--temperature",
            type=float,
            metavar="T",
            help="divide the logits by T; below 1: fewer surprises, above 1: more variety (default: 1)",
        ),
        add(
            "--top-p",
            type=float,
            metavar="P",
            help="keep the most probable tokens that together reach the probability P (default: 1, all tokens)",
        ),
        add("--top-k", type=int, metavar="K", help="keep the K most probable tokens; 0: all tokens (default: 50)"),
        add(
            "--seed",
            type=int,
            metavar="N",
            help="seed of the random numbers; transformers samples the same tokens after torch.manual_seed(N) "
            "(default: a random seed, shown at the end)",
        ),
        add(
            "--min-p",
            type=float,
            metavar="P",
            help="keep tokens with at least P times the probability of the most probable token (default: off)",
        ),
        add(
            "--typical-p",
            type=float,
            metavar="P",
            help="keep the tokens whose surprisal is closest to the entropy and that together reach the probability P "
            "(default: 1, all tokens)",
        ),
        add(
            "--epsilon-cutoff",
            type=float,
            metavar="P",
            help="keep tokens with a probability of at least P (default: 0, all tokens)",
        ),
        add(
            "--eta-cutoff",
            type=float,
            metavar="P",
            help="like --epsilon-cutoff, with a lower threshold where the entropy is high (default: 0, all tokens)",
        ),
        add(
            "--top-h",
            type=float,
            metavar="H",
            help="keep the most probable tokens that together hold at most the share H of the entropy (default: off)",
        ),
    ]


def add_repetition_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    add = parser.add_argument_group("repetition").add_argument
    return [
        add(
            "--repetition-penalty",
            type=float,
            metavar="X",
            help="above 1: make every token that has occurred less probable, however often it occurred (default: 1)",
        ),
        add(
            "--no-repeat-ngram-size",
            type=int,
            metavar="N",
            help="forbid N tokens in a row that have occurred in prompt or answer (default: 0, off)",
        ),
        add(
            "--encoder-no-repeat-ngram-size",
            type=int,
            metavar="N",
            help="forbid N tokens in a row that occur in the prompt (default: 0, off)",
        ),
        add(
            "--encoder-repetition-penalty",
            type=float,
            metavar="X",
            help="above 1: make the tokens of the prompt more probable (default: 1)",
        ),
        add(
            "--presence-penalty",
            type=float,
            metavar="X",
            help="subtract X from the logit of every token that has occurred (default: 0)",
        ),
        add(
            "--frequency-penalty",
            type=float,
            metavar="X",
            help="subtract X from a token's logit for each time it has occurred (default: 0)",
        ),
        add(
            "--penalty-window",
            type=positive_int,
            metavar="N",
            help="repetition, presence and frequency penalty: count only the last N tokens (default: all)",
        ),
        add(
            "--penalty-generated-only",
            action="store_true",
            default=None,
            help="repetition, presence and frequency penalty: do not count the prompt",
        ),
    ]


def add_token_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    add = parser.add_argument_group(
        "forbidden and forced tokens", "`llama-jp tokenize TEXT` shows the ids of a text."
    ).add_argument
    return [
        add(
            "--bad-words-ids",
            type=json_list,
            metavar="JSON",
            help="forbid sequences of ids, such as [[5], [7, 8]]",
        ),
        add(
            "--sequence-bias",
            type=json_list,
            metavar="JSON",
            help="add a bias to the logit that completes a sequence of ids, such as [[[7, 8], -2.5]]",
        ),
        add("--suppress-tokens", type=int_list, metavar="IDS", help="forbid these tokens, such as 5,7"),
        add("--begin-suppress-tokens", type=int_list, metavar="IDS", help="forbid these tokens as the first new token"),
        add(
            "--forced-bos-token-id",
            type=int,
            metavar="ID",
            help="force this first new token, if the prompt is a single token",
        ),
        add(
            "--forced-eos-token-id",
            type=int_list,
            metavar="IDS",
            help="force one of these tokens as the last one when the answer reaches its maximum length",
        ),
        add(
            "--exponential-decay-length-penalty",
            type=json_list,
            metavar="JSON",
            help="raise the EOS logit exponentially; [20, 1.1]: after 20 new tokens, by the factor 1.1 per token",
        ),
    ]


def add_guidance_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    add = parser.add_argument_group("classifier-free guidance").add_argument
    return [
        add(
            "--guidance-scale",
            type=float,
            metavar="X",
            help="above 1: follow the prompt more closely, at the cost of a second model call per token "
            "(default: no guidance)",
        ),
        add(
            "--negative-prompt-ids",
            type=int_list,
            metavar="IDS",
            help="with --guidance-scale: steer away from this prompt (default: the prompt's last token)",
        ),
    ]


def add_logits_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    add = parser.add_argument_group("logits").add_argument
    return [
        add(
            "--remove-invalid-values",
            action="store_true",
            default=None,
            help="replace NaN by 0, and infinite logits by the largest finite numbers",
        ),
        add(
            "--renormalize-logits", action="store_true", default=None, help="apply log-softmax after all other filters"
        ),
    ]


def add_beam_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    add = parser.add_argument_group(
        "beam search and several answers", "Answers are printed when all of them are complete, without streaming."
    ).add_argument
    return [
        add(
            "--num-beams",
            type=positive_int,
            metavar="N",
            help="beam search: continue the N most probable unfinished answers (default: 1, no beam search)",
        ),
        add(
            "--num-return-sequences",
            type=positive_int,
            metavar="N",
            help="return N answers, which are sampled or the best beams (default: 1)",
        ),
        add(
            "--length-penalty",
            type=float,
            metavar="X",
            help="divide a beam's score by its length to the power of X; larger X: longer answers (default: 1)",
        ),
        add(
            "--early-stopping",
            type=early_stopping,
            metavar="{true,false,never}",
            help="true: end the search at N complete answers; false: also require that no beam has a better score now; "
            "never: require that no beam can reach a better score at any length (default: false)",
        ),
    ]


def add_speculation_flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of speculation. --assistant-model is not among them: `generate` takes the loaded model."""
    group = parser.add_argument_group(
        "speculative decoding",
        "Draft several tokens and check them in one model call. Greedy answers stay the\n"
        "same except for near ties, and sampled answers keep their distribution.\n"
        "Generation is faster where many draft tokens are accepted.",
    )
    add = group.add_argument
    flags = [
        add(
            "--prompt-lookup-num-tokens",
            type=positive_int,
            metavar="N",
            help="draft up to N tokens per call, copied from an earlier place in prompt or answer; try 10 first",
        ),
        add(
            "--max-matching-ngram-size",
            type=positive_int,
            metavar="N",
            help="with --prompt-lookup-num-tokens: match up to N of the newest tokens to find that place (default: 2)",
        ),
    ]
    group.add_argument(
        "--assistant-model",
        metavar="MODEL",
        help="draft with this smaller model, which has the same tokenizer; self: with an int8 copy of the model "
        "itself, or int4 if memory is short; self:int8, self:int4: with that copy; self:FOLDER: with its quantised "
        "folder",
    )
    return [
        *flags,
        add(
            "--num-assistant-tokens",
            type=positive_int,
            metavar="N",
            help="with --assistant-model: draft up to N tokens per call (default: 4; 5 with self)",
        ),
    ]


def add_context_flags(parser: argparse.ArgumentParser, several_answers: bool) -> list[argparse.Action]:
    """The options for long texts. --rope-scaling is not among them: it changes the model when the model is opened."""
    group = parser.add_argument_group("context and memory")
    add = group.add_argument
    group.add_argument(
        "--rope-scaling",
        type=rope_scaling,
        metavar="TYPE:X",
        help="extend the context by the factor X, with scaled rotary embeddings: linear:2, dynamic:2 or yarn:4",
    )
    flags = [
        add(
            "--past-context",
            choices=("refuse", "shift"),
            help="refuse: no answers that exceed the context; shift: remove old tokens when the context is full "
            "(default: refuse)",
        ),
        add(
            "--sink-tokens",
            type=int,
            metavar="N",
            help="with --past-context shift: never remove the first N tokens (default: 4)",
        ),
        add(
            "--prefill-chunk-size",
            type=positive_int,
            metavar="N",
            help="process the prompt N tokens at a time, which takes less memory (default: the whole prompt)",
        ),
    ]
    if several_answers:
        flags.append(
            add(
                "--inexact",
                action="store_false",
                dest="exact",
                default=None,
                help="process the prompt once for all its answers, also where rounding may then differ from "
                "transformers'",
            )
        )
    return flags


# Value types. See `arguments.py`.


def early_stopping(text: str) -> bool | str:
    values: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}
    if text not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is not one of {', '.join(values)}")
    return values[text]


def rope_scaling(text: str) -> tuple[str, float]:
    rope_type, _, factor = text.partition(":")
    try:
        return rope_type, float(factor)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a type and a factor, such as linear:2") from error
