"""One rank of `llama-jp finetune` under torchrun: `python finetune_worker.py STOP WORDS…`.

STOP  the step before which every rank ends as by SIGKILL, or 0
"""

from __future__ import annotations

import os
import sys

from llama_jp.cli import main, ranks
from llama_jp.training.loop import Trainer

if __name__ == "__main__":
    stop, *sys.argv[1:] = sys.argv[1:]
    run_step = Trainer.run_step

    def stopping_step(self, step, rows):
        return os._exit(9) if step == int(stop) else run_step(self, step, rows)

    Trainer.run_step = stopping_step
    sys.exit(ranks.run(main))
