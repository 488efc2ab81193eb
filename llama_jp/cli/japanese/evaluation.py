"""The Japanese of the errors of `evaluation`. See the package."""

# ruff: noqa: E501
# fmt: off
MESSAGES = {
    # windows
    "the tokenizer has neither BOS nor EOS, one of which lm-eval puts before the text":
        "トークナイザーに、lm-eval が文章の前に置く BOS も EOS もありません",
    "the text has {tokens} tokens, and llama.cpp's convention needs two windows, {needed}; take a window of at most {most}, or a longer text":
        "文章は {tokens} トークンですが、llama.cpp の数え方には二つのウィンドウ（{needed} トークン）が必要です。ウィンドウを {most} 以下にするか、文章を長くしてください",
    "a window of {window} has no token to score in its second half; take at least 3":
        "{window} トークンのウィンドウの後半には採点するトークンがありません。3 以上にしてください",
    "the convention is {convention}; it can be {values}":
        "数え方が {convention} です。{values} のいずれかにしてください",
    "the windows of the convention {convention} do not overlap, so it takes no stride":
        "数え方 {convention} のウィンドウは重ならないので、ストライドは指定できません",
    "a window of {window} predicts no token; take at least 2":
        "{window} トークンのウィンドウでは予測するトークンがありません。2 以上にしてください",
    "a window of {window} tokens does not fit into the model's context of {context}":
        "{window} トークンのウィンドウは、モデルのコンテキスト {context} トークンに入りません",
    "a stride of {stride} skips tokens between windows of {window}; take at most {most}":
        "ストライドが {stride} では、{window} トークンのウィンドウの間に抜けができます。{most} 以下にしてください",
    "a stride of {stride} gives every window but the first the weight 0; take at least 2":
        "ストライドが {stride} では、最初以外のウィンドウの重みが 0 になります。2 以上にしてください",
    # answers and versions
    "the prompt has {tokens} tokens and the answer {answer}, but the context holds {context}":
        "プロンプトは {tokens} トークン、答えは {answer} トークンですが、コンテキストに入るのは {context} トークンです",
    "the logits of {tokens} tokens take {size} bytes, and {folder} has {free}; use a shorter text, or set TMPDIR to a larger disk":
        "{tokens} トークンのロジットは {size} バイトですが、{folder} の空きは {free} バイトです。文章を短くするか、TMPDIR で大きなディスクを指定してください",
    "it has {ids} ids and the original {theirs}, so it is no version of it":
        "id は {ids} 個、元のモデルでは {theirs} 個なので、その別版ではありません",
    "its context of {context} tokens does not hold windows of {window}; use smaller ones":
        "{window} トークンのウィンドウは {context} トークンのコンテキストに入りません。小さくしてください",
}
