"""The Japanese of the errors of `generation` and `cache`. See the package."""

# ruff: noqa: E501
# fmt: off
MESSAGES = {
    # options of generation
    "--greedy does not sample, so it cannot be combined with {flags}":
        "--greedy はサンプリングしないので、{flags} とは組み合わせられません",
    "{least} is {smallest}, but {most} is {largest}; make {least_again} smaller or {most_again} larger":
        "{least} は {smallest} ですが {most} は {largest} です。{least_again} を小さくするか、{most_again} を大きくしてください",
    "{name} has to be {range}, not {value}{hint}":
        "{name} は{range}でなければなりません。{value} は使えません{hint}",
    "; for greedy decoding use do_sample=False (--greedy)":
        "。貪欲法には do_sample=False（--greedy）を使います",
    "a number":
        "数",
    "a whole number":
        "整数",
    "a number {limits}":
        "{limits}数",
    "a whole number {limits}":
        "{limits}整数",
    "above {limit}":
        " {limit} より大きい",
    "of at least {limit}":
        " {limit} 以上の",
    "above {limit} and of at most {most}":
        " {limit} より大きく {most} 以下の",
    "of at least {limit} and of at most {most}":
        " {limit} 以上 {most} 以下の",
    "below {below} and of at least {limit}":
        " {limit} 以上 {below} 未満の",
    "{name} has {values}, but ids are {numbers}":
        "{name} に {values} がありますが、id は {numbers}です",
    "whole numbers from 0 on":
        "0 以上の整数",
    "whole numbers from 0 to {last}":
        "0 から {last} までの整数",
    "{name} forces {ids}, but suppress_tokens forbids it; remove one of the two":
        "{name} は {ids} を強制しますが、suppress_tokens はそれを禁止しています。どちらかを外してください",
    "exponential_decay_length_penalty is (tokens, factor), as in (20, 1.1), not {value}":
        "exponential_decay_length_penalty は (20, 1.1) のような（トークン数, 倍率）です。{value} は使えません",
    "exponential_decay_length_penalty makes EOS more probable, but there is no eos_token_id; set one":
        "exponential_decay_length_penalty は EOS の確率を上げますが、eos_token_id がありません。設定してください",
    "greedy decoding has one answer, so num_return_sequences cannot be {number}; sample, or use beams":
        "貪欲法の答えは 1 つなので、num_return_sequences を {number} にはできません。サンプリングするか、ビームを使ってください",
    "num_return_sequences is {number}, but there are only {beams} beams to return":
        "num_return_sequences は {number} ですが、返せるビームは {beams} 個だけです",
    'early_stopping is True, False or "never", not {value}':
        'early_stopping は True、False、"never" のいずれかです。{value} は使えません',
    'past_context is "refuse" or "shift", not {value}':
        'past_context は "refuse" か "shift" です。{value} は使えません',
    "past_context='shift' cannot be combined with beam search":
        "past_context='shift' はビームサーチと組み合わせられません",
    "unknown generation option {names}; known are {known}":
        "生成のオプション {names} はありません。使えるのは {known} です",
    "generation_config.json sets {name} to {value}, which is not supported":
        "generation_config.json が {name} を {value} にしていますが、対応していません",
    "{names}: no effect without do_sample=True":
        "{names}: do_sample=True でなければ効果がありません",
    "{names}: no effect without {option}":
        "{names}: {option} がなければ効果がありません",
    "max_length: no effect together with max_new_tokens":
        "max_length: max_new_tokens があると効果がありません",
    "max_time is a number of seconds, not {value}":
        "max_time は秒数です。{value} は使えません",
    "a loop is at least 2 repetitions, not {times}, of at least one token":
        "繰り返しは 1 トークン以上の 2 回以上の反復です。{times} 回は使えません",
    "a stop string is empty":
        "停止文字列が空です",
    "stop_strings are matched on text and need the tokenizer: pass tokenizer=…":
        "stop_strings は文字列と照合するのでトークナイザーが必要です: tokenizer=… を渡してください",
    "there is nothing to sample from: {error}":
        "サンプリングできるトークンがありません: {error}",
    "{tokens} tokens for each answer: tried to allocate {nbytes} bytes":
        "答えごとに {tokens} トークン: {nbytes} バイトを確保できません",
    "the model's logits are not finite after {tokens} tokens in {dtype}; float16 overflows where bfloat16 and float32 do not, so load with another dtype; if that does not help, the weights hold NaN or infinity":
        "{dtype} で {tokens} トークンの後、モデルのロジットが有限ではなくなりました。float16 は bfloat16 や float32 では収まる値でもオーバーフローするので、別の dtype で読み込んでください。それでも直らなければ、重みに NaN か無限大があります",
    "rope_type {type} needs more than a factor; choose linear, dynamic or yarn":
        "rope_type {type} には倍率のほかにも値が必要です。linear、dynamic、yarn から選んでください",
    "a factor of {factor} does not extend the context; choose one of at least 1":
        "倍率 {factor} ではコンテキストが延びません。1 以上にしてください",
    "the model has a rope of its own, which rope_scaling would replace":
        "モデルは自分の rope を持っており、rope_scaling はそれを置き換えてしまいます",
    "the checkpoint has its own rope_scaling: {value}":
        "チェックポイントに rope_scaling があります: {value}",
    # speculation, kernels
    "--num-assistant-tokens needs --assistant-model":
        "--num-assistant-tokens には --assistant-model が必要です",
    "--assistant-model and --prompt-lookup-num-tokens both draft; remove one of them":
        "--assistant-model と --prompt-lookup-num-tokens はどちらもドラフトトークンを作ります。片方を外してください",
    "the draft model {draft} has another tokenizer than {model}: id {id} is {theirs} there and {ours} here; take a draft model with the same tokenizer":
        "ドラフトモデル {draft} のトークナイザーが {model} のものと違います: id {id} が {theirs} と {ours} です。同じトークナイザーのドラフトモデルを使ってください",
    "the draft model's vocabulary has {theirs} tokens, the model's {ours}; use a draft model with the same tokenizer":
        "ドラフトモデルの語彙は {theirs} トークン、モデルの語彙は {ours} トークンです。同じトークナイザーのドラフトモデルを使ってください",
    "prompt_lookup_num_tokens and a draft model both propose tokens; choose one of them":
        "prompt_lookup_num_tokens とドラフトモデルはどちらもドラフトトークンを作ります。片方だけにしてください",
    "speculation works on one answer at a time, not on {number}":
        "投機的デコードは一度に 1 つの答えだけです。{number} 個は使えません",
    "past_context='shift' cannot be combined with speculation":
        "past_context='shift' は投機的デコードと組み合わせられません",
    "guidance_scale cannot be combined with speculation":
        "guidance_scale は投機的デコードと組み合わせられません",
    "--compile changes the rounding, which --optimize exact excludes; leave out one of them":
        "--compile は丸めを変えますが、--optimize exact はそれを認めません。どちらか一方を外してください",
    "compiling the decoding step (batch size {rows}, {positions} positions)":
        "デコードステップをコンパイルしています（バッチサイズ {rows}、{positions} 位置）",
    "the decoding step cannot be compiled on this machine: {reason}; install a C++ compiler such as g++, or use the model without compilation":
        "このマシンではデコードステップをコンパイルできません: {reason}。g++ などの C++ コンパイラーを入れるか、コンパイルせずにモデルを使ってください",
    "--optimize int8 needs int8 weights, but this model has {weights}; write them with `llama-jp quantize MODEL OUT --bits 8`, or use --optimize close":
        "--optimize int8 には int8 の重みが必要ですが、このモデルのものは違います（{weights}）。`llama-jp quantize MODEL OUT --bits 8` で作るか、--optimize close を使ってください",
    "float weights":
        "浮動小数点数の重み",
    "only {scheme}":
        "{scheme} だけ",
    "{flag} works in a single process; leave it out under torchrun":
        "{flag} は単独のプロセスでだけ使えます。torchrun では外してください",
    # the KV cache in a file
    "{file} is damaged or not a saved cache: {error}":
        "{file} は壊れているか、保存したキャッシュではありません: {error}",
    "{file} was written by another model of the same shape; choose another file":
        "{file} は同じ形の別のモデルが書いたものです。別のファイルにしてください",
    "{file} does not name the model that wrote it; remove it, and write it again":
        "{file} に、書いたモデルの記録がありません。消して書き直してください",
    # filters
    "sequence_bias or bad_words_ids names {ids}, but the vocabulary has {tokens} tokens":
        "sequence_bias か bad_words_ids に {ids} がありますが、語彙は {tokens} トークンです",
    "sequence_bias is empty":
        "sequence_bias が空です",
    "sequence_bias pairs ids with a float, as in {(10, 45): -2.0}, not {pair}":
        "sequence_bias は {(10, 45): -2.0} のように id の並びと数の組です。{pair} は使えません",
    "bad_words_ids is empty":
        "bad_words_ids が空です",
    "bad_words_ids is a list of lists of ids, and {word} is not a list of ids":
        "bad_words_ids は id のリストのリストですが、{word} は id のリストではありません",
    "prefix_allowed_tokens_fn allows no token for prompt {number}":
        "プロンプト {number} に対して、prefix_allowed_tokens_fn が許すトークンがありません",
    # many prompts
    "{limits} limits for {prompts} prompts; give one for each prompt":
        "プロンプト {prompts} 個に対して上限が {limits} 個です。プロンプトごとに 1 つにしてください",
    "{options} options for {prompts} prompts; give one object for all, or one for each":
        "プロンプト {prompts} 個に対してオプションが {options} 個です。全体で 1 つか、プロンプトごとに 1 つにしてください",
    "{rows} rows round differently from one row in this model, so a near tie may be decided differently than for the prompt alone; batch=1 keeps the bits, exact=False hides this warning":
        "このモデルでは {rows} 行と 1 行とで丸めが違うので、確率がほぼ等しいトークンの選び方が、プロンプト 1 つのときと変わることがあります。batch=1 ならビット単位で一致し、exact=False ならこの警告は出ません",
    "{seeds} seeds for {prompts} prompts; give one for each prompt, or a single number":
        "プロンプト {prompts} 個に対してシードが {seeds} 個です。プロンプトごとに 1 つか、全体で 1 つの数にしてください",
    "many prompts are answered without beam search; set num_beams=1, or use generate()":
        "多数のプロンプトにはビームサーチを使えません。num_beams=1 にするか、generate() を使ってください",
    "many prompts have one answer each; repeat a prompt for several, or use generate()":
        "多数のプロンプトへの答えは 1 つずつです。プロンプトを繰り返すか、generate() を使ってください",
    "speculation works on one answer at a time; leave out prompt_lookup_num_tokens":
        "投機的デコードは一度に 1 つの答えだけです。prompt_lookup_num_tokens を外してください",
    "many prompts need attention row by row, and {name} has a forward of its own; use generate()":
        "多数のプロンプトには行ごとのアテンションが必要ですが、{name} は自分の forward を持っています。generate() を使ってください",
    # streams
    "speculation works with greedy decoding and sampling, not with beam search":
        "投機的デコードは貪欲法とサンプリングで使えますが、ビームサーチでは使えません",
    "a stream has one answer that grows at its end; use generate() for beams or several answers":
        "逐次表示できるのは、末尾に伸びる 1 つの答えです。ビームや複数の答えには generate() を使ってください",
    "beams can change all of an answer until its end, so they cannot stream; use generate()":
        "ビームは最後まで答え全体を変えることがあるので、逐次表示できません。generate() を使ってください",
    # the KV cache
    "a cache needs a {name} of at least 1, not {value}":
        "キャッシュの {name} は 1 以上でなければなりません。{value} は使えません",
    "the cache was made for batch_size={size}, but the ids have {rows} rows":
        "キャッシュは batch_size={size} で作ったものですが、id は {rows} 行です",
    "the cache holds {positions} positions, {used} are used and {more} more are needed; make it with a larger max_length":
        "キャッシュに入る位置は {positions} で、{used} が使用済みですが、あと {more} 必要です。max_length を大きくして作ってください",
    "cannot crop a cache of {tokens} tokens to {length}":
        "{tokens} トークンのキャッシュを {length} トークンに切り詰めることはできません",
    "{file} holds {tensors} tensors, but this cache has {ours}":
        "{file} のテンソルは {tensors} 個ですが、このキャッシュは {ours} 個です",
    "{file} holds {dtype} {shape} in {name}, which does not fit a cache of {our_dtype} {our_shape}":
        "{file} の {name} は {dtype} {shape} で、{our_dtype} {our_shape} のキャッシュに合いません",
    "{file} holds {tokens} tokens, but this cache holds at most {most}":
        "{file} は {tokens} トークンですが、このキャッシュに入るのは {most} トークンまでです",
}
