"""llama-jp chat."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys

import pytest

import llama_jp
from llama_jp.cli import main
from llama_jp.cli.conversation import Conversation


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

    monkeypatch.setattr("llama_jp.cli.chat.load_model_of", open_counting_model)
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

    monkeypatch.setattr("llama_jp.cli.chat.load_model_of", open_interrupted_model)
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


def talk(run, *lines: str, flags: tuple[str, ...] = ("--max-new-tokens", "4"), **options) -> tuple[list[str], str]:
    """The answers to lines from a pipe, and standard error."""
    status, out, err = run("chat", "--dtype", "float32", *flags, stdin="\n".join(lines) + "\n", **options)
    assert status == 0, err
    return out.splitlines(), err


def expected_answer(folder, message: str, **options) -> str:
    model, tokenizer = llama_jp.load(folder, dtype="float32")
    prompt = llama_jp.instruct_prompt(tokenizer, message, history=options.pop("history", ()))
    return "".join(llama_jp.stream_text(model, tokenizer, prompt, **({"max_new_tokens": 4} | options)))


def test_the_chat_goes_on_when_the_context_is_full(run):
    """Guards against a conversation that refuses every message from the first one on that does not fit."""
    _, err = talk(run, *["犬は長い坂を下りてきます" * 3] * 12, flags=("--max-new-tokens", "20"))
    assert "/reset clears" not in err
    assert err.count("the context of 512 tokens is full: the chat goes on without its ") == 1, "said once"
    reports = [line for line in err.splitlines() if "prompt tokens" in line]
    assert len(reports) == 12
    assert reports[-1].endswith("turns forgotten") and "forgotten" not in reports[0]
    assert all(int(line.split()[0]) + 20 <= 512 for line in reports)


def test_the_prompt_of_a_full_context_is_that_of_the_newest_turns(run, folder, tmp_path):
    messages = [f"{number}番目の犬は長い坂を下りてきます" for number in range(9)]
    answers, err = talk(run, *messages, f"/save {tmp_path / 'talk.json'}", flags=("--max-new-tokens", "20"))
    saved = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    turns = [(saved[i]["content"], saved[i + 1]["content"]) for i in range(0, len(saved), 2)]
    assert [user for user, _ in turns] == messages, "the file has the forgotten turns too"
    forgotten = int(err.splitlines()[-2].rpartition(", ")[2].split()[0])
    assert 0 < forgotten < 8
    again = expected_answer(folder, messages[-1], history=turns[forgotten:-1], max_new_tokens=20)
    assert again == turns[-1][1]


def test_past_context_refuse_still_refuses(run):
    flags = ("--max-new-tokens", "20", "--past-context", "refuse")
    _, err = talk(run, *["犬は長い坂を下りてきます" * 3] * 12, flags=flags)
    assert err.count("prompt tokens") < 12 and "--past-context shift lets a text exceed the context" in err


def test_several_lines_are_one_message(run, folder):
    answers, _ = talk(run, '"""犬', "は", '坂"""', "/reset", "犬\\", "は\\", "坂", "/reset", "//exit")
    assert answers == [expected_answer(folder, text) for text in ("犬\nは\n坂", "犬\nは\n坂", "/exit")]


def test_retry_replaces_the_last_answer(run, folder, tmp_path):
    lines = (
        "/retry",
        "犬",
        "/set temperature 3",
        "/set seed 3",  # not any seed: an answer with a line end would be two lines here
        "/retry",
        f"/save {tmp_path / 'talk.json'}",
        "/set temperature default",
        "/set seed default",
    )
    answers, err = talk(run, *lines, "/set do_sample false", "/retry")
    assert "there is no message to answer again" in err and "the answer will be the same" in err
    assert answers[0] == answers[2] == expected_answer(folder, "犬") != answers[1]
    turns = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert [turn["content"] for turn in turns] == ["犬", answers[1]]


def test_a_saved_conversation_goes_on(run, folder, tmp_path):
    file = tmp_path / "talk.json"
    first, _ = talk(run, "/system 短く", "犬", f"/save {file}")
    answers, err = talk(run, f"/load {file}", "/system", "猫")
    assert "the conversation goes on after 1 turn\n短く\n" in err
    both, _ = talk(run, "/system 短く", "犬", "猫")
    assert answers == both[1:]


@pytest.mark.parametrize("name", ["/exit", "/quit", "/bye", "/q"])
def test_every_usual_name_leaves_the_chat(run, name):
    assert talk(run, name, "犬")[0] == []


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("/set temperature -1", "temperature has to be a number above 0"),
        ("/set temperature x", "--temperature: invalid float value: 'x'"),
        ("/set temperatur 1", "there is no option temperatur to set in a chat; did you mean temperature?"),
        ("/set model demo", "there is no option model to set in a chat"),
        ("/set stop_on_loop maybe", "stop_on_loop is true, false or default, not maybe"),
        ("/set past_context never", "--past-context: invalid choice: 'never'"),
        ("/set min_new_tokens 50", "min_new_tokens is 50, but max_new_tokens is 4"),
        ("/set max_new_tokens 600", "max_new_tokens is 600, but the context holds 512"),
        ("/save", "/save needs the name of a file"),
        ("/save /no/such/folder/x", "No such file or directory"),
        ("/load /no/such/file", "/no/such/file: No such file or directory"),
        (f"/load {__file__}", "is no saved conversation"),
        ("/rety", "there is no command /rety; did you mean /retry?"),
    ],
)
def test_a_wrong_command_gets_one_sentence_and_changes_nothing(run, folder, line, sentence):
    answers, err = talk(run, line, "犬")
    assert sentence in err and err.count("\n") == 3, "the form of the prompt, the sentence, the report"
    assert answers == [expected_answer(folder, "犬")]


def test_options_are_set_as_by_their_flags(run, folder):
    lines = ("/set max-new-tokens 6", "/set --top_k 3", "/set seed 5", "/set stop_strings 。", "/set", "犬")
    answers, err = talk(run, *lines)
    assert "max_new_tokens 6\n" in err and "top_k 3\n" in err and "stop_strings ['。']\n" in err
    options = {"max_new_tokens": 6, "top_k": 3, "seed": 5, "do_sample": True, "stop_strings": ["。"]}
    assert answers == [expected_answer(folder, "犬", **options)]


def test_a_seed_and_greedy_decoding_contradict_each_other(run):
    """Guards against a seed that turns sampling on in silence, and against one that a greedy answer ignores."""
    _, err = talk(run, "/set do_sample false", "/set seed 5", "/set do_sample default", "/set seed 5")
    refused = "do_sample false chooses no token at random, so it cannot be combined with seed; /set one of them"
    assert f"do_sample: false\n{refused}" in err and err.endswith("do_sample: default\nseed: 5; sampling from now on\n")
    _, err = talk(run, "/set seed 5", "/set do_sample false", "/set seed default")
    assert f"sampling from now on\n{refused}" in err and err.endswith("seed: default; greedy from now on\n")


def test_a_full_memory_does_not_end_the_chat(run, folder, monkeypatch):
    """Guards against the loss of a conversation to one message that is too large for the machine."""
    answer, calls = Conversation.answer, []

    def fail_once(self, message, options):
        calls.append(message)
        if len(calls) == 1:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes.")
        answer(self, message, options)

    monkeypatch.setattr(Conversation, "answer", fail_once)
    answers, err = talk(run, "猫", "犬")
    assert "the memory is full: 8.00 GiB more are needed" in err and answers == [expected_answer(folder, "犬")]


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals of Unix")
@pytest.mark.parametrize("with_prompt_toolkit", [False, True])
def test_a_pasted_text_is_one_message_and_history_is_kept(folder, tmp_path, with_prompt_toolkit):
    """A real terminal: three lines arrive at once, with the marks of a paste where the program asked for them."""
    if with_prompt_toolkit:
        pytest.importorskip("prompt_toolkit")
    else:
        (tmp_path / "prompt_toolkit.py").write_text("raise ImportError\n", encoding="utf-8")
    paste = "犬\r猫\r鳥".encode()
    script = [
        (b"/help shows the commands", b"\x1b[200~" + paste + b"\x1b[201~" if with_prompt_toolkit else paste),
        ("鳥".encode(), b"\r"),
        (b"tokens/s", f"/save {tmp_path / 'talk.json'}\r".encode()),
        (b"saved", b"quit\r"),
    ]
    path = os.pathsep.join(filter(None, [str(tmp_path), *sys.path]))
    environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "PYTHONPATH": path, "TERM": "xterm", "PYTHONUTF8": "1"}
    words = [sys.executable, "-m", "llama_jp", "chat", str(folder), "--max-new-tokens", "4"]
    assert type_in_terminal(words, script, environment) == 0
    turns = json.loads((tmp_path / "talk.json").read_text(encoding="utf-8"))
    assert [turn["content"] for turn in turns if turn["role"] == "user"] == ["犬\n猫\n鳥"]
    (history,) = (tmp_path / "llama-jp").iterdir()
    assert "猫" in history.read_text(encoding="utf-8") and history.stat().st_mode & 0o077 == 0


def type_in_terminal(words: list[str], script: list[tuple[bytes, bytes]], environment: dict[str, str]) -> int:
    """Run a program in a pseudo-terminal; type each text when the one before it has appeared. Returns the status."""
    import pty
    import select
    import subprocess
    import time

    master, slave = pty.openpty()
    process = subprocess.Popen(
        words, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True, close_fds=True
    )
    os.close(slave)
    seen, deadline = b"", time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                new = os.read(master, 65536)
            except OSError:  # the program has closed the terminal
                break
            seen += new
            if b"\x1b[6n" in new:  # the position of the cursor, which a terminal reports
                os.write(master, b"\x1b[1;1R")
        elif script and script[0][0] in seen:
            os.write(master, script.pop(0)[1])
            seen = b""
    os.close(master)
    return process.wait(timeout=10)
