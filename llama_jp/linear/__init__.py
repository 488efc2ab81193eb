"""Linear layers: how a weight matrix is stored, and the kernels that multiply by it.

weight.py        the stored numbers: float, int8 or int4
scheme.py        `quantization_config`: which weights are int8 or int4
kernels.py       matrix products for each kind of weight
zen.py           AMD's library for bfloat16 products
int4_packing.py  the order of int4 numbers in a packed weight
one_query.py     attention for one query per row
programs.py      compiled loops, kept in the user's cache folder
layer.py         the linear layer with an int8 or int4 weight
fused.py         several layers of one input as one product
untraced.py      calls that torch.compile keeps out of its graphs
"""
