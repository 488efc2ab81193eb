"""The flags of generation: one for each option, in groups, with help."""

from __future__ import annotations

import argparse
import dataclasses

import pytest

from llama_jp.cli.generation_arguments import add_generation_arguments, generation_options
from llama_jp.generation.options import Options
from llama_jp.model import Llama

# Functions cannot be typed, one prompt needs no padding, --greedy and --sample set do_sample, and --top-logprobs is a
# flag of `generate` alone.
NO_FLAG = {
    "prefix_allowed_tokens_fn",
    "logits_processor",
    "stopping_criteria",
    "pad_token_id",
    "do_sample",
    "top_logprobs",
}
SEVERAL_ANSWERS = {"num_beams", "num_return_sequences", "length_penalty", "early_stopping", "exact"}


def make_parser(several_answers: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_generation_arguments(parser, several_answers)
    return parser


def test_every_option_has_a_flag_and_every_flag_an_option():
    """Guards against an option that only Python can set, and against a flag whose option has another name."""
    fields = [field.name for field in dataclasses.fields(Options)]
    names = make_parser().parse_args([]).option_names
    assert sorted(names) == sorted(set(fields) - NO_FLAG)
    assert set(names) - set(make_parser(several_answers=False).parse_args([]).option_names) == SEVERAL_ANSWERS


def test_every_flag_has_help_and_stands_in_a_group():
    parser = make_parser()
    assert all(flag.help for flag in parser._actions)
    in_groups = [flag.dest for group in parser._action_groups[2:] for flag in group._group_actions]
    assert {*parser.parse_args([]).option_names} <= {*in_groups}
    assert in_groups[0] == "max_new_tokens", "the first group begins with the flag that everybody needs"


def test_help_lines_have_one_style():
    """They begin in lower case or with a name, and do not end with a full stop."""
    for flag in make_parser()._actions:
        assert not flag.help.endswith("."), flag.help
        assert flag.help.split()[0] == flag.help.split()[0].lower(), flag.help


def test_an_option_with_an_unknown_name_is_an_error(small):
    """Guards against a flag that is dropped without a word after its option has been renamed."""
    args = make_parser().parse_args(["--top-p", "0.5"])
    args.option_names[args.option_names.index("top_p")] = "top_q"
    args.top_q = args.top_p
    with pytest.raises(TypeError, match="unknown generation option top_q"):
        generation_options(args, Llama.from_pretrained(small))


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ([], {}),
        (["--greedy"], {"do_sample": False}),
        (["--sample", "--seed", "1"], {"do_sample": True, "seed": 1}),
        (["--top-k", "5", "--seed", "1"], {"do_sample": True, "top_k": 5, "seed": 1}),
        (["--stop", "。", "--stop", "!"], {"stop_strings": ["。", "!"]}),
        (["--num-beams", "2", "--early-stopping", "true"], {"num_beams": 2, "early_stopping": True}),
        (["--num-beams", "2", "--early-stopping", "never"], {"num_beams": 2, "early_stopping": "never"}),
        (["--inexact", "--stop-on-loop"], {"exact": False, "stop_on_loop": True}),
    ],
)
def test_only_typed_options_are_set(small, words, options):
    """An option that is not typed has to stay unset, or it would replace the checkpoint's generation_config."""
    assert generation_options(make_parser().parse_args(words), Llama.from_pretrained(small)) == options


def test_sampling_without_a_seed_gets_one(small):
    options = generation_options(make_parser().parse_args(["--temperature", "0.5"]), Llama.from_pretrained(small))
    assert options.keys() == {"temperature", "do_sample", "seed"} and 0 <= options["seed"] < 2**31


@pytest.mark.parametrize(
    "words",
    [
        ["--early-stopping", "maybe"],
        ["--rope-scaling", "linear"],
        ["--suppress-tokens", "a"],
        ["--bad-words-ids", "{"],
        ["--greedy", "--sample"],
    ],
)
def test_wrong_values_are_wrong_usage(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        make_parser().parse_args(words)
    assert stopped.value.code == 2 and words[0] in capsys.readouterr().err
