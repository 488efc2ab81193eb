"""`python -m llama_jp` is `llama-jp`. Under torchrun, it is one of several processes that share a model."""

import os
import signal
import sys


def main() -> int:
    """Run the command line as a process; returns the exit status. Ctrl-C is quiet from the first import to the end."""
    try:
        from .cli import main as run_command  # late, so that an interrupted import ends here

        if "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
            from .cli.ranks import run  # late, because torch.distributed takes long to import

            return run(run_command)
        return run_command()
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the result is out; only the interpreter's own end is left


if __name__ == "__main__":
    sys.exit(main())
