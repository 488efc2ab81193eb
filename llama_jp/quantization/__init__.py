"""int8 and int4 weights: a half or a quarter of the memory of float16, and a certificate of the numerical deviation.

convert.py       a checkpoint to a quantised checkpoint, tensor by tensor      start here
rounding.py      round to nearest
gptq.py          int4 that compensates for rounding errors on a calibration text
certificate.py   the measured distance of the quantised model from its original

The stored numbers and the layer that computes with them are in `llama_jp/linear/`.
"""

from .certificate import verify
from .convert import quantize

__all__ = ["quantize", "verify"]
