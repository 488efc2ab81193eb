"""Two processes on the CPU share a model: logits equal up to rounding, own slices only, and no rank that hangs.

The sums over two ranks round in another order, so logits differ by a few units in the last place of the largest.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers import rank_worker
from helpers.rank_worker import HANGING
from helpers.reference import publish, save_random

from llama_jp.checkpoint.config import read_config
from llama_jp.checkpoint.hub import demo_folder
from llama_jp.checkpoint.load import load_model
from llama_jp.checkpoint.tensors import TensorInfo, group_tensors
from llama_jp.cli import main, make_parser, ranks
from llama_jp.speed import tensor_parallel

TESTS = Path(__file__).resolve().parents[1]
ULP = 16  # of the largest logit; measured: 4 to 6
GROUPED = {
    "vocab_size": 97,  # no number of processes shares this evenly
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 128,
}


def start(*words: str, count: int = 2) -> list[subprocess.Popen]:
    """Start the same command on every rank, with torchrun's variables in the environment."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    processes = []
    for rank in range(count):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(
            subprocess.Popen(
                [sys.executable, *words], env=os.environ | shared | own, text=True, encoding="utf-8", **pipes
            )
        )
    processes[0].store = store  # the store lives as long as the processes
    return processes


def finish(processes: list[subprocess.Popen], stdin: str = "") -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of every rank. All of them must end in time."""
    try:
        written = [process.communicate(stdin, timeout=HANGING) for process in processes]
        return [(process.returncode, *out) for process, out in zip(processes, written, strict=True)]
    finally:
        for process in processes:
            process.kill()


def worker(*words: str, **kwargs) -> list[tuple[int, str, str]]:
    return finish(start(str(TESTS / "helpers" / "rank_worker.py"), *words, **kwargs))


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sharded")
    shape = GROUPED | {"attention_bias": True, "mlp_bias": True}
    grouped = save_random(folder / "grouped", 31, torch.float32, **shape, tie_word_embeddings=True)
    untied = save_random(folder / "untied", 32, torch.float32, **shape)
    return {"demo": demo_folder(), "grouped": grouped, "bin": publish(untied, folder / "bin")}


@pytest.fixture(scope="module")
def answers(folders, tmp_path_factory) -> list[dict]:
    """The results of both ranks, by folder."""
    out = tmp_path_factory.mktemp("answers")
    for status, _, err in worker("logits", "float32", str(out), *map(str, folders.values())):
        assert status == 0, err
    return [torch.load(out / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", ["demo", "grouped", "bin"])
def test_logits_and_tokens_are_those_of_one_process(folders, answers, name):
    model = load_model(folders[name], dtype="float32", device="cpu")
    single, (first, second) = rank_worker.every_call(model), (found[str(folders[name])] for found in answers)
    for call in ("whole", "padded", "steps"):
        assert torch.equal(first[call], second[call]), "the ranks must choose the same tokens"
        assert ulps(first[call], single[call]) <= ULP
    for call in ("greedy", "sampled"):
        assert first[call] == second[call] == single[call]


def ulps(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference in units in the last place of the largest logit."""
    largest = theirs.abs().max()
    unit = torch.nextafter(largest, torch.tensor(torch.inf)) - largest
    return ((ours - theirs).abs().max() / unit).item()


@pytest.mark.parametrize("name", ["demo", "grouped"])
def test_a_rank_loads_and_holds_its_own_slices_only(folders, answers, name):
    model = load_model(folders[name], dtype="float32", device="cpu")
    whole = sum(p.numel() for p in model.parameters())
    common = sum(
        p.numel() for n, p in model.named_parameters() if "norm" in n or n.endswith(("o_proj.bias", "down_proj.bias"))
    )
    for found in answers:
        share = found[str(folders[name])]
        assert share["read"] == share["held"]
        assert abs(share["held"] - common - (whole - common) / 2) <= model.config.hidden_size  # the odd token
        assert share["heads in the cache"] == model.config.num_key_value_heads // 2
        assert share["shapes"] == {n: tuple(p.shape) for n, p in model.named_parameters()}
        assert share["contiguous"]
    assert sum(found[str(folders[name])]["held"] - common for found in answers) == whole - common


