"""Text to token ids and back, whole or as a stream. Start at `tokenizer.py`.

tokenizer.py        `Tokenizer`: encode, decode and stream with the tokenizer of one checkpoint
backends.py         text to ids: tokenizer.model with SentencePiece, tokenizer.json with the `tokenizers` library
added_tokens.py     the tokens that files add to the vocabulary, and the split of a text at them
byte_level.py       the spelling of pieces in a byte-level BPE, such as Llama 3's
vocabulary.py       `Vocabulary`: the piece, bytes and kind of each id, from either file
streaming.py        `TextStream`: ids to text, one token at a time
special_tokens.py   the ids of BOS, EOS, UNK and PAD, from the files of a checkpoint
template.py         ELYZA's instruction template as ids
rendering.py        a conversation to text, with a checkpoint's chat template
prompt_forms.py     one prompt as trained, and as other tools encode it
prompt_mistakes.py  the mistakes in ids that should be a prompt

A checkpoint holds tokenizer.model, tokenizer.json or both; either is enough. A library encodes text by the rules of
the file. Decoding is written here, once for both files, because the libraries cannot decode one token at a time.
"""
