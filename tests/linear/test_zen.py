"""zentorch's product: the real library where it is installed, and wrong ones in its place, of which none is taken."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F

from llama_jp.linear import kernels, zen
from llama_jp.linear.kernels import LinearKernel, ZenKernel, available_kernels, kernels_for, why_unavailable
from llama_jp.linear.weight import Weight
from llama_jp.numerics import same_bits

BF16 = torch.bfloat16
CHUNK, PANEL = 128, 1024  # of the library that stands in; the real one has 1024 and 4096 where this was written


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """What the real library is must not be remembered of one that stands in its place, nor the other way round."""
    monkeypatch.setattr(kernels, "KERNELS", (LinearKernel, ZenKernel))
    for cached in (kernels.try_kernel, zen.chunk_and_panel, zen.load):
        cached.cache_clear()
    yield
    for cached in (kernels.try_kernel, zen.chunk_and_panel, zen.load):
        cached.cache_clear()


class Library:
    """A right library with zentorch's order of packing. The classes below are wrong."""

    def pack(self, weight):
        parts = []
        for outputs in weight.split(CHUNK):
            for panel in outputs.split(PANEL, dim=1):
                blocks = panel.reshape(len(outputs) // zen.BLOCK, zen.BLOCK, -1, 2)
                parts.append(blocks.transpose(1, 2).flatten())
        return torch.cat(parts).view(weight.shape)

    def multiply(self, x, packed):
        blocks = range(len(packed) // zen.BLOCK)
        return F.linear(x, torch.cat([zen.unpack_block(packed, block) for block in blocks]))


class WrongForManyInputs(Library):
    """As zentorch 2.13's product of int8 weights."""

    def multiply(self, x, packed):
        return super().multiply(x, packed) * (5 if packed.shape[1] > 2048 else 1)


class RemembersAddresses(Library):
    """As zentorch's product of a weight that is not packed."""

    packed: ClassVar[dict[int, torch.Tensor]] = {}

    def pack(self, weight):
        return self.packed.setdefault(weight.data_ptr(), super().pack(weight))


class OtherDtype(Library):
    def multiply(self, x, packed):
        return super().multiply(x, packed).float()


class OtherShape(Library):
    def multiply(self, x, packed):
        return super().multiply(x, packed)[:, :-1]


class OneRowOnly(Library):
    def multiply(self, x, packed):
        return super().multiply(x[:1], packed)


class Raises(Library):
    def multiply(self, x, packed):
        raise OSError("Unsupported CPU:\n  needs avx512")


class RaisesForManyInputs(Library):
    def pack(self, weight):
        if weight.shape[1] > 2048:
            raise MemoryError
        return super().pack(weight)


class OtherOrder(Library):
    def pack(self, weight):
        return super().pack(weight).flip(0)


class Pads(Library):
    def pack(self, weight):
        return F.pad(super().pack(weight), (0, 64))


class LosesTheSignOfZero(Library):
    def pack(self, weight):
        return super().pack(weight) + 0.0


WRONG = {
    WrongForManyInputs: "its result is wrong for 1 row and 64 x 4096 weights",
    RemembersAddresses: zen.UNKNOWN_ORDER,
    OtherDtype: "its result is torch.float32 (1, 64) and 64 x 256 weights",
    OtherShape: "its result is torch.bfloat16 (1, 63) and 64 x 256 weights",
    OneRowOnly: "its result is torch.bfloat16 (1, 64) and 64 x 256 weights",
    Raises: "needs avx512",
    RaisesForManyInputs: "MemoryError",
    OtherOrder: zen.UNKNOWN_ORDER,
    Pads: "it packs (64, 256) weights as (64, 320)",
    LosesTheSignOfZero: zen.UNKNOWN_ORDER,
}


def install(monkeypatch, library: Library) -> None:
    """Put a library in the place of zentorch."""
    monkeypatch.setattr(zen, "is_installed", lambda: True)
    monkeypatch.setattr(zen, "pack", library.pack)
    monkeypatch.setattr(zen, "multiply", library.multiply)


def random_bits(outputs: int, inputs: int) -> torch.Tensor:
    """Every kind of number: -0, subnormal ones, infinities and NaN with any bits."""
    return torch.randint(-(2**15), 2**15, (outputs, inputs), dtype=torch.int16).view(BF16)


@pytest.mark.parametrize("shape", [(64, 256), (64, 4096), (320, 2050)], ids=str)
def test_a_right_library_is_taken(monkeypatch, shape):
    """With several chunks and panels, the last of them smaller. Shows that the wrong ones fail for their mistake."""
    install(monkeypatch, Library())
    assert available_kernels("float", shape, BF16) == ([LinearKernel, ZenKernel], [])
    weight = random_bits(*shape)
    assert same_bits(ZenKernel(Weight(weight)).unpack().values, weight)


@pytest.mark.parametrize("library", WRONG, ids=lambda library: library.__name__)
def test_a_wrong_library_is_not_taken(monkeypatch, library):
    """Guards against tokens of a library that is right in a small test, for one row, or for the first weight."""
    install(monkeypatch, library())
    available, sentences = available_kernels("float", (64, 4096), BF16)
    assert available == [LinearKernel]
    assert sentences == [f"zentorch, packed is not available on this machine: {WRONG[library]}"]


def test_without_the_library_nothing_warns(monkeypatch):
    monkeypatch.setattr(zen, "package_version", lambda _: None)
    monkeypatch.setattr(torch.ops, "load_library", lambda _: pytest.fail("nothing is loaded"))
    assert available_kernels("float", (64, 256), BF16) == ([LinearKernel], [])


def test_a_library_for_another_torch_is_named(monkeypatch):
    """Guards against symbols of another torch, which end the process."""
    monkeypatch.setattr(zen, "package_version", lambda _: "2.1.0.3")
    monkeypatch.setattr(torch.ops, "load_library", lambda _: pytest.fail("nothing is loaded"))
    _, sentences = available_kernels("float", (64, 256), BF16)
    wanted = ".".join(torch.__version__.split(".")[:2])
    assert sentences == [
        "zentorch, packed is not available on this machine: "
        f"zentorch 2.1.0.3 is for another torch than {torch.__version__}: pip install 'zentorch=={wanted}.*', "
        "or, while that is not published, 'torch==2.1.*'"
    ]


@pytest.mark.parametrize("spec", [None, "empty"])
def test_a_library_without_its_file_is_named(monkeypatch, tmp_path, spec):
    version = ".".join(torch.__version__.split(".")[:2]) + ".0.9"
    found = spec and type("Spec", (), {"submodule_search_locations": [str(tmp_path)]})
    monkeypatch.setattr(zen, "package_version", lambda _: version)
    monkeypatch.setattr(zen.importlib.util, "find_spec", lambda _: found)
    with pytest.raises(RuntimeError, match=rf"zentorch {version} lacks libzentorch.so: pip install"):
        zen.load()


@pytest.mark.parametrize(
    ("kind", "dtype", "exact"),
    [("float", torch.float16, False), ("float", torch.float32, False), ("int8", BF16, False), ("float", BF16, True)],
    ids=str,
)
def test_it_is_for_bfloat16_where_rounding_may_differ(monkeypatch, kind, dtype, exact):
    """Guards against other bits at level "exact", messages printed in float16, and the wrong product of int8."""
    install(monkeypatch, Library())
    assert ZenKernel in kernels_for("float", (64, 256), BF16)
    assert ZenKernel not in kernels_for(kind, (64, 256), dtype, "int8", exact)


@pytest.mark.parametrize("shape", [(96, 256), (63, 256), (64, 255)], ids=str)
def test_parts_of_blocks_are_left_to_others(monkeypatch, shape):
    install(monkeypatch, Library())
    assert ZenKernel not in kernels_for("float", shape, BF16)


@pytest.mark.parametrize("shape", [(64, 2), (192, 288), (1088, 4098), (64, 11008)], ids=str)
def test_the_real_library_keeps_every_bit_of_the_weight(shape):
    """Guards against another order of packing: `undo` has to restore the model bit by bit."""
    skip_without_zentorch()
    weight = random_bits(*shape)
    assert same_bits(ZenKernel(Weight(weight)).unpack().values, weight)


def test_the_real_library_multiplies_rows_of_any_form():
    skip_without_zentorch()
    weight, x = torch.randn(128, 4098).to(BF16), torch.randn(2, 3, 2 * 4098).to(BF16)[..., ::2]
    expected = x.double() @ weight.double().T
    y = ZenKernel(Weight(weight))(x)
    assert y.dtype == BF16 and y.shape == expected.shape and (y - expected).norm() < 0.01 * expected.norm()


def skip_without_zentorch() -> None:
    if not zen.is_installed():
        pytest.skip("zentorch is not installed (extra zen)")
    if reason := why_unavailable(ZenKernel, "float", BF16):
        pytest.skip(f"zentorch: {reason}")
