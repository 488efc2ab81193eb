from __future__ import annotations

import pytest
import torch
from helpers.traced import CONFIG

from llama_jp.checkpoint.random_checkpoint import write_random


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_random(tmp_path_factory.mktemp("traced"), CONFIG, torch.float32)
