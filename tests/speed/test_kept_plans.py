"""Kept plans: taken on the same machine only, checked again when they are taken, and never an error."""

from __future__ import annotations

import importlib
import json
import warnings

import pytest
import torch

import llama_jp
from llama_jp import Llama
from llama_jp.cli import main
from llama_jp.linear import kernels
from llama_jp.linear.kernels import LinearKernel
from llama_jp.linear.programs import program_folder
from llama_jp.speed import kept_plans
from llama_jp.speed.kept_plans import forget_plans, plan_file

optimize_module = importlib.import_module("llama_jp.speed.optimization")
IDS = torch.arange(3, 23).view(2, 10)


@pytest.fixture
def model(small) -> Llama:
    return Llama.from_pretrained(small, dtype="float32")


def measurements(monkeypatch) -> list[str]:
    """The layers for which kernels are measured from now on."""
    measured, select = [], optimize_module.select_kernel

    def record(kernels, groups, *rest):
        measured.append(f"{groups[0][0].out_features} x {groups[0][0].in_features}")
        return select(kernels, groups, *rest)

    monkeypatch.setattr(optimize_module, "select_kernel", record)
    return measured


@torch.no_grad()
def test_a_second_start_only_packs(model, monkeypatch):
    """Guards against a plan that is measured again, and against other bits or other kernels than the first time."""
    expected = model(IDS)
    measured = measurements(monkeypatch)
    first = llama_jp.optimize(model, "exact")
    assert len(measured) == 5
    assert torch.equal(model(IDS), expected)
    first.undo()
    measured.clear()
    monkeypatch.setattr(optimize_module, "sample_logits", lambda *_: pytest.fail("the whole model is not measured"))
    second = llama_jp.optimize(model, "exact", measure=False)
    assert measured == [] and second.deviation is None and "each product was compared" in str(second)
    assert second.choices == first.choices and second.left_alone == first.left_alone
    assert torch.equal(model(IDS), expected)
    second.undo()
    assert torch.equal(model(IDS), expected)


@pytest.mark.parametrize("difference", ["level", "rows", "dtype", "threads", "machine", "kernels", "zentorch"])
def test_a_plan_belongs_to_its_machine_and_settings(small, monkeypatch, difference):
    """Guards against a plan that was measured for something else."""
    llama_jp.optimize(Llama.from_pretrained(small, dtype="float32"), "exact", rows=1)
    measured = measurements(monkeypatch)
    if difference == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    elif difference == "machine":
        here = kept_plans.describe_environment()
        monkeypatch.setattr(kept_plans, "describe_environment", lambda: here | {"cpu": "another"})
    elif difference == "kernels":
        monkeypatch.setattr(kept_plans, "KERNELS", kernels.KERNELS[:-1])
    elif difference == "zentorch":
        monkeypatch.setattr(kept_plans, "package_version", lambda name: f"another {name}")
    model = Llama.from_pretrained(small, dtype="bfloat16" if difference == "dtype" else "float32")
    llama_jp.optimize(model, "close" if difference == "level" else "exact", rows=2 if difference == "rows" else 1)
    assert len(measured) == 5
    assert len(json.loads(plan_file().read_text())["machines"]) == 1 + (
        difference in ("threads", "machine", "kernels", "zentorch")
    )


def with_attention(text: str, choice: dict) -> str:
    """The file with one more choice."""
    content = json.loads(text)
    next(iter(content["machines"].values()))["attention"] = choice
    return json.dumps(content)


