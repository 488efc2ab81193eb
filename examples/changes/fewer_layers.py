"""Depth pruning: remove a layer, and merge two neighbours into one with the mean of their weights.

`drop_layers` and `merge_layers` change a model in place. It stays a plain Llama, which saves, quantises and opens in
transformers. See: "The Unreasonable Ineffectiveness of the Deeper Layers", arXiv:2403.17887; "LaCo", arXiv:2402.11187.
"""

from llama_jp import Llama
from llama_jp.surgery import drop_layers, merge_layers


def make() -> Llama:
    """The demo with four of its six layers: without layer 4, and with layers 1 and 2 as one."""
    model = Llama.from_pretrained("demo")
    drop_layers(model, [4])
    merge_layers(model, 1)
    return model
