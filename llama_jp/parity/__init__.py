"""Compare two Llamas: bit-identical or not; if not, where they first differ, and whether that is a bug or rounding.

operations.py   what can be compared: every operation of a Llama, in order of computation
run/            run a model and record its activations
judge/          compare the recordings; judge each operation against float64; name known mistakes
modes/          what is run: logits, generation, gradients, tokenizers, a model of full size
report/         text, HTML, and certificates that can be run again
"""

from .modes.forward import Comparison, compare
from .run.models import Settings, Subject, as_subject, open_subject

__all__ = ["Comparison", "Settings", "Subject", "as_subject", "compare", "open_subject"]