def with_pack_seconds(text: str, seconds: float) -> str:
    """The file with another time in every choice."""
    content = json.loads(text)
    for choices in content["machines"].values():
        for choice in choices.values():
            choice["pack_seconds"] = seconds
    return json.dumps(content)


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "list": lambda text: "[]",
    "no machines": lambda text: json.dumps({"format": kept_plans.FORMAT}),
    "nested": lambda text: "[" * 100_000,
    "machine is a number": lambda text: json.dumps({"format": kept_plans.FORMAT, "machines": {"here": 7}}),
    "speed is a text": lambda text: text.replace('"speedup": 1.0', '"speedup": "1"').replace('"speedup": ', '"x": '),
    "speed is NaN": lambda text: text.replace('"pack_seconds": ', '"pack_seconds": NaN, "y": '),
    "speed is huge": lambda text: with_pack_seconds(text, 10**400),
    "another format": lambda text: text.replace(f'"format": {kept_plans.FORMAT}', '"format": 999'),
    "attention without speedups": lambda text: with_attention(text, {"kernel": None}),
    "speedups in a list": lambda text: with_attention(text, {"kernel": None, "speedups": [2.0]}),
    "keys are a word": lambda text: with_attention(text, {"kernel": None, "speedups": {"many": 2.0}}),
    "a speedup is null": lambda text: with_attention(text, {"kernel": None, "speedups": {"64": None}}),
    "a speedup is huge": lambda text: with_attention(text, {"kernel": None, "speedups": {"64": 10**400}}),
    "attention by a number": lambda text: with_attention(text, {"kernel": 7, "speedups": {}}),
}


@pytest.mark.parametrize("damage", DAMAGES)
@torch.no_grad()
def test_a_damaged_plan_is_ignored(model, damage):
    """Guards against a traceback, and against a damaged file that stays: one warning, and the next start is silent."""
    expected = model(IDS)
    llama_jp.optimize(model).undo()
    plan_file().write_text(DAMAGES[damage](plan_file().read_text()))
    with pytest.warns(UserWarning, match="is damaged and ignored, so kernels are measured again") as warned:
        llama_jp.optimize(model).undo()
    assert len(warned) == 1 and "\n" not in str(warned[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llama_jp.optimize(model)
    assert torch.equal(model(IDS), expected)


def test_a_file_without_choices_of_attention_is_measured_again(model):
    """Guards against a warning of damage at the first start of a newer version."""
    llama_jp.optimize(model).undo()
    plan_file().write_text(plan_file().read_text().replace(f'"format": {kept_plans.FORMAT}', '"format": 1'))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llama_jp.optimize(model)
    assert json.loads(plan_file().read_text())["format"] == kept_plans.FORMAT


@pytest.mark.parametrize("obstacle", ["file", "no permission", "unreadable", "no home"])
def test_a_folder_that_cannot_be_used_is_no_error(model, cache_folder, tmp_path, monkeypatch, obstacle):
    if obstacle == "file":
        cache_folder.write_text("a file in the place of the folder")
    elif obstacle == "no permission":
        monkeypatch.setattr(kept_plans, "write_whole", raise_permission_error)
    elif obstacle == "unreadable":
        llama_jp.optimize(model).undo()
        monkeypatch.setattr(kept_plans, "read_text_file", raise_permission_error)
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(kept_plans.Path, "home", raise_runtime_error)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        llama_jp.optimize(model)
    assert forget_plans() == [] or obstacle == "unreadable"


def test_a_relative_cache_folder_is_not_used(monkeypatch, tmp_path):
    """Guards against a folder in every folder from which a command is started; the XDG specification ignores it."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert plan_file() == tmp_path / ".cache" / "llama-jp" / kept_plans.FILE_NAME


def raise_permission_error(*_):
    raise PermissionError(13, "Permission denied")


def raise_runtime_error(*_):
    raise RuntimeError("Could not determine home directory.")


class WrongLater(LinearKernel):
    """Right when it is tested, and wrong with the model's weights: as a library that was replaced since."""

    name = "wrong later"
    kinds = ("float",)
    is_wrong = False

    def __call__(self, x):
        return super().__call__(x) * (1.1 if WrongLater.is_wrong else 1.0)


@pytest.mark.parametrize("level", ["exact", "close"])
@torch.no_grad()
def test_a_kept_kernel_that_is_wrong_now_is_not_taken(model, monkeypatch, level):
    """Guards against trust in a file: every packed product is compared with the layers before it replaces them."""
    expected = model(IDS)
    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, WrongLater))
    monkeypatch.setattr(WrongLater, "is_wrong", False)
    always = optimize_module.Selection(WrongLater, 2.0, 2.0, 1.0)
    with monkeypatch.context() as context:
        context.setattr(optimize_module, "select_kernel", lambda *_: always)
        first = llama_jp.optimize(model, level)
    assert {choice.kernel for choice in first.choices} == {"wrong later"}
    first.undo()
    monkeypatch.setattr(WrongLater, "is_wrong", True)
    with pytest.warns(UserWarning, match="wrong later is not used for"):
        second = llama_jp.optimize(model, level, measure=False)
    assert {choice.kernel for choice in second.choices} <= {"plain"}
    assert torch.equal(model(IDS), expected)


