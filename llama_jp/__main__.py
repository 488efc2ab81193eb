"""`python -m llama_jp` is `llama-jp`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
