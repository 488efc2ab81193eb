"""The page's own decoder, run by node on the page's own data."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest
import torch
from inspection.conftest import content_of

from llama_jp.inspection import encoding
from llama_jp.inspection.encoding import encode
from llama_jp.inspection.interface import PAGE

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed, which runs the page's decoder")

PROGRAM = """
const { decoded, wrong } = decodeAll(JSON.parse(require("fs").readFileSync(0, "utf-8")));
const values = Object.fromEntries(Object.entries(decoded).map(([name, { shape, values }]) => [name, {
  shape, values: Array.from(values, (x) => (Number.isFinite(x) ? x : String(x))),
}]));
const rows = (name) => { // every weight of the map, by the function that the map calls
  const N = (Math.sqrt(8 * decoded[name].shape[1] + 1) - 1) / 2;
  return Array.from({ length: decoded[name].shape[0] }, (_, head) => Array.from({ length: N }, (_, i) =>
    Array.from({ length: N }, (_, j) => weightAt(decoded[name], head, i, j))));
};
const maps = Object.keys(decoded).filter((name) => name.startsWith("attention."));
const weights = Object.fromEntries(maps.map((name) => [name, rows(name)]));
process.stdout.write(JSON.stringify({ values, wrong, weights }));
"""


def run_decoder(tensors, script=None):
    script = script or (PAGE / "decode.js").read_text("utf-8")
    done = subprocess.run(
        [NODE, "-e", script + PROGRAM], input=json.dumps(tensors), capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_the_page_shows_the_trace(made):
    """Weights are exact to half a step of 16 bits, everything else to the bit."""
    path, run = made
    html = path.read_text("utf-8")
    script = html.partition('<script id="decoder">')[2].partition("</script>")[0]
    found = run_decoder(content_of(path)["tensors"], script)
    assert found["wrong"] == []
    for layer, weights in run.weights.items():
        shown = torch.tensor(found["weights"][f"attention.{layer}"], dtype=torch.float64)
        assert shown.shape == weights.shape
        assert (shown - weights.double()).abs().max() <= 0.5 / 65535 + 1e-12
    for name, norms in run.norms.items():
        if f"norm.{name}" in found["values"]:
            assert torch.equal(torch.tensor(found["values"][f"norm.{name}"]["values"]), norms)
    for name, samples in run.samples.items():
        values = torch.tensor([float(x) for x in found["values"][f"values.{name}"]["values"]])
        torch.testing.assert_close(values.reshape(samples.shape), samples, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", ["unit16", "float32", "uint32"])
def test_every_kind(kind):
    values = torch.tensor([[0.0, 1.0, 0.25], [0.5, 1e-6, 0.999]])
    values = (values * 100_000).long() if kind == "uint32" else values
    found = run_decoder({"x": encode(values, kind)})
    shown = torch.tensor(found["values"]["x"]["values"], dtype=torch.float64).reshape(2, 3)
    assert found["wrong"] == [] and found["values"]["x"]["shape"] == [2, 3]
    torch.testing.assert_close(shown, values.double(), rtol=1e-7, atol=0.5 / 65535 if kind == "unit16" else 0)


def test_infinity_and_nan_pass():
    found = run_decoder({"x": encode(torch.tensor([1.0, float("-inf"), float("nan"), 2.0]), "float32")})
    assert found["wrong"] == [] and found["values"]["x"]["values"] == [1, "-Infinity", "NaN", 2]


CHANGES = {
    "steps of 8 bits": ("STEPS", 255),
    "16 bits with another scale": ("STEPS", 65536),
    "bytes in the other order": ("KINDS", encoding.KINDS | {"unit16": ">u2"}),
    "one byte each": ("KINDS", encoding.KINDS | {"unit16": "u1"}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_encoder_is_found(monkeypatch, change):
    """Against: an encoder that changes without the decoder, and a page that draws plausible pictures all the same."""
    monkeypatch.setattr(encoding, *CHANGES[change])
    weights = torch.rand(4, 50, generator=torch.Generator().manual_seed(0)).softmax(-1)
    assert len(run_decoder({"attention.0": encode(weights, "unit16")})["wrong"]) == 1


def test_a_damaged_page_is_found(made):
    """One character of one tensor changed, two tensors exchanged, one cut short, one of an unknown kind."""
    tensors = content_of(made[0])["tensors"]
    first, second = dict(tensors["attention.0"]), dict(tensors["attention.1"])
    at = len(first["data"]) // 2
    flipped = first["data"][:at] + ("A" if first["data"][at] != "A" else "B") + first["data"][at + 1 :]
    broken = {
        "flipped": first | {"data": flipped},
        "exchanged": first | {"data": second["data"], "crc": second["crc"]},
        "short": first | {"data": first["data"][:-8]},
        "unknown": first | {"kind": "unit8"},
        "whole": first,
    }
    wrong = run_decoder(broken)["wrong"]
    assert [sentence.partition(":")[0] for sentence in wrong] == ["flipped", "exchanged", "short", "unknown"]


def test_one_changed_weight_is_found():
    """Against: a sum so coarse that a wrong weight passes with a right checksum of its bytes."""
    weights = torch.full((4, 820), 0.05)
    right = encode(weights, "unit16")
    weights[2, 17] += 3 / 65535
    changed = encode(weights, "unit16") | {"sum": right["sum"]}
    assert len(run_decoder({"x": changed})["wrong"]) == 1
