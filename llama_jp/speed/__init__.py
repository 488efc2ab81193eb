"""Faster inference with the same weights, and its measurement.

optimization.py         the fastest kernel of this machine for each shape of layer               start here
kernel_selection.py     measure kernels and select one
attention_selection.py  the same for the attention of one query
kept_plans.py           what was chosen on this machine, kept for the next start
automatic.py            whether "exact" saves more time in an answer than it takes
self_drafting.py        a quantised copy of the model as its draft
static_steps.py         a decoding step with fixed shapes: compiled, and on a GPU a CUDA graph
tensor_parallel.py      one model on several processes
benchmark.py            prefill and decoding, as a share of the machine's limits
"""

from .self_drafting import draft_memory, self_draft

__all__ = ["draft_memory", "self_draft"]
