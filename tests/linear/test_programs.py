"""Compiled programs: the function's results at all sizes, kept for a later start, and used only where they belong."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from llama_jp.linear import programs
from llama_jp.linear.kernels import quantize_rows, scale_rows, sum_of_products, unscale_rows
from llama_jp.linear.one_query import random_query, weigh_values
from llama_jp.linear.programs import Compiled, program_folder

X = torch.arange(12.0).view(3, 4)
Y = torch.arange(4.0) - 1


def multiply_and_add(x: torch.Tensor, y: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """x (M, K), y (K,) -> (M, K), (M,)."""
    return (x * y).to(dtype), (x * y).sum(-1)


def run(x: torch.Tensor = X, y: torch.Tensor = Y, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """What a new start computes."""
    return Compiled(multiply_and_add)(x, y, dtype)


def expect_right(results: tuple[torch.Tensor, ...], x: torch.Tensor = X, dtype: torch.dtype = torch.float64) -> None:
    """Sums of small whole numbers are exact."""
    for result, expected in zip(results, multiply_and_add(x, Y[: x.shape[-1]], dtype), strict=True):
        assert torch.equal(result, expected) and result.dtype == expected.dtype


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """The kept program of `multiply_and_add`, compiled once for all tests."""
    with pytest.MonkeyPatch.context() as context, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        context.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("programs")))
        torch.set_num_threads(1)
        expect_right(run())
        (file,) = program_folder().iterdir()
        return file.read_text()


@pytest.fixture
def file(text, cache_folder):
    """The file of the kept program in the cache folder of this test."""
    key = programs.describe_program(multiply_and_add, (X, Y, torch.float64))
    file = programs.file_of(key)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


def code_in(text: str) -> programs.Code:
    raw = json.loads(text.split("\n", 1)[1])
    return programs.Code(raw["call"], {name: base64.b64decode(code) for name, code in raw["kernels"].items()})


def with_checksum(text: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


@pytest.fixture
def no_compiler(monkeypatch):
    def fail(*_):
        raise RuntimeError("nothing may be compiled here")

    monkeypatch.setattr(programs, "compile_program", fail)
    monkeypatch.setattr(programs, "with_torch_compile", fail)


def test_a_kept_program_is_right_at_all_sizes(file, no_compiler):
    """Rows, columns and strides other than those it was compiled for: guards against sizes that became constants."""
    program = Compiled(multiply_and_add)
    for rows, columns in ((3, 4), (1, 4), (3, 1), (1, 1), (4, 3), (5, 2), (2, 2)):
        wide = torch.arange(float(2 * rows * 9)).view(2 * rows, 9)
        for x in (wide[:rows, :columns].contiguous(), wide[::2, 3 : 3 + columns], wide.t()[:columns, ::2].t()):
            expect_right(program(x, Y[:columns], torch.float64), x)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            expect_right(program(X.clone(), Y.clone(), torch.float64))
    assert len(program.programs) == 1


def test_sizes_that_do_not_match_are_an_error(file, no_compiler):
    """Guards against a kernel that loads numbers past the end of a tensor."""
    with pytest.raises(AssertionError, match="expected size"):
        run(y=torch.ones(3))


def test_other_calls_get_the_function_itself(file, no_compiler):
    """Gradients, empty tensors, and a graph of torch.compile around the call."""
    x = X.clone().requires_grad_()
    run(x)[1].sum().backward()
    assert torch.equal(x.grad, Y.expand_as(X))
    expect_right(run(X[:0]), X[:0])
    whole = torch.compile(lambda x: Compiled(multiply_and_add)(x, Y, torch.float64), backend="eager", fullgraph=True)
    expect_right(whole(X))


@pytest.mark.parametrize("change", ["source", "threads", "dtype", "constant", "machine", "torch"])
def test_a_program_for_another_call_or_machine_is_not_used(file, monkeypatch, change):
    """Each of these compiles another program, which here fails."""
    x, dtype = X, torch.float64
    if change == "source":
        monkeypatch.setattr(programs.inspect, "getsourcefile", lambda _: programs.__file__)
    elif change == "threads":
        torch.set_num_threads(2)
    elif change == "dtype":
        x = X.double()
    elif change == "constant":
        dtype = torch.bfloat16
    else:
        name = {"machine": "cpu_family_model", "torch": "torch"}[change]
        other = programs.machine() | {name: "another"}
        monkeypatch.setattr(programs, "machine", lambda: other)
    monkeypatch.setattr(programs, "compile_program", lambda *_: 1 / 0)
    monkeypatch.setattr(programs, "with_torch_compile", lambda *_: pytest.fail("compiled"))
    with pytest.raises(pytest.fail.Exception, match="compiled"):
        Compiled(multiply_and_add)(x, Y, dtype)


DAMAGES = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "one byte of a kernel": lambda text: text.replace("AAAAAAAA", "AAAAAAAB", 1),
    "no JSON": lambda text: with_checksum("{"),
    "another program": lambda text: with_checksum(text.split("\n", 1)[1].replace("multiply_and_add", "divide", 1)),
    "no kernel": lambda text: with_checksum(
        json.dumps(json.loads(text.split("\n", 1)[1]) | {"kernels": {"k": "AA=="}})
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_program_is_compiled_again(file, text, monkeypatch, damage):
    """With a warning, and the new program replaces it."""
    monkeypatch.setattr(programs, "compile_program", lambda *_: code_in(text))
    file.write_text(DAMAGES[damage](text))
    with pytest.warns(UserWarning, match=r"multiply_and_add-\w+\.json is damaged and ignored, so it is compiled again"):
        expect_right(run())
    assert file.read_text() == text and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("obstacle", ["file", "no permission", "unreadable", "no home"])
def test_a_folder_that_cannot_be_used_is_no_error(file, text, monkeypatch, obstacle):
    monkeypatch.setattr(programs, "compile_program", lambda *_: code_in(text))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    if obstacle == "unreadable":
        monkeypatch.setattr(programs, "read_text_file", refuse)
    elif obstacle == "no home":
        monkeypatch.setattr(programs, "user_cache_folder", lambda: None)
    else:
        file.unlink()
        if obstacle == "file":
            file.parent.rmdir()
            file.parent.write_text("a file in the place of the folder")
        else:
            monkeypatch.setattr(programs, "write_whole", refuse)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expect_right(run())


def test_a_program_that_cannot_be_kept_is_compiled_by_torch(monkeypatch, cache_folder):
    """As with a version of torch that writes other programs: a warning, and the same results."""
    code = programs.Code("def call(self, args):\n    return unknown_name(args)", {})
    monkeypatch.setattr(programs, "compile_program", lambda *_: code)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: function)
    with pytest.warns(UserWarning, match=r"multiply_and_add as compiled by torch .* cannot be kept, .*unknown_name"):
        expect_right(run())
    assert not program_folder().exists()


def test_without_a_compiler_its_error_is_raised(monkeypatch, cache_folder):
    monkeypatch.setattr(programs, "compile_program", lambda *_: 1 / 0)
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()


def test_a_later_start_does_not_import_the_compiler(file, cache_folder):
    """In a process of its own: the import takes seconds, which is what keeping a program saves."""
    code = (
        "import sys, torch; torch.set_num_threads(1); from llama_jp.linear import programs\n"
        "programs.compile_program = programs.with_torch_compile = None\n"
        "from test_programs import run, expect_right; expect_right(run())\n"
        "print([name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor'))])"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_functions_of_the_kernels(dtype):
    """Bit-identical to the operations one by one where no sum is taken, and close where one is."""
    generator = torch.Generator().manual_seed(3)
    x, w = (torch.randn(rows, 70, generator=generator).to(dtype) for rows in (18, 33))
    y = torch.randn(18, 90, generator=generator)
    for rows in (18, 1):
        for function, arguments in ((quantize_rows, (x[:rows],)), (scale_rows, (x[:rows],))):
            for one, other in zip(Compiled(function)(*arguments), function(*arguments), strict=True):
                assert torch.equal(one, other) and one.shape == other.shape, function.__name__
        results = torch.zeros(2, rows, 70, dtype=dtype)
        for function, result in zip((Compiled(unscale_rows), unscale_rows), results, strict=True):
            function(y[:rows, 7:77], x[:rows].float().abs().amax(-1), result)
        assert torch.equal(*results) and results.any()
    assert torch.allclose(
        Compiled(sum_of_products)(w, x[0]).float(), sum_of_products(w, x[0]).float(), rtol=0.01, atol=1e-5
    )
    q, k, v = random_query(2, 6, 3, 5, 16, dtype)
    q, k, v = q.reshape(6, 2, 16), k.flatten(0, 1), v.flatten(0, 1)
    for visible in (None, torch.ones(6, 5, dtype=torch.bool)):
        one, other = (f(q, k, v, visible).float() for f in (Compiled(weigh_values), weigh_values))
        assert torch.allclose(one, other, rtol=0.01, atol=1e-6)
