"""`quantization_config`: anything unknown or unsupported is refused by name."""

from __future__ import annotations

import json

import pytest
from helpers.quantized import rewrite_json

from llama_jp.checkpoint.config import parse_config
from llama_jp.checkpoint.hub import demo_folder
from llama_jp.checkpoint.load import load_model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quant_method": "gptq"}, "GPTQ weights in the format '1' are not supported"),
        ({"format": 2}, "has format 2; supported is 1"),
        ({"bits": 3}, "bits is 4 or 8, not 3"),
        ({"bits": 8}, "4 bits need a group_size and 8 bits have none, but bits is 8 and group_size is 32"),
        ({"bits": 8, "group_size": None}, "misshapen"),
        ({"group_size": 48}, "group_size is one of 32, 64, 128, not 48"),
        ({"group_size": 128}, "down_proj has 704 inputs, which is not a multiple of the group size 128; use 32 or 64"),
        ({"group_size": 64}, r"misshapen .*scale in model.safetensors is \(256, 8\) where config.json .* \(256, 4\)"),
        ({"method": "awq"}, "method is rtn or gptq, not 'awq'"),
        ({"head_bits": 2}, r"head_bits is 8 or equal to bits \(4\), not 2"),
        ({"left_alone": []}, r"unsupported value: left_alone is \[\]"),
        ({"rotated": True}, "unsupported value: rotated is True"),
    ],
)
def test_an_unsupported_config_is_refused(quantized_copy, changes, message):
    rewrite_json(quantized_copy / "config.json", lambda raw: raw["quantization_config"].update(changes))
    with pytest.raises(ValueError, match=message):
        load_model(quantized_copy)


def test_quantization_configs_of_other_libraries_are_refused():
    raw = json.loads((demo_folder() / "config.json").read_text())
    with pytest.raises(ValueError, match="weights quantised by bitsandbytes are not supported; GPTQ, AWQ and"):
        parse_config(raw | {"quantization_config": {"quant_method": "bitsandbytes"}})
