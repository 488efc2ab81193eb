"""The Japanese of the help. See the package."""

# ruff: noqa: E501
# fmt: off
HELP = {
    # argparse
    "usage: ":
        "使い方: ",
    "positional arguments":
        "位置引数",
    "options":
        "オプション",
    "show this help message and exit":
        "このヘルプを表示して終了する",
    "show program's version number and exit":
        "バージョンを表示して終了する",
    # every command
    "example:\n  {command}":
        "例:\n  {command}",
    "Llama 2 from scratch in plain PyTorch, for ELYZA's Japanese models.":
        "ELYZA の日本語モデルのための、素の PyTorch でゼロから書いた Llama 2。",
    "llama-jp COMMAND --help shows the options of a command and an example that works as typed.":
        "llama-jp COMMAND --help で、そのコマンドのオプションと、そのまま実行できる例を表示します。",
    'print a script for tab completion; bash: eval "$(llama-jp --print-completion bash)"':
        'タブ補完のスクリプトを出力する。bash では eval "$(llama-jp --print-completion bash)"',
    "language of the help and the errors, before or after COMMAND (default: LLAMA_JP_LANG, else the locale's)":
        "ヘルプとエラーの言語。COMMAND の前にも後にも書ける（既定値: LLAMA_JP_LANG、なければロケールの言語）",
    "answer an instruction or continue a text, streamed token by token":
        "指示に答える、または文章の続きを書く。1 トークンずつ表示する",
    "chat with an instruction-tuned model":
        "指示に従うよう学習したモデルとチャットする",
    "show a checkpoint's sizes, files, memory and tokenizer, without loading the weights":
        "チェックポイントの寸法、ファイル、メモリ、トークナイザーを、重みを読み込まずに表示する",
    "show the tokens of a text: pieces, ids, bytes, characters per token":
        "文章のトークンを表示する: ピース、id、バイト、1 トークンあたりの文字数",
    "write int8 or int4 weights with a certificate of the numerical deviation, or verify a certificate":
        "int8 または int4 の重みを数値誤差の証明書とともに書き出す、または証明書を検証する",
    "measure perplexity and bits per byte on a text, the distance from a reference, or answer tasks":
        "文章のパープレキシティと 1 バイトあたりのビット数、参照モデルとの差を測る、または課題に答える",
    "train a model, or a LoRA adapter for it, on a JSONL file":
        "JSONL ファイルでモデルまたはその LoRA アダプターを学習する",
    "compare a model with transformers or another: equal, or the first difference and whether it is a bug":
        "モデルを transformers や別のモデルと比べる: 一致、または最初の違いと、それがバグかどうか",
    "measure loading, prefill and decoding, beside the machine's bandwidth and arithmetic":
        "読み込み、プリフィル、デコードの速さを、マシンの帯域と演算性能に並べて測る",
    # model
    "model":
        "モデル",
    "folder, GGUF file, hub repository (owner/name), one of demo, {names}, or module:function, which returns a model":
        "フォルダー、GGUF ファイル、ハブのリポジトリ（owner/name）、短い名前（demo, {names}）、またはモデルを返す module:function",
    "{model} (default: demo)":
        "{model}（既定値: demo）",
    "{model}; repeat it to compare several (default: demo)":
        "{model}。繰り返すと複数を比べる（既定値: demo）",
    "the same (default: demo)":
        "同上（既定値: demo）",
    "branch, tag or commit of a hub repository, such as refs/pr/2 (default: main)":
        "ハブのリポジトリのブランチ、タグ、またはコミット。例: refs/pr/2（既定値: main）",
    "PEFT (LoRA) adapter to merge into the weights at loading":
        "読み込み時に重みへマージする PEFT（LoRA）アダプター",
    "take the tokenizer of this folder or repository (default: the model's own)":
        "このフォルダーまたはリポジトリのトークナイザーを使う（既定値: モデル自身のもの）",
    "import the functions and the class that the checkpoint of a changed model names, and run their code":
        "変更したモデルのチェックポイントに記された関数とクラスをインポートし、そのコードを実行する",
    "the source, in place of {source}":
        "変換元。{source} の代わり",
    # computation
    "computation":
        "計算",
    "dtype of weights and computation; stored: as in the files; auto: as stored on a GPU, and on a CPU bfloat16 if the CPU multiplies it natively, else float32 (default: auto)":
        "重みと計算の dtype。stored: ファイルのまま。auto: GPU ではファイルのまま、CPU では CPU が bfloat16 の積を直接計算できれば bfloat16、できなければ float32（既定値: auto）",
    "auto, cpu, cuda, cuda:1, …; auto: a CUDA GPU if there is one, else the CPU (default: auto)":
        "auto、cpu、cuda、cuda:1 など。auto: CUDA の GPU があれば GPU、なければ CPU（既定値: auto）",
    "sdpa: PyTorch's fused attention; eager: attention written out (default: sdpa)":
        "sdpa: PyTorch の融合されたアテンション。eager: 式のとおりに書いたアテンション（既定値: sdpa）",
    "number of CPU threads (default: PyTorch's)":
        "CPU のスレッド数（既定値: PyTorch の値）",
    "measure and choose faster kernels for the CPU; exact: the logits stay bit-identical; close: rounding may differ; int8: activations of int8 weights are also rounded to int8; auto: exact if it saves more time in an answer than it takes (default: {default})":
        "CPU 用の速いカーネルを測定して選ぶ。exact: ロジットはビット単位で一致したまま。close: 丸めが変わることがある。int8: int8 の重みの入力も int8 に丸める。auto: かかる時間より、答えで短くなる時間が長ければ exact（既定値: {default}）",
    "compile the decoding step, which speeds up small models on the CPU and all models on a GPU; it takes from some seconds to minutes at the first start, and less at later ones; rounding may differ (as --optimize close)":
        "デコードステップをコンパイルする。CPU では小さいモデル、GPU ではすべてのモデルが速くなる。初回は数秒から数分、2 回目以降はそれより短くかかる。丸めが変わることがある（--optimize close と同じ程度）",
    "auto for over a billion parameters, else none":
        "10 億パラメーターを超えるモデルでは auto、ほかは none",
    # generate
    "many prompts":
        "多数のプロンプト",
    "Answers are appended to the output as they end; the same command continues an unfinished one.":
        "答えは、できたものから出力へ追記します。中断しても、同じコマンドで続きから再開します。",
    "instruction, or text to continue (default: standard input)":
        "指示、または続きを書かせる文章（既定値: 標準入力）",
    'answer every line of FILE: a JSON string, or an object with the key "prompt"; -: standard input':
        'FILE の各行に答える。行は JSON の文字列か、キー "prompt" を持つオブジェクト。- は標準入力',
    "with --prompts: write one JSON object per prompt to FILE":
        "--prompts の指定時: プロンプトごとに 1 つの JSON オブジェクトを FILE に書く",
    "with --prompts: prompts at a time (default: {number})":
        "--prompts の指定時: 一度に処理するプロンプトの数（既定値: {number}）",
    "continue the prompt as plain text, without a template":
        "テンプレートを使わず、プロンプトをそのまま文章として続きを書く",
    "apply the checkpoint's chat template, or ELYZA's if it has none (default for checkpoints that have one)":
        "チェックポイントのチャットテンプレートを使う。なければ ELYZA のもの（テンプレートのあるチェックポイントでは既定）",
    "system prompt (default: the template's own; ELYZA's is {text})":
        "システムプロンプト（既定値: テンプレート自身のもの。ELYZA のものは「{text}」）",
    "print one JSON object at the end, without streaming":
        "ストリーミングせず、最後に 1 つの JSON オブジェクトを出力する",
    "with --json: log probabilities of the N most probable tokens at each position":
        "--json の指定時: 各位置で確率の高い N トークンの対数確率",
    "save the KV cache in FILE; if FILE exists, reuse it for the beginning of the prompt":
        "KV キャッシュを FILE に保存する。FILE があれば、プロンプトの先頭に再利用する",
    # length and stopping
    "length and stopping":
        "長さと終わり",
    "The defaults of this group and of the next ones apply where the checkpoint's\ngeneration_config.json has no value.":
        "ここから先の既定値は、チェックポイントの generation_config.json に値がないときに使われます。",
    "generate at most N tokens (default: 256)":
        "最大 N トークンを生成する（既定値: 256）",
    "end the answer before TEXT; can be given several times":
        "TEXT の手前で答えを終える。複数回指定できる",
    "forbid the EOS token before N new tokens":
        "新しいトークンが N 個になるまで EOS トークンを禁止する",
    "limit prompt and answer together to N tokens; no effect with --max-new-tokens":
        "プロンプトと答えを合わせて N トークンまでにする。--max-new-tokens があれば無効",
    "forbid the EOS token before prompt and answer together have N tokens (default: 0)":
        "プロンプトと答えが合わせて N トークンになるまで EOS トークンを禁止する（既定値: 0）",
    "end the answer after S seconds (default: no limit)":
        "S 秒たったら答えを終える（既定値: 制限なし）",
    "end the answer when it repeats the same tokens again and again":
        "同じトークンを何度も繰り返し始めたら答えを終える",
    "ids of the EOS tokens, which end the answer, such as 2 or 2,13 (default: the checkpoint's)":
        "答えを終える EOS トークンの id。例: 2 または 2,13（既定値: チェックポイントの値）",
    # sampling
    "sampling":
        "サンプリング",
    "Every flag except --greedy implies --sample. Flags can be combined.":
        "--greedy 以外のどのオプションも --sample を伴います。組み合わせることもできます。",
    "always choose the most probable token (the default)":
        "常に確率最大のトークンを選ぶ（既定）",
    "sample each token from the model's distribution":
        "各トークンをモデルの分布からサンプリングする",
    "divide the logits by T; below 1: fewer surprises, above 1: more variety (default: 1)":
        "ロジットを T で割る。1 より小さいと意外な語が減り、1 より大きいと多様になる（既定値: 1）",
    "keep the most probable tokens that together reach the probability P (default: 1, all tokens)":
        "確率の和が P に達するまでの上位のトークンを残す（既定値: 1、すべて）",
    "keep the K most probable tokens; 0: all tokens (default: 50)":
        "確率の高い K トークンを残す。0: すべて（既定値: 50）",
    "seed of the random numbers; transformers samples the same tokens after torch.manual_seed(N) (default: a random seed, shown at the end)":
        "乱数のシード。torch.manual_seed(N) の後の transformers と同じトークンになる（既定値: ランダムなシード。最後に表示する）",
    "keep tokens with at least P times the probability of the most probable token (default: off)":
        "最大の確率の P 倍以上の確率を持つトークンを残す（既定値: なし）",
    "keep the tokens whose surprisal is closest to the entropy and that together reach the probability P (default: 1, all tokens)":
        "自己情報量がエントロピーに近い順に、確率の和が P に達するまでのトークンを残す（既定値: 1、すべて）",
    "keep tokens with a probability of at least P (default: 0, all tokens)":
        "確率が P 以上のトークンを残す（既定値: 0、すべて）",
    "like --epsilon-cutoff, with a lower threshold where the entropy is high (default: 0, all tokens)":
        "--epsilon-cutoff と同様。エントロピーが高いところではしきい値を下げる（既定値: 0、すべて）",
    "keep the most probable tokens that together hold at most the share H of the entropy (default: off)":
        "エントロピーに占める割合の和が H 以内の上位のトークンを残す（既定値: なし）",
    # repetition
    "repetition":
        "繰り返し",
    "above 1: make every token that has occurred less probable, however often it occurred (default: 1)":
        "1 より大きいと、既出のトークンの確率を、出現回数によらず下げる（既定値: 1）",
    "forbid N tokens in a row that have occurred in prompt or answer (default: 0, off)":
        "プロンプトまたは答えに現れた N トークンの並びを禁止する（既定値: 0、なし）",
    "forbid N tokens in a row that occur in the prompt (default: 0, off)":
        "プロンプトに現れる N トークンの並びを禁止する（既定値: 0、なし）",
    "above 1: make the tokens of the prompt more probable (default: 1)":
        "1 より大きいと、プロンプトにあるトークンの確率を上げる（既定値: 1）",
    "subtract X from the logit of every token that has occurred (default: 0)":
        "既出のトークンのロジットから X を引く（既定値: 0）",
    "subtract X from a token's logit for each time it has occurred (default: 0)":
        "トークンのロジットから、出現 1 回ごとに X を引く（既定値: 0）",
    "repetition, presence and frequency penalty: count only the last N tokens (default: all)":
        "repetition・presence・frequency の各ペナルティで、最後の N トークンだけを数える（既定値: すべて）",
    "repetition, presence and frequency penalty: do not count the prompt":
        "repetition・presence・frequency の各ペナルティで、プロンプトを数えない",
    # forbidden and forced tokens
    "forbidden and forced tokens":
        "禁止・強制するトークン",
    "`llama-jp tokenize TEXT` shows the ids of a text.":
        "文章の id は `llama-jp tokenize TEXT` で表示できます。",
    "forbid sequences of ids, such as [[5], [7, 8]]":
        "id の並びを禁止する。例: [[5], [7, 8]]",
    "add a bias to the logit that completes a sequence of ids, such as [[[7, 8], -2.5]]":
        "id の並びを完成させるロジットに値を足す。例: [[[7, 8], -2.5]]",
    "forbid these tokens, such as 5,7":
        "これらのトークンを禁止する。例: 5,7",
    "forbid these tokens as the first new token":
        "これらのトークンを最初の新しいトークンとして禁止する",
    "force this first new token, if the prompt is a single token":
        "プロンプトが 1 トークンなら、最初の新しいトークンをこれにする",
    "force one of these tokens as the last one when the answer reaches its maximum length":
        "答えが最大の長さに達したら、最後のトークンをこれらのどれかにする",
    "raise the EOS logit exponentially; [20, 1.1]: after 20 new tokens, by the factor 1.1 per token":
        "EOS のロジットを指数的に上げる。[20, 1.1]: 新しい 20 トークンの後、1 トークンごとに 1.1 倍",
    # guidance, logits
    "classifier-free guidance":
        "ガイダンス（classifier-free guidance）",
    "above 1: follow the prompt more closely, at the cost of a second model call per token (default: no guidance)":
        "1 より大きいと、プロンプトにより忠実になる。トークンごとにモデルをもう一度呼ぶ（既定値: なし）",
    "with --guidance-scale: steer away from this prompt (default: the prompt's last token)":
        "--guidance-scale の指定時: このプロンプトから遠ざける（既定値: プロンプトの最後のトークン）",
    "logits":
        "ロジット",
    "replace NaN by 0, and infinite logits by the largest finite numbers":
        "NaN を 0 に、無限大のロジットを最大の有限の数に置き換える",
    "apply log-softmax after all other filters":
        "ほかのすべてのフィルターの後に log-softmax を適用する",
    # beams
    "beam search and several answers":
        "ビームサーチと複数の答え",
    "Answers are printed when all of them are complete, without streaming.":
        "すべての答えが完成してから、ストリーミングせずに表示します。",
    "beam search: continue the N most probable unfinished answers (default: 1, no beam search)":
        "ビームサーチ: 途中の答えのうち確率の高い N 個を続ける（既定値: 1、ビームサーチなし）",
    "return N answers, which are sampled or the best beams (default: 1)":
        "N 個の答えを返す。サンプリングした答え、または最良のビーム（既定値: 1）",
    "divide a beam's score by its length to the power of X; larger X: longer answers (default: 1)":
        "ビームのスコアを長さの X 乗で割る。X が大きいほど長い答えになる（既定値: 1）",
    "true: end the search at N complete answers; false: also require that no beam has a better score now; never: require that no beam can reach a better score at any length (default: false)":
        "true: N 個の答えが完成したら探索を終える。false: さらに、今の時点でスコアの高いビームが残っていないこと。never: どの長さでもスコアが上回るビームがありえないこと（既定値: false）",
    # speculation
    "speculative decoding":
        "投機的デコード",
    "Draft several tokens and check them in one model call. Greedy answers stay the\nsame except for near ties, and sampled answers keep their distribution.\nGeneration is faster where many draft tokens are accepted.":
        "複数のドラフトトークンを作り、モデルの 1 回の呼び出しで検査します。貪欲法の答えは、ほぼ同点の場合を除いて変わりません。サンプリングの分布も変わりません。ドラフトトークンが多く採用されるほど速くなります。",
    "draft up to N tokens per call, copied from an earlier place in prompt or answer; try 10 first":
        "1 回に最大 N 個のドラフトトークンを、プロンプトや答えの前の箇所から写す。まず 10 を試すとよい",
    "with --prompt-lookup-num-tokens: match up to N of the newest tokens to find that place (default: 2)":
        "--prompt-lookup-num-tokens の指定時: その箇所を、最新の最大 N トークンとの一致で探す（既定値: 2）",
    "draft with this smaller model, which has the same tokenizer; self: with an int8 copy of the model itself, or int4 if memory is short; self:int8, self:int4: with that copy; self:FOLDER: with its quantised folder":
        "同じトークナイザーを持つこの小さなモデルでドラフトトークンを作る。self: モデル自身を int8 に量子化したコピーで（メモリが足りなければ int4）。self:int8、self:int4: そのコピーで。self:FOLDER: モデルを量子化したフォルダーで",
    "with --assistant-model: draft up to N tokens per call (default: 4; 5 with self)":
        "--assistant-model の指定時: 1 回に最大 N 個のドラフトトークンを作る（既定値: 4。self では 5）",
    # context
    "context and memory":
        "コンテキストとメモリ",
    "extend the context by the factor X, with scaled rotary embeddings: linear:2, dynamic:2 or yarn:4":
        "RoPE を縮尺してコンテキストを X 倍に延ばす。linear:2、dynamic:2、yarn:4 など",
    "refuse: no answers that exceed the context; shift: remove old tokens when the context is full (default: refuse)":
        "refuse: コンテキストを超える答えを拒否する。shift: 一杯になったら古いトークンを外す（既定値: refuse）",
    "with --past-context shift: never remove the first N tokens (default: 4)":
        "--past-context shift の指定時: 最初の N トークンは外さない（既定値: 4）",
    "process the prompt N tokens at a time, which takes less memory (default: the whole prompt)":
        "プロンプトを N トークンずつ処理し、メモリを節約する（既定値: プロンプト全体を一度に）",
    "process the prompt once for all its answers, also where rounding may then differ from transformers'":
        "丸めが transformers と違いうる場合でも、プロンプトの処理をすべての答えに対して 1 回にする",
    # chat, info
    "do not keep the messages for the next session":
        "メッセージを次回のために保存しない",
    "print one JSON object":
        "1 つの JSON オブジェクトを出力する",
    # tokenize
    "the text (default: standard input)":
        "文章（既定値: 標準入力）",
    "a UTF-8 file with the text; only the summary is printed":
        "文章の入った UTF-8 のファイル。要約だけを表示する",
    "encode without BOS":
        "BOS を付けずに符号化する",
    "encode <s>, </s>, … in the text as special tokens":
        "文章の中の <s>、</s> などを特殊トークンとして符号化する",
    "show TEXT in the model's prompt as trained, and as other tools encode it":
        "TEXT を入れたモデルのプロンプトを、学習時の形と、ほかのツールの符号化とで表示する",
    "with --explain: name the mistakes in these ids, such as 1,518,25580; TEXT is their message, if known":
        "--explain の指定時: これらの id の誤りを示す。例: 1,518,25580。メッセージがわかれば TEXT に書く",
    "print one JSON object with all ids and pieces":
        "すべての id とピースを 1 つの JSON オブジェクトで出力する",
    # convert
    # evaluate
    "with --tasks and --published":
        "--tasks または --published の指定時",
    "Answers are made as ELYZA made its own: the checkpoint's chat template and generation_config.json, one\ntask at a time. The file is written after every answer; the same command continues an unfinished one.":
        "答えは ELYZA と同じ作り方です: チェックポイントのチャットテンプレートと generation_config.json を使い、課題を 1 つずつ。ファイルは答えが一つできるたびに書き、中断しても同じコマンドで続きから再開します。",
    "with --text":
        "--text の指定時",
    "Perplexities compare between models of one vocabulary and in one convention. Bits per byte and per\ncharacter compare between vocabularies as well.":
        "パープレキシティは、語彙と測り方が同じモデルどうしで比べられます。1 バイト・1 文字あたりのビット数は、語彙が違っても比べられます。",
    "measure on a UTF-8 text, a text of the package, or - (stdin)":
        "UTF-8 の文章、パッケージの文章、または -（標準入力）で測る",
    "answer ELYZA-tasks-100, or other tasks in its form: CSV or JSONL":
        "ELYZA-tasks-100、または同じ形式の課題（CSV、JSONL）に答える",
    "compare greedy decoding with the answers in the last column of FILE: the first different token of each":
        "貪欲法の答えを FILE の最後の列の答えと比べる: それぞれの最初の違うトークン",
    "with --tasks: write the tasks and a column with the answers":
        "--tasks の指定時: 課題と、答えの列を書き出す",
    "tokens of an answer at most (default: {number}, ELYZA's, or what the context holds)":
        "1 つの答えの最大トークン数（既定値: ELYZA と同じ {number}、またはコンテキストに入る数）",
    "with --tasks: tasks at a time (default: 1)":
        "--tasks の指定時: 一度に処理する課題の数（既定値: 1）",
    "with --tasks: seed of the first task of a checkpoint that samples; the next task has N + 1 (default: 0)":
        "--tasks の指定時: サンプリングするチェックポイントの最初の課題のシード。次の課題は N + 1（既定値: 0）",
    "transformers: overlapping windows, as on its documentation's page; lm-eval: loglikelihood_rolling; llama.cpp: llama-perplexity; documents: lines of four hyphens separate documents, and requests in [INST] are not scored (default: transformers)":
        "transformers: その文書のページにある、重なり合う窓。lm-eval: loglikelihood_rolling。llama.cpp: llama-perplexity。documents: ハイフン 4 つの行で文書を区切り、[INST] の中の依頼は採点しない（既定値: transformers）",
    "tokens that the model sees at most (default: the model's context; llama.cpp, documents: 512)":
        "モデルに一度に見せる最大のトークン数（既定値: モデルのコンテキスト。llama.cpp と documents では 512）",
    "tokens from one window to the next, for the convention transformers (default: half the window)":
        "測り方 transformers で、窓から次の窓までのトークン数（既定値: 窓の半分）",
    "print one JSON object (--text, --published)":
        "1 つの JSON オブジェクトを出力する（--text、--published）",
    # quantize
    "quantising":
        "量子化",
    "certificate":
        "証明書",
    "bits per weight (default: 8)":
        "重み 1 つあたりのビット数（既定値: 8）",
    "int4: inputs that share a scale, {sizes} (default: 128)":
        "int4: スケールを共有する入力の数。{sizes}（既定値: 128）",
    "rtn: round to nearest; gptq: calibrated int4 (default: rtn)":
        "rtn: 最近接丸め。gptq: キャリブレーションする int4（既定値: rtn）",
    "bits of lm_head (default: 8, also for int4)":
        "lm_head のビット数（既定値: 8。int4 でも同じ）",
    "calibration text for gptq (default: {file})":
        "gptq のキャリブレーション用の文章（既定値: {file}）",
    "measure FOLDER again; exit status 0: as certified, 1: not":
        "FOLDER を測り直す。終了ステータスは、証明書のとおりなら 0、違えば 1",
    "the original, if the certificate does not name its source":
        "証明書に元のモデルが書かれていないときの、元のモデル",
    "text to measure on (default: {file}, or the text of the certificate)":
        "測定に使う文章（既定値: {file}、または証明書の文章）",
    "print the certificate, or the verdict, as JSON":
        "証明書または判定を JSON で出力する",
    "largest file of a folder, such as 5GB or 500MB (default: 5GB)":
        "フォルダーの 1 ファイルの最大の大きさ。例: 5GB、500MB（既定値: 5GB）",
    "type of a GGUF file, with DST such as out.gguf (default: as stored)":
        "GGUF ファイルの型。DST が out.gguf のような名前のとき（既定値: 元のまま）",
    "{what} to write; it must be new or empty":
        "書き出す{what}。新しいか空であること",
    "folder or GGUF file (NAME.gguf)":
        "フォルダーまたは GGUF ファイル（NAME.gguf）",
    "folder":
        "フォルダー",
    "dtype of a folder (default: stored)":
        "フォルダーの dtype（既定値: stored）",
    "convert a checkpoint to safetensors or to a GGUF file, in the same or another dtype":
        "チェックポイントを safetensors または GGUF ファイルに変換する。dtype も変えられる",
    "measure the reference B as well, and the KL divergence from it, the share of equal most probable tokens (top 1) and the first different one; may be given several times. With several models: their original, and a table of what each loses":
        "参照モデル B も測り、そこからの KL ダイバージェンス、確率最大のトークンが一致する割合（top 1）、最初に違うトークンを求める。複数回指定できる。モデルが複数なら、その元のモデルを指定し、それぞれが失ったものを表にする",
    "show these heads (default: all)":
        "これらのヘッドを見せる（既定値: すべて）",
    "show the attention and the values of these layers (default: all)":
        "これらの層のアテンションと値を見せる（既定値: すべて）",
    "the page to write; it shows {number} new tokens unless --max-new-tokens says otherwise":
        "書き出すページ。--max-new-tokens がなければ新しい {number} トークンを見せる",
    "write one HTML page that shows a prompt's way through the model":
        "プロンプトがモデルを通る様子を 1 つの HTML ページに書き出す",
    "also show the tokens of this tokenizer; can be given several times; {model}":
        "このトークナイザーのトークンも見せる。複数回指定できる。{model}",
    "system prompt (default: the template's own)":
        "システムプロンプト（既定値: テンプレート自身のもの）",
    # finetune
    'A line of DATA is a JSON object with one of these forms:\n  {"instruction": "…", "output": "…"}           also with "input" and "system"\n  {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]}\n  {"text": "…"}\nThe same command continues a run that was interrupted or killed, to the same bits.':
        'DATA の 1 行は、次のどれかの形の JSON オブジェクトです。\n  {"instruction": "…", "output": "…"}           "input" と "system" も書ける\n  {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …]}\n  {"text": "…"}\n中断や強制終了の後も、同じコマンドで続きから再開でき、結果はビット単位で一致します。',
    "examples, one per line":
        "学習例。1 行に 1 つ",
    "folder for the checkpoint, or for the adapter":
        "チェックポイントまたはアダプターを書き出すフォルダー",
    "training":
        "学習",
    "train a LoRA adapter of rank R (default: train all weights)":
        "ランク R の LoRA アダプターを学習する（既定値: すべての重みを学習する）",
    "number of steps of the optimizer":
        "オプティマイザーのステップ数",
    "number of times that each example is used (default: 3)":
        "各学習例を使う回数（既定値: 3）",
    "peak learning rate (default: 2e-5; with --lora 2e-4)":
        "学習率の最大値（既定値: 2e-5。--lora では 2e-4）",
    "steps in which the learning rate rises (default: 3%% of them)":
        "学習率を上げていくステップ数（既定値: 全ステップの 3%%）",
    "rows in one call of the model (default: 4)":
        "モデルの 1 回の呼び出しの行数（既定値: 4）",
    "calls in a step (default: 1)":
        "1 ステップの呼び出し回数（既定値: 1）",
    "tokens in a row (default: 1024, or the context if shorter)":
        "1 行のトークン数（既定値: 1024。コンテキストの方が短ければその長さ）",
    "of AdamW (default: 0)":
        "AdamW の重み減衰（既定値: 0）",
    "largest norm of the gradients (default: 1)":
        "勾配のノルムの上限（既定値: 1）",
    "of data and adapter (default: 0)":
        "データとアダプターのシード（既定値: 0）",
    "examples for the held-out loss":
        "検証損失を測るための例",
    "examples of DATA to hold out (default: a twentieth)":
        "検証用に取り分ける DATA の学習例の数（既定値: 20 分の 1）",
    "steps between two states (default: 100)":
        "途中の状態を保存する間隔のステップ数（既定値: 100）",
    "autocast: float32 weights, bfloat16 products; bfloat16: everything; auto: autocast, or bfloat16 with --lora, if the device multiplies bfloat16 natively, else float32 (default: auto)":
        "autocast: 重みは float32、積は bfloat16。bfloat16: すべて bfloat16。auto: デバイスが bfloat16 の積を直接計算できれば autocast（--lora では bfloat16）、できなければ float32（既定値: auto）",
    "keep fewer activations: less memory, more time, same bits":
        "保持する活性値を減らす。メモリは減り、時間は延び、結果はビット単位で一致する",
    "auto, cpu, cuda, cuda:1, … (default: auto)":
        "auto、cpu、cuda、cuda:1 など（既定値: auto）",
    "fused or written out (default: sdpa)":
        "sdpa は融合、eager は式のとおり（既定値: sdpa）",
    # bench
    "random weights of this shape in place of a checkpoint":
        "チェックポイントの代わりに、この形の乱数の重みを使う",
    "with --random: the number of layers":
        "--random の指定時: 層の数",
    "of weights and activations (default: auto)":
        "重みと活性値の dtype（既定値: auto）",
    "auto, cpu, cuda, … (default: auto)":
        "auto、cpu、cuda など（既定値: auto）",
    "default: sdpa":
        "アテンション関数（既定値: sdpa）",
    "CPU threads (default: torch's choice)":
        "CPU のスレッド数（既定値: PyTorch の値）",
    "lengths of prompts, in tokens (default: 128,512,2048)":
        "プロンプトの長さ。単位はトークン（既定値: 128,512,2048）",
    "batch sizes (default: 1,8,32)":
        "バッチサイズ（既定値: 1,8,32）",
    "decoding steps per run (default: 16)":
        "1 回の測定のデコードステップ数（既定値: 16）",
    "runs per median (default: 3)":
        "中央値を取る測定の回数（既定値: 3）",
    "measure again after optimising for the first batch size; exact: the logits stay bit-identical; close: rounding may differ; int8: activations of int8 weights are also rounded to int8":
        "最初のバッチサイズ向けに最適化し、もう一度測る。exact: ロジットはビット単位で一致したまま。close: 丸めが変わることがある。int8: int8 の重みの入力も int8 に丸める",
    "remove the kernel choices and compiled programs that --optimize keeps in the user's cache folder, and measure nothing":
        "--optimize がユーザーのキャッシュフォルダーに保存したカーネルの選択とコンパイル済みプログラムを消し、測定はしない",
    "print one JSON object; the tables go to standard error":
        "1 つの JSON オブジェクトを出力する。表は標準エラー出力に出す",
    # parity
    "models":
        "モデル",
    "folder, hub repository, short name, transformers, transformers-cast, llama.cpp:FILE.gguf, checkout:FOLDER or package.module:function":
        "フォルダー、ハブのリポジトリ、短い名前、transformers、transformers-cast、llama.cpp:FILE.gguf、checkout:FOLDER、package.module:function のいずれか",
    "the same; B is the reference (default: {default})":
        "同上。B は参照実装（既定値: {default}）",
    "the checkpoint for transformers and functions, if A and B name none":
        "A にも B にもチェックポイントがないとき、transformers と関数に渡すチェックポイント",
    "random weights of this shape, in place of A's checkpoint":
        "A のチェックポイントの代わりに、この形の乱数の重みを使う",
    "number of layers of the random model":
        "乱数のモデルの層の数",
    "dtype of {model}":
        "{model}の dtype",
    "attention function of {model}":
        "{model}のアテンション関数",
    "CPU threads of {model}":
        "{model}の CPU スレッド数",
    "rows per forward pass of {model}":
        "{model}の 1 回の順伝播の行数",
    "dtype of llama.cpp's KV cache in {model}":
        "{model}の llama.cpp の KV キャッシュの dtype",
    "A, and of B by default":
        " A（指定がなければ B も）",
    "B (default: as A)":
        " B（既定値: A と同じ）",
    "task":
        "比較の内容",
    "one or more of {modes}, separated by commas, or all (default: whole)":
        "{modes} のうち 1 つ以上をコンマで区切って指定する。all はすべて（既定値: whole）",
    "UTF-8 text for the ids (default: random ids)":
        "id を作る UTF-8 の文章（既定値: 乱数の id）",
    "rows of ids (default: 2)":
        "id の行数（既定値: 2）",
    "ids in a row (default: 32)":
        "1 行の id の数（既定値: 32）",
    "tokens to generate (default: 16)":
        "生成するトークン数（既定値: 16）",
    "seed of ids, weights, chunks and sampling (default: 0)":
        "id、重み、チャンク、サンプリングのシード（既定値: 0）",
    "full size":
        "実寸",
    "write a random checkpoint in published form, and compare it by layer":
        "公開されている形式で乱数のチェックポイントを書き出し、層ごとに比べる",
    "folder of this checkpoint (7b: 13.5 GB), new or existing":
        "このチェックポイントのフォルダー（7b は 13.5 GB）。新しくても既にあってもよい",
    "verdict and output":
        "判定と出力",
    "exit status: 0 equal, as expected or within the tolerance, 1 different, 2 nothing could be compared":
        "終了ステータス: 一致、予想どおり、または許容範囲内なら 0、違えば 1、何も比較できなければ 2",
    "an operation that was changed on purpose, such as 'layers.*.self_attn.scores'; all others have to be right; may be given several times":
        "意図して変えた演算。例: 'layers.*.self_attn.scores'。ほかの演算はすべて正しくなければならない。複数回指定できる",
    "let logits differ by up to N ULP":
        "ロジットの N ULP までの差を許す",
    "let next-token distributions differ by X nats (KL)":
        "次のトークンの分布の X ナット（KL）までの差を許す",
    "print all results as one JSON object":
        "すべての結果を 1 つの JSON オブジェクトで出力する",
    "write an HTML page with a map of all operations":
        "すべての演算を一覧にした HTML ページを書き出す",
    "write a certificate of this run, or add to one":
        "この実行の証明書を書く、または既にある証明書に加える",
    "run a certificate again, and compare the results":
        "証明書の実行を繰り返し、結果を比べる",
}
