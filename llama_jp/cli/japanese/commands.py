"""The Japanese of what the commands themselves say: notes, wrong arguments, files, comparisons, the chat. See the package."""

# ruff: noqa: E501
# fmt: off
MESSAGES = {
    # notes
    "prompt: {form}":
        "プロンプト: {form}",
    "prompt: plain text ({reason})":
        "プロンプト: そのままの文章（{reason}）",
    "the checkpoint has no chat template; --instruct applies ELYZA's":
        "チェックポイントにチャットテンプレートがないため。--instruct なら ELYZA のものを使う",
    "prompt: ELYZA's chat template, because the checkpoint has none":
        "プロンプト: ELYZA のチャットテンプレート（チェックポイントにないため）",
    "{template} (from {origin})":
        "{template}（{origin}）",
    "ELYZA's instruction template":
        "ELYZA の指示テンプレート",
    "the checkpoint's chat template":
        "チェックポイントのチャットテンプレート",
    "llama_jp, because the checkpoint has none":
        "チェックポイントにないので llama_jp のもの",
    ", ":
        "、",
    "{tokens} prompt tokens{cached}":
        "プロンプト {tokens} トークン{cached}",
    " ({cached} cached)":
        "（うち {cached} はキャッシュ）",
    "{tokens} new ({reason})":
        "新しい {tokens} トークン（{reason}）",
    "first after {seconds} s":
        "最初まで {seconds} 秒",
    "{accepted} of {drafted} draft tokens accepted in {passes} model calls":
        "モデルの {passes} 回の呼び出しで、ドラフトトークン {drafted} 個のうち {accepted} 個を採用",
    "seed {seed}":
        "シード {seed}",
    "{tokens} prompt tokens, new: {lengths}, after {seconds} s":
        "プロンプト {tokens} トークン、新しいトークン: {lengths}、{seconds} 秒",
    "{file}: {cached} prompt tokens reused, {saved} tokens saved":
        "{file}: プロンプトの {cached} トークンを再利用し、{saved} トークンを保存しました",
    "{file}: all {all} prompts are answered already":
        "{file}: {all} 個のプロンプトにはすべて答えてあります",
    "{file}: {answers}, {new} of them new, with {tokens} after {seconds} s ({rate} tokens/s)":
        "{file}: {answers}（新しいものは {new} 個、{tokens}）、{seconds} 秒（{rate} tokens/s）",
    "{rows} at a time; KV cache: up to {size} MB":
        "一度に{rows}。KV キャッシュ: 最大 {size} MB",
    "{number} prompt":
        "プロンプト {number} 個",
    "{number} prompts":
        "プロンプト {number} 個",
    "{number} token":
        "{number} トークン",
    "{number} tokens":
        "{number} トークン",
    "{file}: all {all} tasks are answered already":
        "{file}: {all} 個の課題にはすべて答えてあります",
    "{file}: {answers}, {new} of them new, after {seconds} s":
        "{file}: {answers}（新しいものは {new} 個）、{seconds} 秒",
    "{number} answer":
        "答え {number} 個",
    "{number} answers":
        "答え {number} 個",
    "the checkpoint samples its answers; they are compared with greedy decoding":
        "このチェックポイントは答えをサンプリングします。貪欲法の答えと比べます",
    "{file}: {tokens} tokens, {size} kB; open it in a browser":
        "{file}: {tokens} トークン、{size} kB。ブラウザーで開いてください",
    "{folder}: {files}, {size} bytes, {dtype}":
        "{folder}: {files}、{size} バイト、{dtype}",
    "{number} safetensors file":
        "safetensors ファイル {number} 個",
    "{number} safetensors files":
        "safetensors ファイル {number} 個",
    "{file}: {size} bytes, {tensors} tensors ({types})":
        "{file}: {size} バイト、テンソル {tensors} 個（{types}）",
    "optimised with the kept choices of this machine; each product is {checked} its layers":
        "このマシンに保存した選択で最適化しました。どの積も元の層と{checked}",
    "bit-identical to":
        "ビット単位で一致します",
    "close to":
        "近い値です",
    "optimised; numerical deviation on {tokens} tokens of prose: {deviation}":
        "最適化しました。散文 {tokens} トークンでの数値誤差: {deviation}",
    "none: all {logits} logits measured are bit-identical":
        "なし（測った {logits} 個のロジットはすべてビット単位で一致）",
    "{different} of {logits} logits differ, by {median} ULP in the median and {most} at most (near zero); KL divergence {kl} nats per token, the same most probable token in {top}":
        "{logits} 個のロジットのうち {different} 個が違い、差は中央値 {median} ULP、最大 {most} ULP（0 の近く）。KL ダイバージェンスは 1 トークンあたり {kl} ナット、確率最大のトークンが一致する割合は {top}",
    "--optimize auto: as loaded, because {error}":
        "--optimize auto: 読み込んだままです。理由: {error}",
    "--optimize auto: exact, {reason}; the results stay bit-identical":
        "--optimize auto: exact で、{reason}。結果はビット単位で一致したままです",
    "packed for about {seconds} s less in {tokens} tokens":
        "重みを並べ替えました。{tokens} トークンで約 {seconds} 秒短くなります",
    "measured now and kept for later starts, for about {seconds} s less in {tokens} tokens":
        "今カーネルを測り、次の起動のために保存しました。{tokens} トークンで約 {seconds} 秒短くなります",
    "self: int4, because int8 would take {int8_gb} GB, and {free_gb} GB are free, of which --optimize may take {packed_gb}":
        "self: int4 にします。int8 には {int8_gb} GB が必要ですが、空きは {free_gb} GB で、--optimize がそのうち {packed_gb} GB を使うことがあるためです",
    "self:{form} takes {size} GB of memory beside the model{rest}":
        "self:{form} はモデルのほかに {size} GB のメモリを使います{rest}",
    "; {free} GB are free":
        "。空きは {free} GB です",
    # finetune
    "{out}: checkpoint after {steps}{loss}":
        "{out}: {steps}学習したチェックポイント{loss}",
    "{out}: adapter after {steps}{loss}":
        "{out}: {steps}学習したアダプター{loss}",
    ", held-out loss {loss}":
        "、検証損失 {loss}",
    "{number} step":
        "{number} ステップ",
    "{number} steps":
        "{number} ステップ",
    'try it: llama-jp generate {flags} "…"':
        '試すには: llama-jp generate {flags} "…"',
    "--steps and --epochs both set the length of the run; leave one out":
        "--steps と --epochs はどちらも学習の長さを決めます。片方を外してください",
    "--eval and --held-out both choose the held-out examples; leave one out":
        "--eval と --held-out はどちらも検証用の学習例を決めます。片方を外してください",
    "{path} is a folder; name a JSONL file":
        "{path} はフォルダーです。JSONL ファイルを指定してください",
    "{file} holds no examples{place}":
        "{file} に{place}学習例がありません",
    " with an answer in their first {tokens} tokens; take a larger length":
        "、先頭の {tokens} トークンに答えのある（長さを大きくしてください）",
    "it is not JSON: {error} at character {position}; a line is one whole object":
        "JSON ではありません: {position} 文字目: {error}。1 行に 1 つのオブジェクトを書いてください",
    "it is not an example: JSON nested too deeply":
        "学習例ではありません: JSON の入れ子が深すぎます",
    "it is a {type} where an object was expected":
        "中身は {type} です。JSON のオブジェクトが必要です",
    "{held_out} of {all} examples are held out, so none is left to train on":
        "{all} 個の学習例のうち {held_out} 個を検証用に取り分けるので、学習に使うものが残りません",
    "this tokenizer has no BOS or no EOS token, with which an example begins and ends":
        "このトークナイザーには、学習例の始めと終わりに置く BOS か EOS トークンがありません",
    "the text is empty":
        "文章が空です",
    "{forms} are given; keep one":
        "{forms} が両方あります。1 つだけにしてください",
    "it has {keys}; an example has {forms}":
        "キーは {keys} ですが、学習例に必要なのは {forms} です",
    '"messages", "text", or "instruction" and "output"':
        '"messages"、"text"、または "instruction" と "output"',
    "no key":
        "なし",
    '"messages" is {kind} where a list was expected':
        '"messages" が {kind} です。リストが必要です',
    '"{key}" is {kind} where a text was expected':
        '"{key}" が {kind} です。文章が必要です',
    "message {i}, an answer of the assistant, has no text":
        "アシスタントの答えであるメッセージ {i} に文章がありません",
    "the last message is not an answer of the assistant, so there is nothing to learn":
        "最後のメッセージがアシスタントの答えではないので、学ぶものがありません",
    "the tokenizer merges {text} with any text before it; begin the answer differently":
        "トークナイザーが {text} を前の文章と必ず結合します。答えの書き出しを変えてください",
    "an adapter is trained in a single process; start the command without torchrun":
        "アダプターは単独のプロセスで学習します。torchrun を使わずに実行してください",
    "{model} is quantised, and its weights cannot be trained; train an adapter with LoRA":
        "{model} は量子化されていて、重みを学習できません。LoRA でアダプターを学習してください",
    "length {length} is more than the model's context of {context} tokens; choose a smaller one":
        "長さ {length} がモデルのコンテキスト {context} トークンを超えています。小さくしてください",
    "{name} is {value}; at least {least} is needed":
        "{name} が {value} です。{least} 以上にしてください",
    "{names} exclude each other; leave one of them out":
        "{names} は同時に使えません。どれかを外してください",
    "precision is {value}; it can be {values}":
        "precision が {value} です。{values} のいずれかにしてください",
    "weights are too large for {dtype}, and are written as trained":
        "重みが {dtype} には大きすぎるので、学習したときの dtype で書き出します",
    "example {example} has {ids} ids and {labels} labels; each id has one label":
        "学習例 {example} の id は {ids} 個、ラベルは {labels} 個です。id ごとに 1 つのラベルが必要です",
    "example {example} has {tokens} tokens and a row {length}; cut it, or take longer rows":
        "学習例 {example} は {tokens} トークンですが、1 行は {length} トークンです。学習例を切るか、行を長くしてください",
    "the run needs about {needed} and {free} are free on {device}: {need}; {way_out}":
        "学習には約 {needed} のメモリが必要ですが、{device} の空きは {free} です（{need}）。{way_out}",
    "weights {weights} + gradients {gradients} + AdamW's moments {moments} + activations about {activations}":
        "重み {weights} + 勾配 {gradients} + AdamW のモーメント {moments} + 活性値 約 {activations}",
    "take a smaller batch or length, or checkpoint the activations":
        "バッチか長さを小さくするか、--checkpointing（checkpointing=True）を使ってください",
    "{way_out}, or take the precision bfloat16":
        "{way_out}か、precision を bfloat16 にしてください",
    "train an adapter (LoRA)":
        "アダプター（LoRA）を学習する",
    "quantise the model":
        "モデルを量子化する",
    "the gradients have the norm {norm}; try a smaller learning rate, more warm-up steps, or float32":
        "勾配のノルムが {norm} です。学習率を下げるか、ウォームアップのステップを増やすか、float32 を試してください",
    "{file} has the parameters of another model; remove it, or choose another folder":
        "{file} は別のモデルのパラメーターです。消すか、別のフォルダーにしてください",
    "{folder} is a file; choose another folder":
        "{folder} はファイルです。別のフォルダーにしてください",
    "{folder} holds files that are no training run; choose another folder, or remove it":
        "{folder} には学習の実行ではないファイルがあります。別のフォルダーにするか、消してください",
    "{folder} is a run with other settings: {changes}; repeat the earlier command, or choose another folder":
        "{folder} は別の設定の実行です: {changes}。前と同じコマンドにするか、別のフォルダーにしてください",
    "adapters are trained with PEFT, which is missing: pip install 'llama-jp[train]'":
        "アダプターの学習には PEFT が必要です: pip install 'llama-jp[train]'",
    # bench
    "no kernel choices are kept":
        "保存したカーネルの選択はありません",
    "{file}: removed":
        "{file}: 消しました",
    "writing random float16 weights of shape {shape} to {folder} …":
        "{shape} の形の float16 の乱数の重みを {folder} に書いています…",
    "a prompt of {tokens} tokens is left out: the context has {context} tokens":
        "{tokens} トークンのプロンプトは省きます: コンテキストは {context} トークンです",
    "--layers needs --random; a checkpoint has its own number of layers":
        "--layers には --random が必要です。チェックポイントの層の数は決まっています",
    "--{flag} belongs to a checkpoint, and --random has none":
        "--{flag} はチェックポイントのためのものです。--random では使えません",
    "--prompt and --batch are whole numbers of at least 1":
        "--prompt と --batch は 1 以上の整数です",
    "the random weights need {needed} GB, but {folder} has {free} GB free; make room, take fewer --layers, or name another folder in TMPDIR":
        "乱数の重みには {needed} GB が必要ですが、{folder} の空きは {free} GB です。空きを作るか、--layers を減らすか、TMPDIR で別のフォルダーを指定してください",
    # parity
    "{words} is unknown; known are {known}":
        "{words} はありません。使えるのは {known} です",
    "{text} is not a whole number of at least 0":
        "{text} は 0 以上の整数ではありません",
    "--{flag} has no effect with --replay, which repeats the settings of the certificate":
        "--{flag} は --replay では効果がありません。証明書の設定を繰り返すためです",
    "--{flag} has no effect with --fullsize, which compares one pass in bfloat16 with transformers":
        "--{flag} は --fullsize では効果がありません。bfloat16 の 1 回の計算を transformers と比べるためです",
    "--{flag} names the checkpoint of --fullsize, which is not given":
        "--{flag} は --fullsize のチェックポイントの場所ですが、--fullsize がありません",
    "--{flag} is the number of layers of a random model; it needs --random or --fullsize":
        "--{flag} は乱数のモデルの層の数です。--random か --fullsize が必要です",
    "--{flag} has no effect: both models name their own checkpoint":
        "--{flag} は効果がありません: どちらのモデルも自分のチェックポイントを指定しています",
    "--{flag} has no effect: the function {function} chooses it itself":
        "--{flag} は効果がありません: 関数 {function} が自分で決めます",
    "--{flag} has no effect: llama.cpp runs without flash attention":
        "--{flag} は効果がありません: llama.cpp はフラッシュアテンションなしで動かします",
    "--{flag} is a setting of llama.cpp, which is not compared":
        "--{flag} は llama.cpp の設定ですが、llama.cpp は比較の対象にありません",
    "--{flag} has no effect: the mode tokenizer runs no model":
        "--{flag} は効果がありません: モード tokenizer はモデルを動かしません",
    "--{flag} needs a mode that generates: {modes}":
        "--{flag} には、生成するモードが必要です: {modes}",
    "--{flag} needs a mode that compares logits, such as whole":
        "--{flag} には、whole のようなロジットを比べるモードが必要です",
    "--{flag} judges single operations, which the mode gradients does not; leave one out":
        "--{flag} は演算を 1 つずつ判定しますが、モード gradients は判定しません。どちらかを外してください",
    "--{flag} has no effect: the ids come from --text, and no mode is random":
        "--{flag} は効果がありません: id は --text から作られ、乱数を使うモードもありません",
    "--fullsize writes a checkpoint of several gigabytes: name its folder with --folder":
        "--fullsize は数 GB のチェックポイントを書き出します。--folder でフォルダーを指定してください",
    "the model of {function} failed: {error}":
        "{function} のモデルが失敗しました: {error}",
    "neither model has a configuration: name a checkpoint for one of them":
        "どちらのモデルにも設定（config）がありません。片方にチェックポイントを指定してください",
    "the weights are random, so the file {file} cannot be compared with --random":
        "重みが乱数なので、ファイル {file} は --random では比べられません",
    "both models load the random checkpoint, so {model} cannot be named with --random":
        "--random では両方のモデルが乱数のチェックポイントを読み込むので、{model} は指定できません",
    "--text and the mode tokenizer need a checkpoint with a tokenizer; a random one has none":
        "--text とモード tokenizer には、トークナイザーのあるチェックポイントが必要です。乱数のものにはありません",
    "{text} has {tokens} tokens, but {rows} rows of {length} tokens need {needed}; give a longer text, or fewer --rows or --tokens":
        "{text} は {tokens} トークンですが、{length} トークンの {rows} 行には {needed} トークンが必要です。文章を長くするか、--rows か --tokens を減らしてください",
    "{name} returns a {type} for ids; a tensor of logits (B, T, V) is needed":
        "{name} は id に対して {type} を返します。ロジットのテンソル (B, T, V) が必要です",
    "{name}: {shapes}; floating-point logits (B, T, V) are needed":
        "{name}: {shapes}。浮動小数点数のロジット (B, T, V) が必要です",
    "ids {ids} give {dtype} logits {logits}":
        "id {ids} に対するロジットが {dtype} {logits} です",
    "llama.cpp computes in float32, so {model} has no dtype {dtype}; leave it out":
        "llama.cpp は float32 で計算するので、{model} に dtype {dtype} は指定できません。外してください",
    "llama.cpp runs one row at a time here, not {rows}; leave the number out":
        "ここでは llama.cpp は 1 行ずつ計算します。{rows} 行は指定できないので、外してください",
    "{spec}: there is no {file}; name the folder of a checkout of this project":
        "{spec}: {file} がありません。このプロジェクトをチェックアウトしたフォルダーを指定してください",
    "{model} needs a checkpoint: name a folder for the other model, or give --checkpoint":
        "{model} にはチェックポイントが必要です。もう一方のモデルにフォルダーを指定するか、--checkpoint を付けてください",
    "the reference is transformers, which is not installed: pip install transformers":
        "参照実装の transformers がインストールされていません: pip install transformers",
    "{file} is a GGUF file, of which transformers drops biases and rope scaling; write it as a folder with `llama-jp convert`, and compare that":
        "{file} は GGUF ファイルです。transformers はバイアスと RoPE の縮尺を読み落とすので、`llama-jp convert` でフォルダーに書き出し、それを比べてください",
    "transformers cannot load {folder} ({scheme}); compare it --against its original":
        "transformers は {folder}（{scheme}）を読み込めません。--against に元のモデルを指定して比べてください",
    "transformers cannot load {folder}, which is in another layout; write it with `llama-jp convert`, and name the new folder":
        "{folder} は別の形式なので、transformers は読み込めません。`llama-jp convert` で書き出し、そのフォルダーを指定してください",
    "transformers cannot load {folder}: {type}: {error}":
        "transformers が {folder} を読み込めません: {type}: {error}",
    "{model} is a {type}, which cannot be called with ids":
        "{model} は {type} で、id を渡して呼び出せません",
    "mode is one of {modes}, not {mode}":
        "mode は {modes} のいずれかです。{mode} は使えません",
    "no operation matches {pattern}, which is expected to differ; {known}":
        "違うはずの演算 {pattern} に一致するものがありません。{known}",
    "there are {names}, …":
        "あるのは {names} などです",
    "neither model has a configuration":
        "どちらのモデルにも設定（config）がありません",
    "{model} cannot generate: it is no model of this project and none of transformers":
        "{model} は生成できません: このプロジェクトのモデルでも transformers のモデルでもありません",
    "a row of 1 token has no next token, so no loss and no gradients; give at least 2 tokens":
        "1 トークンの行には次のトークンがなく、損失も勾配もありません。2 トークン以上にしてください",
    "{model} shows no parameters, so it has no gradients to compare":
        "{model} のパラメーターが見えないので、比べる勾配がありません",
    "the mode tokenizer compares checkpoints and transformers; {spec} is {kind}":
        "モード tokenizer が比べるのはチェックポイントと transformers です。{spec} は{kind}です",
    "a function":
        "関数",
    "a model in llama.cpp":
        " llama.cpp のモデル",
    "a checkout":
        "チェックアウト",
    "transformers cannot load the tokenizer of {folder}: {error}":
        "transformers が {folder} のトークナイザーを読み込めません: {error}",
    "{file} was made under other conditions ({changes}); write another file":
        "{file} は別の条件（{changes}）で作られたものです。別のファイルに書いてください",
    "{file} is not JSON: {error}":
        "{file} は JSON ではありません: {error}",
    "{file} is not a certificate of format {format}":
        "{file} は形式 {format} の証明書ではありません",
    "{file} is a damaged certificate: it needs a list of runs and an environment":
        "{file} は壊れた証明書です: 実行のリストと環境の記録が必要です",
    "{file} has a run that cannot be repeated: {type}: {error}":
        "{file} に、繰り返せない実行があります: {type}: {error}",
    "{file} is a folder, and llama.cpp loads a GGUF file: name the file":
        "{file} はフォルダーです。llama.cpp が読み込むのは GGUF ファイルなので、ファイルを指定してください",
    "{file} is not a GGUF file, which llama.cpp needs":
        "{file} は、llama.cpp に必要な GGUF ファイルではありません",
    "{file} has one weight for queries, keys and values ({name}), so they cannot be compared one by one; convert the model without --fuse-qkv":
        "{file} ではクエリ・キー・値の重みが 1 つ（{name}）なので、1 つずつ比べられません。--fuse-qkv を付けずにモデルを変換してください",
    "llama.cpp cannot load {file}: {error}":
        "llama.cpp が {file} を読み込めません: {error}",
    "llama.cpp cannot run {file} with {tokens} tokens: {error}":
        "llama.cpp が {file} を {tokens} トークンで実行できません: {error}",
    "llama.cpp fails on {file} with status {status}: {error}":
        "llama.cpp の {file} の実行が、ステータス {status} で失敗しました: {error}",
    "llama.cpp has no padding, so the mode ragged cannot compare it; use whole, steps or chunks":
        "llama.cpp にはパディングがないので、モード ragged では比べられません。whole、steps、chunks を使ってください",
    "llama.cpp runs one row at a time here, not {rows}; use Settings(rows=1)":
        "ここでは llama.cpp は 1 行ずつ計算します。{rows} 行ではなく Settings(rows=1) にしてください",
    "the KV cache of llama.cpp is {types} here, not {given}":
        "ここでの llama.cpp の KV キャッシュは {types} です。{given} は使えません",
    "the ids go from {least} to {most}, and {file} has {vocabulary} of them, from 0":
        "id が {least} から {most} までありますが、{file} の id は 0 から {vocabulary} 個です",
    "{model} computes in {dtype}, and llama.cpp in float32; load it with the dtype float32":
        "{model} は {dtype} で、llama.cpp は float32 で計算します。dtype を float32 にして読み込んでください",
    "llama.cpp is run by the package llama-cpp-python, which cannot be imported ({error}): pip install 'llama-jp[peers]'":
        "llama.cpp を動かすパッケージ llama-cpp-python をインポートできません（{error}）: pip install 'llama-jp[peers]'",
    "{file} stores {name} as {type}, and how llama.cpp rounds the inputs of its product is not known here; compare a file of another type":
        "{file} の {name} は {type} ですが、llama.cpp がその積の入力をどう丸めるかは、ここではわかりません。別の型のファイルを比べてください",
    "{name} has no parameter {parameter}, so it cannot take the weights of the GGUF file; compare a model that is not quantised":
        "{name} にパラメーター {parameter} がなく、GGUF ファイルの重みを入れられません。量子化していないモデルを比べてください",
    # argparse
    "; usage: {usage} (see {program} --help)":
        "。使い方: {usage}（詳しくは {program} --help）",
    "expected one argument":
        "値が 1 つ必要です",
    "expected at least one argument":
        "値が 1 つ以上必要です",
    "expected at most one argument":
        "値は 1 つまでです",
    "{message}; a value that begins with - follows =, as in {flag}=-1":
        "{message}。- で始まる値は {flag}=-1 のように = の後に書いてください",
    "invalid {type} value: {value}":
        "{value} は {type} として読めません",
    "invalid choice: {value} (choose from {choices})":
        "{value} は選べません（選択肢: {choices}）",
    "not allowed with argument {flag}":
        "{flag} とは同時に使えません",
    "the following arguments are required: {names}":
        "次の引数が必要です: {names}",
    "ambiguous option: {option} could match {matches}":
        "{option} だけでは {matches} のどれかわかりません",
    "ignored explicit argument {value}":
        "値 {value} は取りません",
    # the parser
    "there is no command {word}{hint}":
        "「{word}」というコマンドはありません{hint}",
    "{word} is unknown{hint}":
        "「{word}」は不明な引数です{hint}",
    "; did you mean {word}?":
        "。「{word}」のことですか",
    "; a text that begins with - follows --: {program} -- {text}":
        "。- で始まる文章は -- の後に書いてください: {program} -- {text}",
    "the source is named twice, as {source} and as --model {model}":
        "変換元が {source} と --model {model} の二つあります",
    "--print-completion needs shtab: pip install 'llama-jp[chat]'":
        "--print-completion には shtab が必要です: pip install 'llama-jp[chat]'",
    # value types
    "{text} is not a whole number of at least 1":
        "{text} は 1 以上の整数ではありません",
    "{text} is too large; no tensor has more than {most} of anything":
        "{text} は大きすぎます。テンソルの大きさは {most} までです",
    "{text} is not a whole number from 0 to {most}":
        "{text} は 0 以上 {most} 以下の整数ではありません",
    "{text} is not a number of at least 0":
        "{text} は 0 以上の数ではありません",
    "{text} is not a number above 0":
        "{text} は 0 より大きい数ではありません",
    "{text} threads are more than {most}; take one for each CPU core":
        "{text} は {most} スレッドを超えています。CPU のコア数にしてください",
    "{text} is not a list of whole numbers, such as 2,13":
        "{text} は 2,13 のような整数の並びではありません",
    "{text} is not JSON: {error}":
        "{text} は JSON ではありません: {error}",
    "{text} is JSON, but not a list":
        "{text} は JSON ですが、リストではありません",
    "{text} is not one of {values}":
        "{text} は {values} のいずれでもありません",
    "{text} is not a type and a factor, such as linear:2":
        "{text} は linear:2 のような種類と倍率ではありません",
    "{text} is not a list of ids, such as 1,518,25580":
        "{text} は 1,518,25580 のような id の並びではありません",
    # files and the machine
    "{file}: {error}":
        "{file}: {error}",
    "No such file or directory":
        "そのようなファイルやフォルダーはありません",
    "Permission denied":
        "アクセス権がありません",
    "Is a directory":
        "フォルダーです",
    "Not a directory":
        "フォルダーではありません",
    "File name too long":
        "ファイル名が長すぎます",
    "{error}; make room, or write to another disk":
        "{error}。空きを作るか、別のディスクに書いてください",
    "No space left on device":
        "ディスクに空きがありません",
    "a file is not {encoding} text: byte {position} is 0x{byte}":
        "ファイルが {encoding} の文章ではありません: {position} バイト目が 0x{byte} です",
    "a library cannot be imported: {error}":
        "ライブラリーをインポートできません: {error}",
    "a number is too large: {error}":
        "数が大きすぎます: {error}",
    "{place} is full{size}; take a smaller model, batch or context, or a 16-bit --dtype":
        "{place}が足りません{size}。モデル、バッチ、コンテキストを小さくするか、16 ビットの --dtype にしてください",
    "the memory":
        "メモリ",
    "the GPU's memory":
        "GPU のメモリ",
    ": {size} GiB more are needed":
        "（あと {size} GiB 必要）",
    ": {size} more are needed":
        "（あと {size} 必要）",
    "{folder} {kind}, so {file} cannot be written there; choose another place":
        "{folder} {kind}。{file} を書けないので、別の場所を選んでください",
    "is not writable":
        "に書き込めません",
    "is no folder":
        "はフォルダーではありません",
    "standard input is closed; give the text as an argument, or in a file":
        "標準入力が閉じています。文章は引数かファイルで渡してください",
    "standard input":
        "標準入力",
    "the prompt":
        "プロンプト",
    "the message":
        "メッセージ",
    "the system prompt":
        "システムプロンプト",
    "a text of --stop":
        "--stop の文章",
    "{name} is not {encoding}: byte {position} is 0x{byte}; {way_out}":
        "{name} は {encoding} ではありません: {position} バイト目が 0x{byte} です。{way_out}",
    "convert it, as iconv -f SHIFT_JIS -t UTF-8 does":
        "iconv -f SHIFT_JIS -t UTF-8 などで変換してください",
    "convert it, as iconv -f SHIFT_JIS -t UTF-8 does, or set PYTHONIOENCODING to its encoding":
        "iconv -f SHIFT_JIS -t UTF-8 などで変換するか、PYTHONIOENCODING にその文字コードを設定してください",
    "it is nested too deeply":
        "入れ子が深すぎます",
    "{file} is not valid JSON: {error}":
        "{file} は正しい JSON ではありません: {error}",
    "{file} holds a {type} where an object was expected":
        "{file} の中身は {type} です。JSON のオブジェクトが必要です",
    # the model's name
    "the name of the model is empty; name a folder, a hub repository, or demo":
        "モデルの名前が空です。フォルダー、ハブのリポジトリ、または demo を指定してください",
    "only `llama-jp parity` takes {source}; name a folder, a GGUF file or a hub repository":
        "{source} を指定できるのは `llama-jp parity` だけです。フォルダー、GGUF ファイル、ハブのリポジトリを指定してください",
    "{source} is no folder, no hub repository (owner/name) and no short name ({names}){hint}":
        "{source} というフォルダーはなく、ハブのリポジトリ（owner/name）でも短い名前（{names}）でもありません{hint}",
    "there is no file {source}{hint}":
        "{source} というファイルはありません{hint}",
    "there is no file {owner}/{file}, and on the hub: {error}":
        "{owner}/{file} というファイルはありません。ハブでも見つかりません: {error}",
    "the bundled model weights/demo is not installed; name a folder or a hub repository instead":
        "同梱のモデル weights/demo がインストールされていません。フォルダーかハブのリポジトリを指定してください",
    "{source} is the {kind} {folder}, and only hub repositories have revisions; drop {revision}":
        "{source} は{kind} {folder} です。リビジョンはハブのリポジトリにしかないので、{revision} を外してください",
    "folder":
        "フォルダー",
    "file":
        "ファイル",
    "there is no {name} in {repository} on the hub; see the names at its Files tab":
        "ハブの {repository} に {name} はありません。名前は Files タブで確かめてください",
    "{repository} is not in the local cache and the hub cannot be reached (or HF_HUB_OFFLINE is set); download it once with a network, or name a folder{hint}":
        "{repository} はこのマシンのキャッシュになく、ハブにも接続できません（または HF_HUB_OFFLINE が設定されています）。ネットワークのあるところで一度ダウンロードするか、フォルダーを指定してください{hint}",
    "the hub refused {repository}: {error}{hint}":
        "ハブが {repository} を拒否しました: {error}{hint}",
    "{repository} at revision {revision}":
        "{repository}（リビジョン {revision}）",
    "{address} is a web address; download the files, and use the name of their folder":
        "{address} はウェブのアドレスです。ファイルをダウンロードし、そのフォルダー名を指定してください",
    "{address} is a web address; use the name of the repository, {name}{at_revision}":
        "{address} はウェブのアドレスです。リポジトリの名前を指定してください: {name}{at_revision}",
    " with revision {revision}":
        "（リビジョン {revision}）",
    "{file} is a file; use the folder with the whole checkpoint, such as {folder}":
        "{file} はファイルです。チェックポイント全体の入ったフォルダーを指定してください。例: {folder}",
    "{file} is a GGML file of before August 2023; use a GGUF file of the same model":
        "{file} は 2023 年 8 月より前の GGML ファイルです。同じモデルの GGUF ファイルを使ってください",
    # prompts
    'there is no prompt; type one after the command: llama-jp generate "…"':
        'プロンプトがありません。コマンドの後に書いてください: llama-jp generate "…"',
    'the prompt is empty; --raw "" generates a text from its start':
        'プロンプトが空です。文章を最初から生成するには --raw "" とします',
    "--system is part of the instruction template: add --instruct, or leave out --raw":
        "--system は指示テンプレートの一部です。--instruct を付けるか、--raw を外してください",
    "--top-logprobs needs --json":
        "--top-logprobs には --json が必要です",
    "--cache and --assistant-model work with one answer and without beam search":
        "--cache と --assistant-model は、答えが 1 つで、ビームサーチを使わないときだけ使えます",
    "the prompt has {tokens} tokens, but the context holds {context}, and the answer needs space as well":
        "プロンプトは {tokens} トークンですが、コンテキストに入るのは {context} トークンで、答えの分も必要です。プロンプトを短くしてください",
    "the prompt has {tokens} tokens and max_new_tokens is {new}, but the context holds {context}; ask for at most {most}":
        "プロンプトが {tokens} トークン、max_new_tokens が {new} ですが、コンテキストに入るのは {context} トークンです。{most} 以下にしてください",
    "the prompt has {tokens} tokens, but max_length is {most}; set max_new_tokens":
        "プロンプトが {tokens} トークンですが、max_length は {most} です。max_new_tokens を指定してください",
    "max_new_tokens has to be a whole number of at least 1, not {value}":
        "max_new_tokens は 1 以上の整数でなければなりません。{value} は使えません",
    "sink_tokens is {tokens}, but the context holds {context}":
        "sink_tokens は {tokens} ですが、コンテキストに入るのは {context} トークンです",
    "there are no prompts":
        "プロンプトがありません",
    "prompts are lists of ids, one for each row, but prompt {number} is {value}":
        "プロンプトは行ごとの id のリストですが、プロンプト {number} は {value} です",
    "prompt {number} is empty; begin it with the BOS id {id} at least":
        "プロンプト {number} が空です。少なくとも BOS の id {id} で始めてください",
    "prompt {number} has the id {id}, but the model's vocabulary has ids 0 to {last}; use the tokenizer that belongs to this model":
        "プロンプト {number} に id {id} がありますが、モデルの語彙の id は 0 から {last} までです。このモデルのトークナイザーを使ってください",
    "{seeds} seeds for {rows} rows; give one for each row, or a single number for all":
        "{rows} 行に対してシードが {seeds} 個です。行ごとに 1 つ、または全体で 1 つの数にしてください",
    # files of prompts
    "--prompts FILE.jsonl and --out FILE.jsonl belong together, and --batch to both":
        "--prompts FILE.jsonl と --out FILE.jsonl は一緒に使います。--batch はその両方とともに使います",
    "{flag} belongs to a single prompt; leave it out with --prompts":
        "{flag} は 1 つのプロンプトのためのものです。--prompts とは一緒に使えません",
    "--prompts writes one answer per prompt; leave out --num-return-sequences":
        "--prompts ではプロンプトごとに 1 つの答えを書きます。--num-return-sequences を外してください",
    "--prompts and --out are the same file {file}; choose another --out":
        "--prompts と --out が同じファイル {file} です。--out を変えてください",
    "{file} holds no prompts":
        "{file} にプロンプトがありません",
    "{file}, line {number} is not JSON: {error}":
        "{file} の {number} 行目は JSON ではありません: {error}",
    '{file}, line {number} is no string and no object with a text in "prompt"':
        '{file} の {number} 行目は、文字列でも、"prompt" に文章を持つオブジェクトでもありません',
    '{file}, line {number} has the key "{key}", which belongs to the answer; rename it':
        '{file} の {number} 行目にあるキー "{key}" は、答えが使う名前です。別の名前にしてください',
    "{file}, line {number} is no answer to these prompts; choose another --out, or remove it":
        "{file} の {number} 行目は、これらのプロンプトへの答えではありません。--out を変えるか、ファイルを消してください",
    "{file} has answers with other settings: {key} was {then} and is {now}; repeat the earlier command, or choose another --out":
        "{file} の答えは別の設定によるものです: {key} が {then} から {now} に変わりました。前と同じコマンドにするか、--out を変えてください",
    "{file}, {line}: {error}":
        "{file}、{line}: {error}",
    "line {number}":
        "{number} 行目",
    # chat
    "max_new_tokens is {tokens}, but the context holds {context}, and the message needs space as well; make it smaller, or add --past-context shift":
        "max_new_tokens は {tokens} ですが、コンテキストに入るのは {context} トークンで、メッセージの分も必要です。小さくするか、--past-context shift を付けてください",
    "do_sample false chooses no token at random, so it cannot be combined with {options}; /set one of them to default first":
        "do_sample false はサンプリングしないので、{options} とは組み合わせられません。先に /set でどれかを default にしてください",
    "there is no option {name} to set in a chat{hint}":
        "チャットで設定できるオプション {name} はありません{hint}",
    "; llama-jp chat --help lists the options of generation":
        "。生成のオプションは llama-jp chat --help で表示できます",
    "{name} is true, false or default, not {value}":
        "{name} は true、false、default のいずれかです。{value} は使えません",
    "{file} is no saved conversation: users and assistants have to take turns in it":
        "{file} は保存した会話ではありません: user と assistant が交互でなければなりません",
    "{file} is no saved conversation: {error}":
        "{file} は保存した会話ではありません: {error}",
    "; /reset clears the conversation":
        "。/reset で会話を消去できます",
    ", and --past-context shift lets a text exceed the context":
        "。--past-context shift ならコンテキストを超えられます",
    "warning: {message}":
        "警告: {message}",
    "this looks like a base model, because it has no chat template: it was never trained on the [INST] template, so it continues the text of the conversation and does not answer; use an instruct model to chat, or `generate` to continue a text":
        "チャットテンプレートがないので、ベースモデルのようです。[INST] のテンプレートで学習していないため、質問に答えずに会話の文章の続きを書きます。チャットには instruct のモデルを、文章の続きには `generate` を使ってください",
    (
        "/retry          answer the last message again\n"
        "/reset          clear the conversation (also /clear, /new)\n"
        "/system TEXT    set the system prompt and clear the conversation\n"
        "/system         show the system prompt\n"
        "/set NAME VALUE set an option of generation, such as /set temperature 0.7; VALUE default: as without it\n"
        "/set            show the options\n"
        "/save FILE      write the conversation as JSON\n"
        "/load FILE      go on with a saved conversation\n"
        "/exit           leave the chat (also /quit, /bye, /q), as Ctrl-D does; Ctrl-C ends an answer\n"
        "/help           show these commands (also /?)\n"
        "//…             a message that begins with one slash\n"
        'A pasted text is one message. Lines between two """ are one message, and \\ at the end of a line continues it.'
    ):
        (
            "/retry          最後のメッセージに答え直す\n"
            "/reset          会話を消去する（/clear、/new も同じ）\n"
            "/system TEXT    システムプロンプトを設定し、会話を消去する\n"
            "/system         システムプロンプトを表示する\n"
            "/set NAME VALUE 生成のオプションを設定する。例: /set temperature 0.7。VALUE を default にすると取り消す\n"
            "/set            オプションを表示する\n"
            "/save FILE      会話を JSON で書き出す\n"
            "/load FILE      保存した会話を続ける\n"
            "/exit           チャットを終わる（/quit、/bye、/q、Ctrl-D も同じ）。Ctrl-C は答えを打ち切る\n"
            "/help           このコマンドの一覧を表示する（/? も同じ）\n"
            "//…             スラッシュ 1 つで始まるメッセージ\n"
            '貼り付けた文章は 1 つのメッセージになります。二つの """ で囲んだ行も、行末の \\ で続けた行も、1 つのメッセージです。'
        ),
    "type a message; /help shows the commands":
        "メッセージを入力してください。/help でコマンドを表示します",
    "\n/exit leaves the chat":
        "\n/exit でチャットを終わります",
    "the conversation is cleared":
        "会話を消去しました",
    "the system prompt is the template's own":
        "システムプロンプトはテンプレート自身のものです",
    "there is no system prompt":
        "システムプロンプトはありません",
    "the system prompt is set, and the conversation is cleared":
        "システムプロンプトを設定し、会話を消去しました",
    "{command} needs the name of a file":
        "{command} にはファイル名が必要です",
    "{file}: {count} saved":
        "{file}:{count}を保存しました",
    "{file}: the conversation goes on after {count}":
        "{file}:{count}の続きから会話します",
    "{number} turn":
        " {number} 往復",
    "{number} turns":
        " {number} 往復",
    "there is no command {command}{hint}; /help shows the commands, and / is sent as //":
        "「{command}」というコマンドはありません{hint}。/help でコマンドを表示します。/ で始まるメッセージは // と書きます",
    "there is no message to answer again":
        "答え直すメッセージがありません",
    "the answer will be the same, because nothing is random: {way_out}":
        "乱数を使わないので同じ答えになります: {way_out}",
    "/set temperature 0.7 samples":
        "/set temperature 0.7 でサンプリングします",
    "its oldest turn":
        "最も古い 1 往復",
    "its {number} oldest turns":
        "最も古い {number} 往復",
    "the context of {context} tokens is full: the chat goes on without {turns}, up to “{text}”":
        "{context} トークンのコンテキストが一杯です。{turns}（「{text}」まで）を外して続けます",
    # convert, quantize
    "SRC and DST are needed":
        "SRC と DST が必要です",
    "{folder} exists and is not an empty folder; choose another, or remove it":
        "{folder} は既にあり、空のフォルダーではありません。別の場所にするか、消してください",
    "MODEL and OUT are needed: llama-jp quantize MODEL OUT, or llama-jp quantize --verify FOLDER":
        "MODEL と OUT が必要です: llama-jp quantize MODEL OUT、または llama-jp quantize --verify FOLDER",
    "--verify FOLDER takes no MODEL, no OUT and no options for quantising; remove them":
        "--verify FOLDER には MODEL、OUT、量子化のオプションを付けられません。外してください",
    "--against needs --verify":
        "--against には --verify が必要です",
    "--group-size needs --bits 4; int8 has one scale per row":
        "--group-size には --bits 4 が必要です。int8 のスケールは行ごとに 1 つです",
    "--calibrate needs --method gptq; rounding to nearest uses no text":
        "--calibrate には --method gptq が必要です。最近接丸めは文章を使いません",
    "{layer} has {inputs} inputs, which is not a multiple of the group size {size}; {way_out}":
        "{layer} の入力は {inputs} 個で、グループサイズ {size} の倍数ではありません。{way_out}",
    "no supported group size divides them; use 8 bits":
        "割り切れるグループサイズがないので、8 ビットにしてください",
    "use {sizes}, as in --group-size {size}":
        "--group-size {size} のように指定してください（使えるのは {sizes}）",
    "{source} is already quantised ({scheme}); quantise its original instead":
        "{source} は既に量子化されています（{scheme}）。元のモデルを量子化してください",
    "{source} returns a model that is already quantised; quantise its original instead":
        "{source} が返すモデルは既に量子化されています。元のモデルを量子化してください",
    "{source} returns a changed model ({names}), and only a plain Llama can be quantised":
        "{source} は変更したモデル（{names}）を返します。量子化できるのは素の Llama だけです",
    "gptq needs a calibration text, and there is no tokenizer in {folder}; use method rtn":
        "gptq にはキャリブレーション用の文章が必要ですが、{folder} にトークナイザーがありません。method rtn を使ってください",
    "there is no tokenizer in {folder}, so no certificate is written":
        "{folder} にトークナイザーがないので、証明書を書きません",
    "{folder} is not quantised, so there is nothing to certify":
        "{folder} は量子化されていないので、証明するものがありません",
    "{folder} is not quantised, so there is nothing to verify":
        "{folder} は量子化されていないので、検証するものがありません",
    "{file} does not name the source of the original; use --against":
        "{file} に元のモデルが書かれていません。--against で指定してください",
    "{file} has changed since the certificate; name the original text with --text":
        "{file} は証明書の後で変わっています。元の文章を --text で指定してください",
    "there is no {file} in {folder}: it was quantised without a tokenizer or saved after a change":
        "{folder} に {file} がありません。トークナイザーなしで量子化したか、変更の後に保存したものです",
    "{file} has format {format}; supported is {supported}":
        "{file} の形式は {format} です。対応しているのは {supported} です",
    "{file} has the dtype {dtype}; supported are {supported}":
        "{file} の dtype は {dtype} です。対応しているのは {supported} です",
    "{file} is incomplete: it has no {key}":
        "{file} は不完全です: {key} がありません",
    "{file} has {value} for {key}, but a number is needed":
        "{file} の {key} は {value} ですが、数が必要です",
    "the certificate has another sha256 for {files} in {folder}; use the certified files":
        "{folder} の {files} の sha256 が証明書と違います。証明書を作ったときのファイルを使ってください",
    # tokenize
    "--ids needs --explain":
        "--ids には --explain が必要です",
    "--explain takes one --model, and there are {number}":
        "--explain の --model は 1 つですが、{number} 個あります",
    "--explain shows BOS and special tokens as they are: leave out --no-bos and --parse-special":
        "--explain は BOS と特殊トークンをそのまま表示します。--no-bos と --parse-special を外してください",
    # evaluate
    "there is nothing to evaluate on; name a file with --text, --tasks or --published":
        "評価に使うものがありません。--text、--tasks、--published のどれかでファイルを指定してください",
    "--{flag} has no effect with --{mode}":
        "--{flag} は --{mode} では効果がありません",
    "--tasks needs --out FILE.csv for the answers":
        "--tasks には、答えを書く --out FILE.csv が必要です",
    "--seed has no effect: generation_config.json of this checkpoint does not sample":
        "--seed は効果がありません: このチェックポイントの generation_config.json はサンプリングしません",
    "the tasks have a column {column} already; they are answers, which --published compares":
        "課題に既に列 {column} があります。これは答えなので、--published で比べてください",
    "{file} has no answers of {column} to these tasks; choose another --out, or remove it":
        "{file} に、これらの課題への {column} の答えがありません。--out を変えるか、ファイルを消してください",
    "{file} has no answers: its last column is {column}, not a model's name":
        "{file} に答えがありません: 最後の列 {column} はモデルの名前ではありません",
    "{file}, task {number}: {error}":
        "{file} の課題 {number}: {error}",
    "task {number} has {tokens} tokens, but the context holds {context}; shorten it":
        "課題 {number} は {tokens} トークンですが、コンテキストに入るのは {context} トークンです。課題を短くしてください",
    '{file}, task {number} is not a row with a text in the column "input" and a value in each other one':
        '{file} の課題 {number} は、列 "input" に文章を、ほかの各列に値を持つ行ではありません',
    '{file}, line {number} is no object with a text in "input"':
        '{file} の {number} 行目は、"input" に文章を持つオブジェクトではありません',
    "{file} holds no tasks":
        "{file} に課題がありません",
    "it is no UTF-8 text: byte {position} is 0x{byte}":
        "UTF-8 ではありません: {position} バイト目が 0x{byte} です",
    "{file} is not UTF-8: byte {position} is 0x{byte}":
        "{file} は UTF-8 ではありません: {position} バイト目が 0x{byte} です",
    "there is no file {name}; the texts of the package are {texts}":
        "ファイル {name} はありません。パッケージの文章は {texts} です",
    "{file} has {tokens} tokens to predict; at least {least} are needed, so use a longer text":
        "{file} の予測するトークンは {tokens} 個ですが、少なくとも {least} 個必要です。もっと長い文章を使ってください",
    "the tokenizer gives id {id}, but the model has {rows} ids; use the tokenizer of this model":
        "トークナイザーが id {id} を返しましたが、モデルの id は {rows} 個です。このモデルのトークナイザーを使ってください",
    "the text is empty, so there is nothing to measure":
        "文章が空なので、測るものがありません",
    "the text has no token to score: a token needs one before it; use a longer text":
        "文章に採点できるトークンがありません。トークンには前のトークンが必要です。もっと長い文章を使ってください",
    "the model has {ours} ids and the reference {theirs}, so there is no KL divergence; measure each with its own tokenizer, and compare bits per byte or per character":
        "モデルの id は {ours} 個、参照モデルは {theirs} 個なので、KL ダイバージェンスは求められません。それぞれのトークナイザーで測り、1 バイトまたは 1 文字あたりのビット数を比べてください",
    "the text has several documents; --convention documents measures each for itself":
        "文章に複数の文書があります。--convention documents なら文書ごとに測れます",
    "--type is of GGUF files, and {folder} is a folder; name it {file}, or use --dtype":
        "--type は GGUF ファイル用ですが、{folder} はフォルダーです。{file} とするか、--dtype を使ってください",
    "{file} is an ending without a name; name the file, such as model.gguf":
        "{file} は拡張子だけで、名前がありません。model.gguf のようなファイル名を指定してください",
    "{target} names a file, but a folder is written; name it {folder}{hint}":
        "{target} はファイルの名前ですが、書き出すのはフォルダーです。{folder} のような名前にしてください{hint}",
    "; llama-jp convert MODEL {file} --type q8_0 writes a GGUF file":
        "。GGUF ファイルは llama-jp convert MODEL {file} --type q8_0 で書けます",
    "; afterwards, llama-jp convert OUT {file} writes a GGUF file":
        "。学習の後、GGUF ファイルは llama-jp convert OUT {file} で書けます",
    "--{flag} is of folders, and {file} is a GGUF file; {way_out}":
        "--{flag} はフォルダー用ですが、{file} は GGUF ファイルです。{way_out}",
    "use --type":
        "--type を使ってください",
    "drop it":
        "外してください",
    "llama.cpp runs no changed model":
        "llama.cpp は変更したモデルを実行できません",
    "{repository} on the hub holds GGUF files: name one of them, {owner}/{file}{hint}":
        "ハブの {repository} にあるのは GGUF ファイルです。{owner}/{file} のように 1 つを指定してください{hint}",
    "; the others are {files}":
        "。ほかに {files}",
    "{number} models make a table of what each loses; name their original with --against":
        "{number} 個のモデルでは、それぞれが失ったものを表にします。--against で元のモデルを指定してください",
    "--{flag} belongs to one model, and {number} are named":
        "--{flag} は 1 つのモデルのためのものですが、{number} 個指定されています",
    "--{flag} takes one model, and {number} are named":
        "--{flag} のモデルは 1 つですが、{number} 個指定されています",
    "the loss is not finite: the model's logits hold NaN or infinity; load it with another dtype, and if that does not help, the weights hold NaN or infinity":
        "損失が有限ではありません: モデルのロジットに NaN か無限大があります。別の dtype で読み込み、それでも直らなければ、重みに NaN か無限大があります",
    "{source} is no version of {original}: id {id} is {theirs} in its tokenizer and {ours} in the original's; measure it alone, and compare bits per character":
        "{source} は {original} の別版ではありません: id {id} が {theirs} で、元のモデルでは {ours} です。単独で測り、1 文字あたりのビット数を比べてください",
    "the model has no folder with a tokenizer; pass tokenizer=…":
        "モデルにトークナイザーのあるフォルダーがありません。tokenizer=… を渡してください",
    "there is no {noun} {index}; the model has {nouns}s 0 to {last}":
        "{noun} {index} はありません。モデルの{nouns}は 0 から {last} までです",
    "there are no {noun}s to show; name at least one of 0 to {last}":
        "見せる{noun}がありません。0 から {last} までの少なくとも 1 つを指定してください",
    "layer":
        "層",
    "head":
        "ヘッド",
    "{tokens} tokens have {weights} attention weights in {layers} layers of {heads} heads, and a page holds {most}; {fewer}take fewer tokens":
        "{tokens} トークンのアテンションの重みは、{heads} ヘッドの {layers} 層で {weights} 個ですが、1 ページに入るのは {most} 個です。{fewer}トークンを減らしてください",
    "show at most {heads} heads (layers and heads, --layers and --heads), or ":
        "--layers と --heads で合わせて {heads} ヘッド以下にするか、",
    "there is no folder {folder} for {file}; create it first":
        "{file} を書くフォルダー {folder} がありません。先に作ってください",
    "{path} is a folder; name a text file":
        "{path} はフォルダーです。文章のファイルを指定してください",
    "{path} is a folder; name a file, such as {file}":
        "{path} はフォルダーです。{file} のようなファイルを指定してください",
    "{folder} is not writable, so {file} cannot be written there; choose another place":
        "{folder} に書き込めないので {file} を書けません。別の場所を選んでください",
    "the draft model shares modules with the model, so one trace would record both; load it again":
        "ドラフトモデルがモデルとモジュールを共有しているので、記録が混ざります。別に読み込んでください",
    "the trace points of this model's attention do not show which draft tokens were rejected; leave speculation out":
        "このモデルのアテンションの記録では、棄却されたドラフトトークンがわかりません。投機的デコードを外してください",
    "the page shows one answer that grows at its end; leave out beams and several answers":
        "ページが見せるのは末尾に伸びる 1 つの答えです。ビームと複数の答えを外してください",
    "guidance_scale runs the model twice for each token, and the page shows one run; leave it out":
        "guidance_scale はトークンごとにモデルを 2 回呼びますが、ページが見せるのは 1 回です。外してください",
    "past_context='shift' moves tokens to new positions, which the page cannot show; leave it out":
        "past_context='shift' はトークンの位置を変えるので、ページに表せません。外してください",
}
