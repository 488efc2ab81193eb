"""Compare two Llamas: are they bit-identical? If not, where do they first differ, and is it a bug or rounding?

operations.py   the operations of a Llama in order of computation
run/            run a model and record its activations
judge/          compare the recordings, judge each operation against float64, name known mistakes
comparison.py   the outcome of a comparison
modes/          logits, generation, gradients, tokenizers, a model of full size
requests.py     a comparison as plain values: from the command line, for a certificate
report/         text, HTML, and certificates that can be replayed
"""

from .comparison import Comparison
from .modes.forward import compare
from .run.models import ComparedModel, Settings, as_compared_model, open_model

__all__ = ["ComparedModel", "Comparison", "Settings", "as_compared_model", "compare", "open_model"]
