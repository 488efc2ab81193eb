"""The Japanese of the errors of `training`. See the package."""

# ruff: noqa: E501
# fmt: off
MESSAGES = {
    # adapters
    "no module of the model is called {names}; LoRA takes {known}":
        "{names} というモジュールはモデルにありません。LoRA に使えるのは {known} です",
    "the model has an adapter already; load it again, or merge the adapter first":
        "モデルには既にアダプターがあります。モデルを読み込み直すか、先にアダプターをマージしてください",
    "the model has no adapter {name}; {known}":
        "モデルにアダプター {name} がありません。{known}",
    "it has {names}":
        "あるのは {names} です",
    "add one with add_lora":
        "add_lora で加えてください",
    "the model is a {type}; an adapter is loaded into a Llama":
        "モデルは {type} です。アダプターは Llama に読み込みます",
    "{name} has trainable_token_indices, which only a merge takes: load it with llama_jp.load(…, adapter=…)":
        "{name} に trainable_token_indices があり、これはマージでしか使えません。llama_jp.load(…, adapter=…) で読み込んでください",
    "{folder} has whole weights of {names}, and PEFT finds modules by the ends of their names, so it would also take {others}; merge the adapter at loading with adapter=":
        "{folder} には {names} の重み全体がありますが、PEFT は名前の末尾でモジュールを探すので、{others} まで使ってしまいます。読み込むときに adapter= でマージしてください",
    "{name} needs float weights, and this model is quantised; use plain LoRA or the original":
        "{name} には浮動小数点数の重みが必要ですが、このモデルは量子化されています。普通の LoRA か元のモデルを使ってください",
    "an adapter cannot be merged into quantised weights; save it with save_adapter, and quantise the original with it: `llama-jp quantize ORIGINAL OUT --adapter FOLDER`":
        "アダプターは量子化した重みにマージできません。save_adapter で保存し、元のモデルをアダプターとともに量子化してください: `llama-jp quantize ORIGINAL OUT --adapter FOLDER`",
    # the loss
    "logits {logits} and labels {labels} do not fit; one label for each position is needed":
        "ロジット {logits} とラベル {labels} が合いません。位置ごとに 1 つのラベルが必要です",
    "no label is a target: all of {shape} are {ignored} or in the first column":
        "目標になるラベルがありません: {shape} のすべてが {ignored} か、最初の列にあります",
    "the loss is {loss}, though the logits are finite: the count is 0":
        "ロジットは有限ですが、損失が {loss} です: 数が 0 です",
    "the loss is {loss}: {wrong} of {all} logits are not finite; try a smaller learning rate, more warm-up steps, or bfloat16 or float32 in place of float16":
        "損失が {loss} です: {all} 個のロジットのうち {wrong} 個が有限ではありません。学習率を下げるか、ウォームアップのステップを増やすか、float16 の代わりに bfloat16 か float32 を試してください",
}