def test_copied_and_memory_mapped_tensors_have_separate_mappings():
    """Guards against memory that is never freed: a mapping keeps all pages touched, and columns touch whole rows."""
    rows, columns = (slice(0, 2),), (slice(None), slice(0, 2))
    stored = [TensorInfo(Path("file"), str(part), (4, 4), "float32", part) for part in (rows, columns, ())]
    assert [one.nbytes for one in stored] == [32, 32, 64]
    groups = [group for _, group in group_tensors(stored, torch.float32, torch.device("cpu"))]
    assert groups == [[stored[0], stored[2]], [stored[1]]]


def test_one_process_imports_neither_torch_distributed_nor_a_compiler():
    """Guards against two seconds at each start: random initial weights on the meta device would import a compiler."""
    code = "import sys, llama_jp; llama_jp.load('demo', device='cpu'); print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": str(TESTS.parent)}
    modules = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    unwanted = {"torch.distributed.tensor", "torch._dynamo", "llama_jp.speed.tensor_parallel", "llama_jp.cli.ranks"}
    assert not unwanted & set(modules.split())


GENERATE = ("generate", "クマが", "--dtype", "float32", "--device", "cpu", "--max-new-tokens", "6")


def test_the_command_line_answers_once(capsys):
    """Guards against different seeds, and against a prompt on standard input that only one process gets."""
    words = [*GENERATE, "--json", "--temperature", "9", "--top-k", "0"]
    stdin = words.pop(1) + "\n"
    (status, out, err), other = finish(start("-m", "llama_jp", *words), stdin)
    assert status == 0, err
    assert other == (0, "", "")
    answer = json.loads(out)
    assert main([*words, stdin.strip(), "--seed", str(answer["options"]["seed"])]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == answer["ids"]
    assert "6 new (length)" in err


def test_unsupported_settings_are_refused(folders, monkeypatch, capsys):
    with pytest.raises(ValueError, match="num_key_value_heads is 2, which 4 processes cannot share evenly"):
        tensor_parallel.refuse_uneven(read_config(folders["grouped"]), 4)
    for words, sentence in (
        (["--max-time", "3"], "--max-time works in a single process: the clocks of several processes differ"),
        (["--cache", "file"], "--cache works in a single process: each process has the keys and values of its own"),
        (["--device", "cuda:1"], "each process takes a GPU of its own: --device cuda, not cuda:1"),
        (["--model", "module:make"], "several processes share a checkpoint, and module:make is a function; write its"),
        (["--device", "meta"], "the device .meta. holds no numbers"),
    ):
        args = make_parser().parse_args([*GENERATE, *words])
        with pytest.raises(ValueError, match=sentence):
            ranks.open_sharded(args)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(ranks, "choose_device", lambda device: torch.device("cuda"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="2 processes need a GPU each, but this machine has 1; start fewer, or add"):
        ranks.make_mesh("auto")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sys, "argv", ["llama-jp", "chat"])
    assert ranks.run(main) == 2
    assert capsys.readouterr().err.startswith("llama-jp: under torchrun only generate and finetune work")


@pytest.mark.parametrize(("failure", "seconds"), [("other", 2 * HANGING), ("die", 2 * HANGING), ("hang", 3)])
def test_a_rank_that_fails_stops_the_others_with_one_line(failure, seconds):
    """Guards against ranks that wait for ever: a dead rank is noticed at once, a silent one after the timeout."""
    ended = worker("command", str(seconds), failure, *GENERATE)
    assert ended[0][0] == 1 and ended[1][0] != 0
    written = "".join(err for _, _, err in ended)
    assert written.startswith(
        "llama-jp: rank 1 of 2: nowhere is no" if failure == "other" else "llama-jp: rank 0 of 2: "
    )
    assert written.count("\n") == 1


def test_standard_input_is_restored(monkeypatch):
    """Guards against a replaced `sys.stdin` after an exception."""
    stdin = io.StringIO("text")
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(KeyboardInterrupt), ranks.shared_stdin(dist.HashStore()):
        assert isinstance(sys.stdin, ranks.SharedInput) and not sys.stdin.isatty()
        with pytest.raises(ValueError, match=r"read\(\) takes no size, not 3"):
            sys.stdin.read(3)
        raise KeyboardInterrupt
    assert sys.stdin is stdin


def test_an_adapter_is_refused():
    """Guards against the base model's answers where an adapter was named."""
    with pytest.raises(ValueError, match="an adapter is not merged on several processes; merge it in one"):
        tensor_parallel.ShardedLlama.from_pretrained("demo", adapter="adapter")
