"""`python -m llama_jp` is `llama-jp`. Under torchrun, it is one of several processes that share a model."""

import os
import sys

from .cli import main

if __name__ == "__main__":
    if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        from .cli.ranks import run  # late, because torch.distributed takes long to import

        sys.exit(run(main))
    sys.exit(main())
