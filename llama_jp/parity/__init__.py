"""Hold two Llamas against each other: are they the same to the bit; if not, where do they part, and why?

One comparison goes through these rooms: `points` (what there is to look at) -> `record` (run a side and write it down)
-> `compare` (bits) -> `explain` (float64 as arbiter: bug or rounding) -> `render` (for people) and `page` (as HTML).
"""

from .comparison import Comparison, compare
from .subjects import Settings, Subject, as_subject, open_subject

__all__ = ["Comparison", "Settings", "Subject", "as_subject", "compare", "open_subject"]