class FailsLater(LinearKernel):
    """Right when it is tested, and failing with the model's weights."""

    name = "fails later"
    kinds = ("float",)
    fails_in: str | None = None

    def __init__(self, weight):
        if FailsLater.fails_in == "packing":
            raise RuntimeError("no such operator")
        super().__init__(weight)

    def __call__(self, x):
        if FailsLater.fails_in == "product":
            raise OSError("no such operator")
        return super().__call__(x)


@pytest.mark.parametrize("fails_in", ["packing", "product"])
@torch.no_grad()
def test_a_kept_kernel_that_fails_now_is_not_taken(model, monkeypatch, fails_in):
    """Guards against a traceback of a library that was replaced since: one sentence, and another kernel."""
    expected = model(IDS)
    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, FailsLater))
    monkeypatch.setattr(FailsLater, "fails_in", None)
    with monkeypatch.context() as context:
        context.setattr(optimize_module, "select_kernel", lambda *_: optimize_module.Selection(FailsLater, 2.0))
        llama_jp.optimize(model, "close").undo()
    kernels.try_kernel(FailsLater, "float", torch.float32, kernels.SMALL_SHAPE, torch.backends.quantized.engine)
    monkeypatch.setattr(FailsLater, "fails_in", fails_in)
    with pytest.warns(UserWarning, match="fails later is not used for .*: no such operator$"):
        second = llama_jp.optimize(model, "close", measure=False)
    assert {choice.kernel for choice in second.choices} <= {"plain"}
    assert torch.allclose(model(IDS), expected, atol=1e-5)
    second.undo()
    assert torch.equal(model(IDS), expected)


def test_a_kept_name_of_a_kernel_of_another_level_is_not_taken(model):
    """Guards against a file that somebody edited: level "exact" takes kernels with bit-identical results only."""
    llama_jp.optimize(model).undo()
    content = json.loads(plan_file().read_text())
    for choices in content["machines"].values():
        for choice in choices.values():
            choice["kernel"] = "mv"
    plan_file().write_text(json.dumps(content))
    assert "mv" not in {choice.kernel for choice in llama_jp.optimize(model).choices}


def test_bench_forgets_the_plans(model, capsys):
    llama_jp.optimize(model)
    file, folder = plan_file(), program_folder()
    assert file in file.parent.iterdir() and {*file.parent.iterdir()} <= {file, folder}, "no temporary file stays"
    folder.mkdir(exist_ok=True)
    (folder / "program.json").touch()
    assert main(["bench", "--forget"]) == 0 and list(file.parent.iterdir()) == []
    assert main(["bench", "--forget"]) == 0
    assert capsys.readouterr().err == f"{file}: removed\n{folder}: removed\nno kernel choices are kept\n"


def test_two_processes_keep_both_their_choices(model):
    """Guards against a file with the choices of the last writer only."""
    plans = [kept_plans.KeptPlans() for _ in range(2)]
    for name, each in zip(("one", "two"), plans, strict=True):
        each.keep(name, kept_plans.KeptChoice(None, 1.0, 1.0, 0.0, 0.0))
        each.save()
    assert set(kept_plans.KeptPlans().choices) == {"one", "two"}
