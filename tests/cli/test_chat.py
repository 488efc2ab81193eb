"""llama-jp chat."""

from __future__ import annotations

import io
import shutil
import sys

import pytest

import llama_jp
from llama_jp.cli import main


def test_chat_keeps_the_conversation(run, folder):
    lines = "犬\n猫\n/system 短く\n/system\n猫\n/fly\n/reset\n/help\n/exit\n犬\n"
    status, out, err = run("chat", "--max-new-tokens", "6", "--dtype", "float32", stdin=lines)
    answers = out.splitlines()
    assert status == 0
    model, tokenizer = llama_jp.load(folder, dtype="float32")

    def expected(message, **options):
        prompt = llama_jp.instruct_prompt(tokenizer, message, **options)
        return "".join(llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=6))

    first = expected("犬")
    assert out == f"{first}\n{expected('猫', history=[('犬', first)])}\n{expected('猫', system='短く')}\n"
    for message in ("conversation is cleared", "短く", "there is no command /fly", "/reset          clear"):
        assert message in err
    assert answers and "warning" not in err


def test_a_turn_prefills_only_its_new_tokens(folder, monkeypatch, capsys):
    """Guards against a conversation whose turns are all prefilled again at each turn."""
    seen = []

    def open_counting_model(args):
        model, tokenizer = llama_jp.load(folder, dtype="float32")
        model.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
        return model, tokenizer

    monkeypatch.setattr("llama_jp.cli.chat.open_model", open_counting_model)
    monkeypatch.setattr(sys, "stdin", io.StringIO("犬は坂を下りてきます\n犬\n"))
    main(["chat", "--max-new-tokens", "3", "--model", str(folder)])
    first, second = [length for length in seen if length > 1]
    assert second < first / 2


def test_ctrl_c_ends_the_answer_and_keeps_the_conversation(folder, monkeypatch, capsys):
    calls = []

    def open_interrupted_model(args):
        model, tokenizer = llama_jp.load(folder, dtype="float32")

        def hook(*_):
            calls.append(1)
            if len(calls) == 4:
                raise KeyboardInterrupt

        model.layers[1].register_forward_hook(hook)
        return model, tokenizer

    monkeypatch.setattr("llama_jp.cli.chat.open_model", open_interrupted_model)
    monkeypatch.setattr(sys, "stdin", io.StringIO("犬\n猫\n"))
    assert main(["chat", "--max-new-tokens", "8", "--model", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert "3 new (interrupted)" in err and "8 new (length)" in err
    cut, second = out.splitlines()
    model, tokenizer = llama_jp.load(folder, dtype="float32")
    prompt = llama_jp.instruct_prompt(tokenizer, "猫", history=[("犬", cut)])
    assert "".join(llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=8)) == second


def test_a_message_too_long_does_not_end_the_chat(run):
    status, out, err = run("chat", "--max-new-tokens", "4", stdin="犬" * 600 + "\n犬\n")
    assert (
        status == 0
        and "the context holds 512" in err
        and "/reset clears the conversation" in err
        and out.count("\n") == 1
    )


def test_a_base_model_gets_a_warning(run, folder, tmp_path):
    """Guards against a base model that is taken for an instruct model by the name of its folder."""
    base = shutil.copytree(folder, tmp_path / "base-instruct")
    (base / "chat_template.jinja").unlink()
    status, _, err = run("chat", stdin="/exit\n", model=base)
    assert status == 0 and "warning: this looks like a base model, because it has no chat template" in err
    assert "prompt: ELYZA's instruction template (from llama_jp, because the checkpoint has none)" in err
    assert "prompt: ELYZA's instruction template (from chat_template.jinja)" in run("chat", stdin="/exit\n")[2]


def test_chat_uses_the_checkpoints_own_template(run, folder, tmp_path):
    """Guards against ELYZA's form for a model that was trained on another; a refusal keeps the conversation."""
    own = shutil.copytree(folder, tmp_path / "own")
    refusal = "{% if messages|length > 2 %}{{ raise_exception('one turn only') }}{% endif %}"
    (own / "chat_template.jinja").write_text(refusal + "{{ bos_token }}[{{ messages[-1].content }}]", encoding="utf-8")
    flags = ("--max-new-tokens", "4", "--dtype", "float32")
    status, out, err = run("chat", *flags, stdin="/system\n犬\n猫\n/reset\n猫\n", model=own)
    model, tokenizer = llama_jp.load(own, dtype="float32")
    answers = [
        "".join(llama_jp.stream_text(model, tokenizer, tokenizer.encode(f"[{text}]"), max_new_tokens=4))
        for text in "犬猫"
    ]
    assert status == 0 and out == "".join(f"{answer}\n" for answer in answers)
    assert "prompt: the checkpoint's chat template (from chat_template.jinja)" in err
    assert "the system prompt is the template's own" in err and "one turn only; /reset clears" in err


@pytest.mark.parametrize("past_context", ["refuse", "shift"])
def test_a_turn_prefills_only_its_new_tokens_in_both_context_modes(capsys, base_folder, monkeypatch, past_context):
    """Guards against a turn that prefills the turns before, and against the reuse of a cache that has shifted."""
    lengths: list[list[int]] = [[]]  # of the ids of each model call, by turn
    plain = llama_jp.Llama.forward

    def counted(self, ids, cache=None, **options):
        lengths[-1].append(ids.shape[1])
        return plain(self, ids, cache, **options)

    def type_message(prompt=""):
        if len(lengths) > 3:
            raise EOFError
        lengths.append([])
        return "猫"

    monkeypatch.setattr(llama_jp.Llama, "forward", counted)
    monkeypatch.setattr("builtins.input", type_message)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    flags = ["--max-new-tokens", "20", "--past-context", past_context, "--dtype", "float32", "--eos-token-id", "0"]
    assert main(["chat", "--model", str(base_folder), *flags]) == 0
    first, second, third = (turn[0] for turn in lengths[1:4])
    assert first > second and first > third, "turns have equal lengths, but only the first has the system prompt"
    assert abs(second - third) <= 20, "no turn prefills the turns before"


def test_chat_refuses_wrong_values_before_the_first_turn(capsys, base_folder):
    """It has no beam search either: a conversation streams one answer."""
    assert main(["chat", "--model", str(base_folder), "--temperature", "-1"]) == 1
    assert "temperature has to be a number above 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["chat", "--model", str(base_folder), "--num-beams", "2"])


def test_a_turn_reports_its_cached_tokens(capsys, base_folder, monkeypatch):
    """The first turn has none. The second has the first prompt, except tokens that merge with the answer."""
    monkeypatch.setattr("sys.stdin", io.StringIO("吾輩は猫である。\nなまえはまだない。\n"))
    assert main(["chat", "--model", str(base_folder), "--dtype", "float32", "--greedy", "--max-new-tokens", "4"]) == 0
    reports = [line for line in capsys.readouterr().err.splitlines() if "prompt tokens" in line]
    first = int(reports[0].split()[0])
    assert "cached" not in reports[0]
    cached = int(reports[1].split("(")[1].split()[0])
    assert first <= cached + 2
