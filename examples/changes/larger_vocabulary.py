"""A larger vocabulary: new rows in the embedding and the head, each the mean of the old rows. See `resize_vocabulary`.

The tokenizer does not change with the model: add the tokens to the tokenizer files of the checkpoint as well. The model
stays a plain Llama, which saves, quantises and opens in transformers.
"""

from llama_jp import Llama
from llama_jp.surgery import resize_vocabulary

SIZE = 3100  # the demo has 3072


def make() -> Llama:
    model = Llama.from_pretrained("demo")
    resize_vocabulary(model, SIZE)
    return model
