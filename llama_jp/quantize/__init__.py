"""int8 and int4 weights: half or a quarter of the memory, and a certificate of what that costs.

format.py        the numbers in the files, and the module that computes with them      start here
stream.py        a checkpoint to a quantised one, tensor by tensor
gptq.py          int4 that makes up for its rounding errors
certificate.py   how far the quantised model is from its original, on a text that is named
"""

from .certificate import verify
from .format import QuantizedLinear, Scheme
from .stream import quantize

__all__ = ["QuantizedLinear", "Scheme", "quantize", "verify"]
