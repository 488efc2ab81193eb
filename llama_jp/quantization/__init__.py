"""int8 and int4 weights: a half or a quarter of the memory, and a certificate of what that costs.

convert.py       a checkpoint to a quantised checkpoint, tensor by tensor      start here
rounding.py      round to nearest
gptq.py          int4 that compensates for its rounding errors
certificate.py   the distance of the quantised model from its original, measured on a named text

The stored numbers and the layer that computes with them are in `llama_jp/linear/`.
"""

from .certificate import verify
from .convert import quantize

__all__ = ["quantize", "verify"]
