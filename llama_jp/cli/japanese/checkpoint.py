"""The Japanese of the errors of `config`, `loading`, `checkpoint`, `linear.scheme` and `export`. See the package."""

# ruff: noqa: E501
# fmt: off
MESSAGES = {
    # adapters, weights, GGUF files
    "there is no folder {folder} with an adapter; download one with `hf download OWNER/NAME --local-dir FOLDER`":
        "アダプターのフォルダー {folder} がありません。`hf download OWNER/NAME --local-dir FOLDER` でダウンロードしてください",
    "{file} is a file; name the adapter's folder, {folder}":
        "{file} はファイルです。アダプターのフォルダー {folder} を指定してください",
    "{folder} is a whole model, not an adapter: name it as the model":
        "{folder} はアダプターではなく、モデル全体です。モデルとして指定してください",
    "; its subfolders hold adapters: use {folder}":
        "。アダプターはこの下のフォルダーにあります。{folder} を指定してください",
    "the adapter {folder}{trained_on} does not fit this model: {problems}":
        "アダプター {folder}{trained_on}はこのモデルに合いません: {problems}",
    ", trained on {base},":
        "（{base} で学習したもの）",
    "there are no weights in {folder}: none of {names}":
        "{folder} に重みがありません: {names} のどれもありません",
    "{file} is not a GGUF file: it begins with {start} and not with {magic}":
        "{file} は GGUF ファイルではありません: 先頭が {magic} ではなく {start} です",
    "{file} is incomplete: {name} ends at byte {end}, and the file at {size}; download it again":
        "{file} は途中までしかありません: {name} は {end} バイト目で終わりますが、ファイルは {size} バイト目までです。ダウンロードし直してください",
    "--assistant-model self needs memory beside the model: {needed}; {free_gb} GB are free, of which --optimize may take {packed_gb}; generate without it, or with --optimize none":
        "--assistant-model self には、モデルのほかにメモリが必要です: {needed}。空きは {free_gb} GB で、--optimize がそのうち {packed_gb} GB を使うことがあります。指定をやめるか、--optimize none を付けてください",
    "--assistant-model self:{form} is neither self, self:int8, self:int4, nor self: with a quantised folder of the same model":
        "--assistant-model self:{form} は、self、self:int8、self:int4、self:（同じモデルを量子化したフォルダー）のどれでもありません",
    "a page does not show drafts of the model's own copy; name another draft model, or none":
        "ページは、モデル自身のコピーによるドラフトトークンを見せません。別のドラフトモデルを指定するか、指定をやめてください",
    "the self-draft belongs to another model; make one of this model with speed.self_draft":
        "この self-draft は別のモデルのものです。speed.self_draft で、このモデルのものを作ってください",
    # what a folder holds
    "there is no {name} in {folder}{hint}":
        "{folder} に {name} がありません{hint}",
    "; {reason}":
        "。{reason}",
    "; the folder is empty":
        "。フォルダーは空です",
    "; it holds {file_names}":
        "。あるのは {file_names} です",
    "; it holds weights ({files}): copy the config.json of the model to them":
        "。重み（{files}）があります。モデルの config.json をここにコピーしてください",
    "{names} and {number} more":
        "{names} ほか {number} 個",
    "it holds Mistral's own files ({files}): use the same model in the format of transformers":
        "Mistral 独自のファイル（{files}）があります。同じモデルの transformers 形式のものを使ってください",
    "it is a DeepSpeed checkpoint: make a pytorch_model.bin with its zero_to_fp32.py":
        "DeepSpeed のチェックポイントです。中の zero_to_fp32.py で pytorch_model.bin を作ってください",
    "it is a distributed checkpoint: make a model.safetensors with `accelerate merge-weights`":
        "分散チェックポイントです。`accelerate merge-weights` で model.safetensors を作ってください",
    "it holds TensorFlow weights ({files}): use the safetensors or .bin files of the same model":
        "TensorFlow の重み（{files}）があります。同じモデルの safetensors か .bin を使ってください",
    "it holds TensorFlow or Lightning weights ({files}): use the safetensors or .bin files of the model":
        "TensorFlow か Lightning の重み（{files}）があります。モデルの safetensors か .bin を使ってください",
    "it holds Flax weights ({files}): use the safetensors or .bin files of the same model":
        "Flax の重み（{files}）があります。同じモデルの safetensors か .bin を使ってください",
    "it holds an ONNX graph ({files}): use the safetensors or .bin files of the same model":
        "ONNX のグラフ（{files}）があります。同じモデルの safetensors か .bin を使ってください",
    "it holds GGUF files ({files}): name one of them with its folder":
        "GGUF ファイル（{files}）があります。フォルダーを付けてファイルを指定してください",
    "it holds Meta's own files ({files}): they load from a folder that has their params.json and no config.json":
        "Meta 独自のファイル（{files}）があります。params.json があって config.json のないフォルダーから読み込みます",
    "it holds Meta's params.json: download the weights beside it (consolidated.00.pth and so on)":
        "Meta の params.json があります。重み（consolidated.00.pth など）も同じ場所にダウンロードしてください",
    "; it is a PEFT adapter: name its base model{base}, and this folder with --adapter or adapter=":
        "。PEFT アダプターです。元のモデル{base} を指定し、このフォルダーは --adapter（adapter=）で指定してください",
    "; its subfolders hold models: use {folder}/{name}{others}":
        "。モデルはこの下のフォルダーにあります。{folder}/{name} を指定してください{others}",
    ", or {names}":
        "（ほかに {names}）",
    "; it is a cache of the hub: use the name {name}":
        "。ハブのキャッシュです。名前 {name} を指定してください",
    "; it is the hub's cache: use the name of a repository, such as {name}":
        "。ハブのキャッシュです。リポジトリの名前を指定してください。例: {name}",
    "; it holds {count} of {all} shards without {missing}: download the missing files":
        "。{all} 個のシャードのうち {count} 個だけで、{missing} がありません。足りないファイルをダウンロードしてください",
    "{file} is damaged or incomplete: it is a git-lfs pointer; run `git lfs pull` in its folder":
        "{file} は git-lfs のポインターで、本体がありません。そのフォルダーで `git lfs pull` を実行してください",
    "{file} is damaged: it is a web page; download the file again (on the hub: /resolve/ in place of /blob/)":
        "{file} の中身はウェブページです。ダウンロードし直してください（ハブでは /blob/ でなく /resolve/）",
    "{file} is a folder, where a file is needed":
        "{file} はフォルダーです。ファイルが必要です",
    "no permission to read the folder {folder}; its owner can grant it with chmod a+rx":
        "フォルダー {folder} を読む権限がありません。所有者が chmod a+rx で許可できます",
    "no permission to read {file}; its owner can grant it with chmod a+r":
        "{file} を読む権限がありません。所有者が chmod a+r で許可できます",
    # loading
    "missing is 'refuse' or 'initialise', not {value}":
        "missing は 'refuse' か 'initialise' です。{value} は使えません",
    "{name} is a function, so it has no revision {revision}":
        "{name} は関数なので、リビジョン {revision} はありません",
    "the model of {name} has its own attention, rope and norm; set them in the function":
        "{name} のモデルは attention・rope・norm を自分で持っています。関数の中で設定してください",
    "{name} returns {found}, but a {needed} is needed":
        "{name} は {found} を返しますが、{needed} が必要です",
    "an object of the type {type}":
        "{type} 型のオブジェクト",
    "{name} cannot be imported":
        "{name} をインポートできません",
    "{name} fails":
        "{name} の実行に失敗しました",
    "the weights in {folder} do not fit {config}: {problems}":
        "{folder} の重みは {config} に合いません: {problems}",
    "the device {device} holds no numbers; take one that computes, such as cpu":
        "デバイス {device} は数値を持てません。cpu など、計算できるものを指定してください",
    "the device {device} cannot be used: {error}":
        "デバイス {device} は使えません: {error}",
    "dtype is a torch float type, its name, 'stored' or 'auto', not {dtype}":
        "dtype は torch の浮動小数点型、その名前、'stored'、'auto' のいずれかです。{dtype} は使えません",
    "the adapter {folder} was trained on {base}, not on {source}":
        "アダプター {folder} は {source} ではなく {base} で学習したものです",
    "initialised, because {folder} does not hold them: {names}":
        "{folder} にないので初期化しました: {names}",
    "tie_word_embeddings is true, but lm_head.weight differs from embed_tokens.weight: not tied":
        "tie_word_embeddings は true ですが、lm_head.weight が embed_tokens.weight と違うので、共有しません",
    "the model of {source} has no tokenizer; set its `folder` to a checkpoint that has one":
        "{source} のモデルにはトークナイザーがありません。モデルの `folder` に、トークナイザーのあるチェックポイントを設定してください",
    "tokenizer and model do not belong together: the tokenizer has {pieces} pieces, and the model only {rows} rows in its embedding; use the tokenizer files of this model":
        "トークナイザーとモデルが対応していません: トークナイザーには {pieces} 個のピースがありますが、モデルの埋め込みは {rows} 行しかありません。このモデルのトークナイザーを使ってください",
    "weights quantised by {method} {not_supported}":
        "{method} で量子化された重みには{not_supported}",
    "are not supported; GPTQ, AWQ and llama_jp's own are, and so are the weights before quantisation":
        "対応していません。GPTQ、AWQ、llama_jp 自身の形式、または量子化前の重みを使ってください",
    "{file} is damaged or incomplete ({size} bytes): {error}":
        "{file} は壊れているか、途中までしかありません（{size} バイト）: {error}",
    # config.json
    "{inside}{key} is {value}, but it has to be {kind}":
        "{inside}{key} は{kind}でなければなりません。{value} は使えません",
    "a positive whole number below 2^63":
        " 2^63 未満の正の整数",
    "a positive number":
        "正の数",
    "true or false":
        " true か false ",
    "a string":
        "文字列",
    "an object":
        "オブジェクト",
    "a list of positive numbers":
        "正の数のリスト",
    "a whole number or a list of them":
        "整数か整数のリスト",
    "no value for {names}":
        "{names} の値がありません",
    "{key} {value} is not supported; only {supported} is":
        "{key} {value} には対応していません。対応しているのは {supported} だけです",
    "{key} {value} is not supported; only {supported} is; {advice}":
        "{key} {value} には対応していません。対応しているのは {supported} だけです。{advice}",
    "{quoted} or {quoted_too}":
        "{quoted} か {quoted_too}",
    "set it to 0 in config.json to train without dropout":
        "ドロップアウトなしで学習するには、config.json で 0 にしてください",
    "{key} {value} is not supported; only null, or at least the context of {context} tokens, is":
        "{key} {value} には対応していません。null か、コンテキストの {context} トークン以上にしてください",
    "{key} is {value}, but it has to be an object or null":
        "{key} が {value} ですが、オブジェクトか null でなければなりません",
    "partial_rotary_factor other than 1 is not supported":
        "1 以外の partial_rotary_factor には対応していません",
    "rope_type {type} is not supported; known are default, {known}":
        "rope_type {type} には対応していません。使えるのは default, {known} です",
    "rope_type {type} is not supported; known are {known}":
        "rope_type {type} には対応していません。使えるのは {known} です",
    "rope_scaling of type {type} needs the key {key}":
        "種類 {type} の rope_scaling にはキー {key} が必要です",
    "rope_scaling has {numbers} numbers in {key}, and a head has {pairs} pairs":
        "rope_scaling の {key} に数が {numbers} 個ありますが、ヘッドの組は {pairs} 個です",
    "rope_scaling {value} gives no rotation: {error}":
        "rope_scaling {value} からは回転が決まりません: {error}",
    "hidden_size {size} is not a multiple of num_attention_heads {heads}":
        "hidden_size {size} が num_attention_heads {heads} の倍数ではありません",
    "head_dim {size} is odd, but rotary embeddings rotate pairs of numbers":
        "head_dim {size} が奇数です。回転位置埋め込みは二つの数を組にして回すので、偶数にしてください",
    "num_attention_heads {heads} is not a multiple of num_key_value_heads {key_heads}":
        "num_attention_heads {heads} が num_key_value_heads {key_heads} の倍数ではありません",
    # a changed model
    "the model is a changed one ({names}), and only a plain Llama can be used here":
        "変更したモデル（{names}）です。ここで使えるのは素の Llama だけです",
    'parts is {value}, but it has to name class, attention, rope or norm as "module:name"':
        'parts が {value} ですが、class、attention、rope、norm を "module:name" の形で指定しなければなりません',
    "{folder} holds a {name}, which a {other} cannot replace":
        "{folder} のモデルは {name} です。{other} では代わりになりません",
    "{folder} holds a changed model ({names}); hand these in ({call}), or have them imported with trust_parts=True (--trust-parts; in transformers trust_remote_code=True)":
        "{folder} は変更したモデル（{names}）です。それらを {call} で渡すか、trust_parts=True（--trust-parts。transformers では trust_remote_code=True）でインポートさせてください",
    "{folder}: the class {name} is not a subclass of llama_jp.Llama":
        "{folder}: クラス {name} は llama_jp.Llama のサブクラスではありません",
    "{folder}: the {role} {name} is {found}, not a function":
        "{folder}: {role} の {name} は {found} で、関数ではありません",
    "{name} is {found}, not a function that returns a model":
        "{name} は {found} で、モデルを返す関数ではありません",
    "the {role} is {part}, which no import can find again; {way_out}":
        "{role} は {part} で、インポートし直せません。{way_out}",
    "the {role} {name} is a lambda or is defined inside a function; {way_out}":
        "{role} の {name} はラムダか、関数の中で定義されたものです。{way_out}",
    "the {role} {name} is defined in the script or notebook itself (__main__); {way_out}":
        "{role} の {name} はスクリプトかノートブックの中（__main__）で定義されています。{way_out}",
    "the {role} is not what {module}:{name} imports, such as a wrapped function; {way_out}":
        "{role} は、ラップした関数など、{module}:{name} としてインポートされるものとは別のものです。{way_out}",
    "{call} fails, and a checkpoint is built by this call":
        "チェックポイントのモデルは {call} で作りますが、その実行に失敗しました",
    "define it at the top of a module that can be imported, and pass that one in":
        "インポートできるモジュールの最も外側で定義し、それを渡してください",
    "model.rope is not the rope of model.config (rope_theta {theta}, rope_scaling {scaling}); change model.config and set model.rope = make_rope(model.config)":
        "model.rope が model.config の rope（rope_theta {theta}、rope_scaling {scaling}）と違います。model.config を変え、model.rope = make_rope(model.config) としてください",
    "config.json cannot describe this model: {found}; undo the change, or make it in the constructor of a subclass of Llama, which is then recorded":
        "このモデルは config.json では表せません: {found}。変更を元に戻すか、記録できるように Llama のサブクラスのコンストラクターで変更してください",
    "{module} is {found} where the loader builds {expected}":
        "{module} が {found} です（読み込むときに作るのは {expected}）",
    "{module} has a forward hook ({hook}), which no file can hold":
        "{module} にフォワードフック（{hook}）があり、ファイルに保存できません",
    "{name} holds other numbers than those of the constructor":
        "{name} の数がコンストラクターのものと違います",
    "{name} is {found} where the loader has {expected}":
        "{name} が {found} です（読み込むときは {expected}）",
    "{name} is {shape} where the loader expects {expected}":
        "{name} の形が {shape} です（読み込むときに必要なのは {expected}）",
    # adapters
    "{name} and {other} in {file} are the same tensor":
        "{file} の {name} と {other} は同じテンソルです",
    "{file} names no peft_type; it has to be 'LORA'":
        "{file} に peft_type がありません。'LORA' でなければなりません",
    "{file}: {key} is {value}, which is not supported{choice}; {advice}":
        "{file}: {key} の {value} には対応していません{choice}。{advice}",
    " (supported: {values})":
        "（対応しているのは {values}）",
    "merge the adapter with PEFT, and save the merged model":
        "PEFT でアダプターをマージし、そのモデルを保存してください",
    "where PEFT can merge it, merge it there, and save the merged model":
        "PEFT でマージできるなら PEFT でマージし、そのモデルを保存してください",
    "convert it to plain LoRA with PEFT's save_pretrained(…, path_initial_model_for_weight_conversion=…), or merge it with PEFT, and save the merged model":
        "PEFT の save_pretrained(…, path_initial_model_for_weight_conversion=…) で普通の LoRA に変換するか、PEFT でマージしたモデルを保存してください",
    "{file}: {key} is {value}, but it has to be {kind}":
        "{file}: {key} は{kind}でなければなりません。{value} は使えません",
    "a list of names or a regular expression":
        "名前のリストか正規表現",
    "a list of different ids, or an object with one for each embedding":
        "重複のない id のリストか、埋め込みごとにそれを持つオブジェクト",
    "an object of regular expressions and positive numbers":
        "正規表現と正の数のオブジェクト",
    "a regular expression or a list of them":
        "正規表現か正規表現のリスト",
    "the number of a layer or a list of them":
        "層の番号か番号のリスト",
    "{file} has no value for {names}":
        "{file} に {names} の値がありません",
    "{folder} has DoRA on {name}, and DoRA is supported on linear layers only":
        "{folder} は {name} に DoRA を使っていますが、DoRA に対応しているのは線形層だけです",
    "{folder} has lora_bias on {name}, and {name_again} has no bias to add it to":
        "{folder} は {name} に lora_bias を使っていますが、{name_again} には足す先のバイアスがありません",
    "{folder} has trainable_token_indices on {name} beside LoRA or whole weights of it, which is not supported; merge the adapter with PEFT, and save the merged model":
        "{folder} は {name} に、LoRA か重み全体とともに trainable_token_indices を使っています。これには対応していないので、PEFT でアダプターをマージし、そのモデルを保存してください",
    "{folder} trains the ids {least} to {most}, and {name} has {rows} rows":
        "{folder} は id {least} から {most} を学習していますが、{name} は {rows} 行です",
    "the adapter {folder} cannot be merged into quantised weights ({scheme}); quantise the original with it (`llama-jp quantize ORIGINAL OUT --adapter FOLDER`), or keep it beside the weights with llama_jp.training.adapters.load_adapter":
        "アダプター {folder} は量子化した重み（{scheme}）にマージできません。元のモデルをアダプターとともに量子化する（`llama-jp quantize ORIGINAL OUT --adapter FOLDER`）か、llama_jp.training.adapters.load_adapter で重みと別に持ってください",
    "the adapter changes the embedding or lm_head, which were tied: they are untied":
        "アダプターが、共有していた埋め込みか lm_head を変えるので、共有をやめます",
    "the model has no module of target_modules {names}":
        "target_modules {names} のモジュールがモデルにありません",
    "{misfit}; {misfits}":
        "{misfit}。{misfits}",
    "missing {tensor_names}":
        "足りないもの: {tensor_names}",
    'missing {tensor_names} (missing="initialise" starts them with the values of the constructor)':
        '足りないもの: {tensor_names}（missing="initialise" ならコンストラクターの値から始めます）',
    "unexpected {tensor_names}":
        "余分なもの: {tensor_names}",
    "misshapen {tensor_names}":
        "形の違うもの: {tensor_names}",
    "misshapen {tensor_names}; for added tokens, enlarge the model first, with transformers' resize_token_embeddings":
        "形の違うもの: {tensor_names}。追加されたトークンのためなら、先に transformers の resize_token_embeddings でモデルを大きくしてください",
    "no floats in {tensor_names}":
        "浮動小数点数でないもの: {tensor_names}",
    "{misshape}, {misshapes}":
        "{misshape}、{misshapes}",
    "{tensor} is {wrong_shape} where the model and the rank make it {right_shape}":
        "{tensor} が {wrong_shape}（モデルとランクによれば {right_shape}）",
    "{tensor} in {weights_file} is {wrong_shape} where {config_file} makes it {right_shape}":
        "{weights_file} の {tensor} が {wrong_shape}（{config_file} によれば {right_shape}）",
    "{tensor} in {file} is {dtype}, not a float":
        "{file} の {tensor} が浮動小数点数でなく {dtype}",
    # weights
    "{file} has no weight_map":
        "{file} に weight_map がありません",
    "{file} has a weight_map with names of files that are not strings":
        "{file} の weight_map に、文字列でないファイル名があります",
    "{file} names {shard}, which is not a file beside it":
        "{file} にある {shard} は、同じフォルダーのファイル名ではありません",
    "{file} names {shard}, which is not in {folder}{hint}":
        "{file} にある {shard} が {folder} にありません{hint}",
    "{name} is stored twice, in {file} and in {other}":
        "{name} が {file} と {other} に重複しています",
    "{name} in {file} is stored as {type}; supported are {supported}":
        "{file} の {name} の型は {type} です。対応しているのは {supported} です",
    "{file} is no PyTorch zip file ({size} bytes): incomplete, damaged, or older than torch 1.6; download it again, or save it again with torch.save":
        "{file} は PyTorch の zip ファイルではありません（{size} バイト）: 途中までか、壊れているか、torch 1.6 より古いものです。ダウンロードし直すか、torch.save で保存し直してください",
    "{file} is refused: its pickle {reason}, and only tensors are loaded":
        "{file} は読み込めません: pickle {reason}。読み込むのはテンソルだけです",
    "would run {name}":
        "が {name} を実行しようとします",
    "holds more than tensors":
        "にテンソル以外のものがあります",
    "{file} does not hold tensors by name; is it a training checkpoint rather than a model?":
        "{file} は名前の付いたテンソルのファイルではありません。モデルではなく、学習途中のチェックポイントかもしれません",
    "{name} is {dtype}, which no checkpoint holds; register it with persistent=False":
        "{name} は {dtype} で、チェックポイントに保存できません。persistent=False で登録してください",
    "{folder} holds an adapter (adapter_config.json), and transformers would load its base model in the place of this one; choose another folder, or remove the adapter":
        "{folder} にアダプター（adapter_config.json）があるので、transformers はこのモデルではなくアダプターの元のモデルを読み込んでしまいます。別のフォルダーにするか、アダプターを消してください",
    "cannot save to {folder}: it is a file":
        "{folder} はファイルなので、そこに保存できません",
    "the model has no weights to save: it is on the meta device":
        "モデルが meta デバイスにあり、保存する重みがありません",
    "{name} is tied to the embedding matrix, so it is not quantised":
        "{name} は埋め込みと重みを共有しているので、量子化しません",
    "{file}: chat_template is a list, but not of objects with a name and a template":
        "{file}: chat_template のリストの要素が、name と template を持つオブジェクトではありません",
    "{file}: chat_template is a {type} where text was expected":
        "{file}: chat_template が {type} です。文字列でなければなりません",
    '{file}: chat_template names {names}, but none of them is the default; name one "default"':
        '{file}: chat_template には {names} がありますが、既定のものがありません。どれかの名前を "default" にしてください',
    "the checkpoint has no chat template {name}; it has {known}":
        "チェックポイントにチャットテンプレート {name} がありません。あるのは {known} です",
    "there is no shape {shape}; known are {known}":
        "{shape} という形はありません。使えるのは {known} です",
    # Meta's layout
    "{file} has no {name}; download the file again":
        "{file} に {name} がありません。ファイルをダウンロードし直してください",
    "{folder} has {file}, but no consolidated.{number}.{suffix}; download the missing files":
        "{folder} に {file} がありますが、consolidated.{number}.{suffix} がありません。足りないファイルをダウンロードしてください",
    "{file} has no {names}; it is not the params.json of a Llama model":
        "{file} に {names} がありません。Llama の params.json ではありません",
    "{file}: {key} is {value}, but it has to be a positive whole number":
        "{file}: {key} が {value} ですが、正の整数でなければなりません",
    "{file}: {key} is {value}, but it has to be a positive number":
        "{file}: {key} が {value} ですが、正の数でなければなりません",
    "{file}: {key} {value} is not supported; only the keys of Llama 1, 2 and 3 are":
        "{file}: {key} {value} には対応していません。対応しているのは Llama 1、2、3 のキーだけです",
    "{file} and {other} in {folder} do not both hold {names}":
        "{folder} の {file} と {other} の一方に {names} がありません",
    "{name} is {dtype} {shape} in {file}, and {first_dtype} {first_shape} in {first}: the files in {folder} are not of one model":
        "{name} が {file} では {dtype} {shape}、{first} では {first_dtype} {first_shape} です: {folder} のファイルは一つのモデルのものではありません",
    "{name} in {file} has the shape {shape}, and its number of dimensions has to be {dims}":
        "{file} の {name} の形は {shape} ですが、{dims} 次元でなければなりません",
    "{problem} with {rows} rows of wq in each, and {file} makes it {every} in all ({heads} heads of {size}): it is not of this model":
        "{problem}、wq はそれぞれ {rows} 行ですが、{file} によれば全部で {every} 行（大きさ {size} のヘッド {heads} 個）です: このモデルのものではありません",
    "{folder} has {number} consolidated file":
        "{folder} には consolidated のファイルが {number} 個あり",
    "{folder} has {number} consolidated files":
        "{folder} には consolidated のファイルが {number} 個あり",
    "{problem} of {number}: download {names}":
        "{problem}ますが、全部で {number} 個です。{names} をダウンロードしてください",
    "{problem}, and the model of {file} has {number}; remove those of another model":
        "{problem}ますが、{file} のモデルは {number} 個です。別のモデルのファイルを取り除いてください",
    "{file} makes the MLP {expected} wide, and the weights make it {width}":
        "MLP の幅が {file} では {expected}、重みでは {width} です",
    "{name} has {rows} rows, and {file} makes it {needed} ({heads} heads of {size})":
        "{name} は {rows} 行ですが、{file} によれば {needed} 行（大きさ {size} のヘッド {heads} 個）です",
    "{name} differs between the consolidated files, so they are not of one model":
        "{name} が consolidated のファイルの間で違うので、一つのモデルのものではありません",
    "{file}: vocab_size is {vocabulary}, and the embedding has {rows} rows":
        "{file}: vocab_size は {vocabulary} ですが、埋め込みは {rows} 行です",
    "{rows} rows are not {heads} heads of an even size":
        "{rows} 行は、偶数の大きさのヘッド {heads} 個に分けられません",
    # packed weights: GPTQ, AWQ
    "{name} weights in the format {format} are not supported (supported: {supported})":
        "{name} の重みの形式 {format} には対応していません（対応しているのは {supported}）",
    "{name} weights of {bits} bits are not supported (supported: {supported})":
        "{name} の {bits} ビットの重みには対応していません（対応しているのは {supported}）",
    "{name} weights with pack_dtype {dtype} are not supported; int32 is":
        "{name} の重みの pack_dtype {dtype} には対応していません。対応しているのは int32 です",
    "{name} weights with dynamic {value}, bits by module, are not supported":
        "{name} の重みの dynamic {value}（モジュールごとのビット数）には対応していません",
    "{name} weights with zero_point false are not supported":
        "{name} の重みの zero_point false には対応していません",
    "group_size is {size}, but it has to be a positive whole number, or -1":
        "group_size が {size} ですが、正の整数か -1 でなければなりません",
    "{folder} holds several files with packed weights ({names}); name one, without its suffix, as model_file_base_name in {file}":
        "{folder} に、詰めた重みのファイルがいくつもあります（{names}）。{file} の model_file_base_name に、その一つを拡張子なしで書いてください",
    "{name} is packed, but config.json has no quantization_config for it; copy the {files} of the model beside the weights":
        "{name} は詰めた重みですが、config.json に quantization_config がありません。モデルの {files} を重みと同じ場所にコピーしてください",
    "{name} in {file} is packed without {names}":
        "{file} の {name} は詰めた重みですが、{names} がありません",
    "{name} in {file} is {shape}, not a matrix":
        "{file} の {name} の形は {shape} で、行列ではありません",
    "{name} in {file} is {shape} where {packed} {packed_shape} and {packing} make it {needed}":
        "{file} の {name} の形は {shape} ですが、{packed} {packed_shape} と {packing} によれば {needed} です",
    "{name} in {file} is {dtype}, and not {needed}":
        "{file} の {name} の型は {dtype} で、{needed} ではありません",
    "{module}.bias is not zero, but config.json has no attention_bias or mlp_bias for it":
        "{module}.bias が 0 ではありませんが、config.json に attention_bias も mlp_bias もありません",
    "{module}.g_idx names the groups {least} to {most}, but there are {groups}":
        "{module}.g_idx のグループは {least} から {most} ですが、グループは {groups} 個です",
    # quantization_config of llama_jp
    "bits is 4 or 8, not {bits}":
        "bits は 4 か 8 です。{bits} は使えません",
    "4 bits need a group_size and 8 bits have none, but bits is {bits} and group_size is {size}":
        "4 ビットには group_size が必要で、8 ビットにはありませんが、bits が {bits}、group_size が {size} です",
    "group_size is one of {sizes}, not {size}":
        "group_size は {sizes} のいずれかです。{size} は使えません",
    "method is {methods}, not {method}":
        "method は {methods} です。{method} は使えません",
    "gptq needs 4 bits; int8 rounded to nearest has no error left to compensate":
        "gptq には 4 ビットが必要です。最近接丸めの int8 には、補正する誤差が残りません",
    "head_bits is 8 or equal to bits ({bits}), not {head_bits}":
        "head_bits は 8 か bits（{bits}）と同じ値です。{head_bits} は使えません",
    "quantization_config {value} is not supported; quant_method must be 'llama_jp'":
        "quantization_config {value} には対応していません。quant_method は 'llama_jp' でなければなりません",
    "quantization_config has format {format}; supported is {supported}":
        "quantization_config の形式が {format} です。対応しているのは {supported} です",
    "quantization_config has no {names}":
        "quantization_config に {names} がありません",
    "quantization_config has an unsupported value: {key} is {value}":
        "quantization_config に対応していない値があります: {key} が {value} です",
    # GGUF files
    "{file} is one of {count} parts of a model, and its name does not say which; name the parts NAME-00001-of-{count_again}.gguf and so on, as they were published":
        "{file} は {count} 個に分けたモデルの一部ですが、名前からは何番目かわかりません。公開されたときのように NAME-00001-of-{count_again}.gguf などの名前にしてください",
    "{file} is one of {count} parts of a model, and {names} is not beside it: download the missing parts":
        "{file} は {count} 個に分けたモデルの一部ですが、同じ場所に {names} がありません。足りない部分をダウンロードしてください",
    "{file} and an earlier part both hold {names}":
        "{file} とその前の部分の両方に {names} があります",
    "{file} is damaged or incomplete ({size} bytes): its header cannot be read":
        "{file} は壊れているか、途中までしかありません（{size} バイト）: ヘッダーを読めません",
    "{file} is GGUF version {version}; supported are {supported}":
        "{file} は GGUF のバージョン {version} です。対応しているのは {supported} です",
    "{file} is damaged: the key {key} stands twice":
        "{file} は壊れています: キー {key} が重複しています",
    "{file} is damaged: the key {key} is {value}, but it has to be {kind}":
        "{file} は壊れています: キー {key} は{kind}でなければなりません。{value} は使えません",
    "a whole number, or one for each layer":
        "整数か、層ごとの整数",
    "a list of strings":
        "文字列のリスト",
    "a list of numbers":
        "数のリスト",
    "a list of whole numbers":
        "整数のリスト",
    "{file} is damaged: general.alignment is {value}":
        "{file} は壊れています: general.alignment が {value} です",
    "{file} is damaged: the tensor {name} stands twice":
        "{file} は壊れています: テンソル {name} が重複しています",
    "{file} is damaged: a value at byte {position} has no known type":
        "{file} は壊れています: {position} バイト目の値の型がわかりません",
    "{file} is damaged: {name} has {dims} dimensions, where at most {most} are":
        "{file} は壊れています: {name} が {dims} 次元です。{most} 次元までのはずです",
    "{file} is damaged: the rows of {name} {shape} are no whole blocks of {block} weights":
        "{file} は壊れています: {name} {shape} の行が、重み {block} 個のブロックで割り切れません",
    "{file} stores {name} as {type}, which is not supported; use a file of the same model with another quantisation":
        "{file} の {name} の型 {type} には対応していません。同じモデルの、別の量子化のファイルを使ってください",
    "an unknown type ({id})":
        "不明な型（{id}）",
    "{file} is big-endian and stores {name} as {type}, whose byte order is not defined there; use a little-endian file of the same model":
        "{file} はビッグエンディアンですが、{name} の型 {type} のバイト順は決まっていません。同じモデルのリトルエンディアンのファイルを使ってください",
    "{file}: {key} is {value}, and its tensors have {size}; {way_out}":
        "{file}: {key} は {value} ですが、テンソルでは {size} です。{way_out}",
    "{file}: llama.attention.{key} is {heads}, and {name} has {rows} rows, not {needed} ({heads_again} heads of {size}); {way_out}":
        "{file}: llama.attention.{key} は {heads} ですが、{name} は {rows} 行で、{needed} 行（大きさ {size} のヘッド {heads_again} 個）ではありません。{way_out}",
    "download or convert the file again":
        "ダウンロードか変換をやり直してください",
    "{file} holds a model of the architecture {architecture}; only 'llama' is supported":
        "{file} は {architecture} のモデルです。対応しているのは 'llama' だけです",
    "{file} holds no model (general.type is {type}); name the file of its model":
        "{file} はモデルではありません（general.type が {type}）。モデルのファイルを指定してください",
    "{file} holds a mixture of {experts} experts (Mixtral), which is not supported":
        "{file} は {experts} 個のエキスパートの混合（Mixtral）です。対応していません",
    "{file}: llama.attention.causal is false, which is not supported; only true is":
        "{file}: llama.attention.causal の false には対応していません。対応しているのは true だけです",
    "{file} has no token_embd.weight, which every model has":
        "{file} に、どのモデルにもある token_embd.weight がありません",
    "{file}: llama.attention.head_count is {heads}, but it has to be a positive number":
        "{file}: llama.attention.head_count が {heads} ですが、正の数でなければなりません",
    "{file}: {key} {value} is not supported; only the size of a head, {size}, is":
        "{file}: {key} {value} には対応していません。ヘッドの大きさの {size} でなければなりません",
    "{file}: {key} {value} is not supported; only one value for all layers is":
        "{file}: {key} {value} には対応していません。すべての層で同じ値でなければなりません",
    "{file}: {prefix}type {type} is not supported; only none, linear and yarn are":
        "{file}: {prefix}type {type} には対応していません。対応しているのは none、linear、yarn だけです",
    "{file} has rope_freqs.weight and {prefix}type {type}; only one of them is supported":
        "{file} に rope_freqs.weight と {prefix}type {type} の両方があります。対応しているのは一方だけです",
    "{file}: {prefix}{key} {value} is not supported; only {neutral} is":
        "{file}: {prefix}{key} {value} には対応していません。対応しているのは {neutral} だけです",
    "{file} stores rope_freqs.weight as {type}, not as F32":
        "{file} の rope_freqs.weight の型が F32 ではなく {type} です",
    "{file}: rope_freqs.weight has {numbers} numbers from {least} to {most}, but heads of {size} need {pairs} positive ones":
        "{file}: rope_freqs.weight は {least} から {most} までの {numbers} 個の数ですが、大きさ {size} のヘッドには正の数が {pairs} 個必要です",
    "{file}: a vocabulary of the kind {kind} is not supported; {way_out}":
        "{file}: {kind} という種類の語彙には対応していません。{way_out}",
    "{file}: its vocabulary has {piece} twice; {way_out}":
        "{file}: 語彙の {piece} が重複しています。{way_out}",
    "{file} is damaged: the merge {merge} has no two pieces; {way_out}":
        "{file} は壊れています: マージ {merge} に二つのピースがありません。{way_out}",
    "{file} is damaged: {count} {name} for a vocabulary of {pieces} pieces":
        "{file} は壊れています: 語彙のピースは {pieces} 個ですが、{name} は {count} 個です",
    "{file}: its vocabulary is a byte-level BPE, but it has no merges; {way_out}":
        "{file}: 語彙はバイトレベルの BPE ですが、マージがありません。{way_out}",
    "{file}: its vocabulary has no merges, and all scores are equal, so the order of merges is lost; {way_out}":
        "{file}: 語彙にマージがなく、スコアもすべて同じなので、マージの順序がわかりません。{way_out}",
    "{file}: its vocabulary is a byte-level BPE and {problem} (tokenizer.ggml.pre; known are {known}); {way_out}":
        "{file}: 語彙はバイトレベルの BPE ですが、{problem}（tokenizer.ggml.pre。使えるのは {known}）。{way_out}",
    "names no pre-tokenizer":
        "プリトークナイザーの名前がありません",
    "names the pre-tokenizer {name}, which is not known":
        "プリトークナイザー {name} には対応していません",
    "name the folder of the original tokenizer (tokenizer=…, --tokenizer FOLDER)":
        "元のトークナイザーのフォルダーを指定してください（tokenizer=…、--tokenizer FOLDER）",
    "{file} holds {type} weights, and they need the package gguf: pip install 'llama-jp[gguf]'":
        "{file} の {type} の重みを読み込むにはパッケージ gguf が必要です: pip install 'llama-jp[gguf]'",
    "{type} weights are made by the package gguf, which is not installed: pip install 'llama-jp[gguf]'":
        "{type} の重みを作るパッケージ gguf がインストールされていません: pip install 'llama-jp[gguf]'",
    "{name} has numbers of up to {largest}, which {type} cannot hold; choose the type bf16 or f32":
        "{name} に {largest} までの数があり、{type} では表せません。型を bf16 か f32 にしてください",
    "a GGUF file cannot hold the rope_scaling {type}{settings} of this model":
        "このモデルの rope_scaling {type}{settings}は GGUF ファイルでは表せません",
    " with {names}":
        "（{names} を含む）",
    # writing GGUF files
    "{file} exists; choose another name, or remove it":
        "{file} は既にあります。別の名前にするか、消してください",
    "type_name is 'auto', {types}, not {type}":
        "type_name は 'auto', {types} のいずれかです。{type} は使えません",
    "revision and adapter belong to a source; a model in memory has its weights already":
        "revision と adapter は読み込むモデルのためのものです。メモリ上のモデルには既に重みがあります",
    "the rows of {names} are no whole blocks of {size} numbers, so they are F16":
        "{names} の行は {size} 個のブロックで割り切れないので、F16 にします",
    "the model has no whole weights in this process; save it with save_pretrained, and name that folder":
        "このプロセスにはモデルの重みの一部しかありません。save_pretrained で保存し、そのフォルダーを指定してください",
    "the model is a changed one ({names}), which llama.cpp cannot run; only a plain Llama is written":
        "変更したモデル（{names}）なので、llama.cpp では実行できません。書き出せるのは素の Llama だけです",
    "the model has no tokenizer, and a GGUF file needs one; {way_out}":
        "モデルにトークナイザーがありません。GGUF ファイルには必要です。{way_out}",
    "{error}; a GGUF file needs one: {way_out}":
        "{error}。GGUF ファイルには必要です。{way_out}",
    "name another tokenizer (tokenizer=…, --tokenizer)":
        "別のトークナイザーを指定してください（tokenizer=…、--tokenizer）",
    "left out, because the embedding has no row for them: the added tokens {names}":
        "埋め込みに行がないので、追加されたトークン {names} を省きます",
    "a GGUF file holds two ids that end a text; {ids} are left out":
        "GGUF ファイルに入る終了の id は二つまでなので、{ids} を省きます",
    "{folder}: its vocabulary has no piece for each byte, as llama.cpp needs; {way_out}":
        "{folder}: llama.cpp に必要な、バイトごとのピースが語彙にありません。{way_out}",
    "{file} changes characters before encoding, which llama.cpp does not do; {way_out}":
        "{file} は符号化の前に文字を変えますが、llama.cpp は変えません。{way_out}",
    "{file}: none of llama.cpp's pre-tokenizers that are known here gives its ids: {names}; {way_out}":
        "{file}: ここで使える llama.cpp のプリトークナイザー（{names}）のどれも、同じ id になりません。{way_out}",
    "{file} {problem}, which llama.cpp does not do; {way_out}":
        "{file} は{problem}が、llama.cpp は対応していません。{way_out}",
    "is a unigram model":
        "ユニグラムモデルです",
    "replaces characters before encoding":
        "符号化の前に文字を置き換えます",
    "removes spaces":
        "空白を取り除きます",
    "{file} has a vocabulary without byte pieces, which is not written as GGUF; {way_out}":
        "{file} の語彙にはバイトのピースがなく、GGUF に書き出せません。{way_out}",
    "{folder}: llama.cpp would encode {text} otherwise, because its rules are not SentencePiece's; {way_out}":
        "{folder}: llama.cpp の規則は SentencePiece と違うので、{text} の符号化が変わってしまいます。{way_out}",
    "{folder}: llama.cpp adds a space after the user-defined piece {piece}, unlike SentencePiece":
        "{folder}: llama.cpp は SentencePiece と違い、ユーザー定義のピース {piece} の後に空白を足します",
    "{folder}: llama.cpp encodes a text next to the added token {token} otherwise, because a GGUF file does not hold the rules for spaces beside it":
        "{folder}: 追加されたトークン {token} の隣の空白の規則は GGUF ファイルに入らないので、llama.cpp ではその隣の文章の符号化が変わります",
}
