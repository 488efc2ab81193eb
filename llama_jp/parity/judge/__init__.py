"""The judge: where two runs begin to differ, and whether the difference is a mistake or rounding.

rows.py                 compare the recorded calls operation by operation
findings.py             choose the operations to judge; one finding for each          START HERE
non_finite.py           where NaN or infinite numbers come from
causes.py               the known mistake that explains a wrong result
context.py              one operation of one model in one call, on a sample of its tokens
bounds.py               the distance from float64, and the largest that rounding explains
bias.py                 a factor or an offset that all elements share
kind.py                 a kind of operation: formula, same arithmetic, known mistakes
registry.py             all kinds; each has a file (embedding, rope, norm, linear, rotation, kv_cache, …)
arithmetic.py           formulas that several kinds share
weights.py              whether the weights are the same, and known mistakes of weights
float64_reference.py    the whole model in float64
"""
