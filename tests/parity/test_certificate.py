"""Certificates: the same request gives the same bytes again, in the committed certificate as well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers.compared_models import parity

from llama_jp.environment import describe_environment, environment_changes
from llama_jp.parity.report.certificate import read_certificate, replay
from llama_jp.parity.requests import Request

CERTIFICATE = Path(__file__).parent / "certificate.json"


def test_a_certificate_is_replayed(tmp_path, capsys):
    file = tmp_path / "certificate.json"
    given = ["--random", "tiny", "--layers", "2", "--tokens", "8", "--dtype", "float32", "--certificate", str(file)]
    assert parity(*given) == 0
    assert parity(*given, "--mode", "steps", "--against-attention", "eager") == 1
    assert len(read_certificate(file)["runs"]) == 2
    capsys.readouterr()
    assert parity("--replay", str(file)) == 0
    assert capsys.readouterr().out.count("the same bytes") == 2

    content = read_certificate(file)
    content["runs"][0]["results"][0]["sha256"][0] = "0" * 64
    file.write_text(json.dumps(content))
    assert parity("--replay", str(file)) == 1
    assert "different" in capsys.readouterr().out


def test_files_that_are_no_certificates_are_refused(tmp_path):
    file = tmp_path / "certificate.json"
    contents = {
        "{": "is not JSON",
        "[]": "not a certificate",
        '{"format": 99}': "of format 1",
        '{"format": 1}': "a damaged certificate",
    }
    for content, message in contents.items():
        file.write_text(content)
        with pytest.raises(ValueError, match=message):
            read_certificate(file)


def test_a_run_that_cannot_be_repeated_is_status_2(tmp_path, capsys):
    """Guards against a traceback, and status 1, for a setting that this version does not know."""
    file = tmp_path / "certificate.json"
    for run in ({}, {"request": Request().as_dict() | {"colour": "blue"}, "results": []}):
        file.write_text(json.dumps({"format": 1, "environment": {}, "runs": [run]}))
        assert parity("--replay", str(file)) == 2
        assert "has a run that cannot be repeated" in capsys.readouterr().err


def test_files_that_cannot_be_written_are_refused_before_the_comparison(tmp_path, capsys):
    for option in ("--report", "--certificate"):
        for target, sentence in ((tmp_path, "is a folder"), (tmp_path / "nowhere" / "file", "there is no folder")):
            assert parity("--random", "7b", option, str(target)) == 2
            assert sentence in capsys.readouterr().err


def test_a_certificate_of_other_versions_gets_no_further_run(tmp_path, capsys):
    """Guards against one certificate with results of two machines."""
    file = tmp_path / "certificate.json"
    arguments = ["--random", "tiny", "--layers", "1", "--tokens", "4", "--certificate", str(file)]
    assert parity(*arguments) == 0
    content = read_certificate(file)
    content["environment"]["torch"] = "0.1"
    file.write_text(json.dumps(content))
    assert parity(*arguments) == 2
    assert "torch was 0.1" in capsys.readouterr().err
    assert len(read_certificate(file)["runs"]) == 1


def certified() -> list[int]:
    return list(range(len(read_certificate(CERTIFICATE)["runs"])))


def skip_elsewhere() -> None:
    changed = environment_changes(read_certificate(CERTIFICATE)["environment"], describe_environment())
    if changed:
        pytest.skip(f"bits may differ under other conditions than the certificate has: {'; '.join(changed)}")


def test_a_part_of_the_committed_certificate_gives_the_same_bytes():
    skip_elsewhere()
    runs, _ = replay(CERTIFICATE, certified()[:1])
    assert all(run.same for run in runs), [run.results for run in runs]


@pytest.mark.slow
def test_the_whole_committed_certificate_gives_the_same_bytes():
    skip_elsewhere()
    runs, _ = replay(CERTIFICATE)
    assert all(run.same for run in runs), [run.results for run in runs]
