"""The Japanese of the command line: one entry for each English sentence; see language.py.

A name in braces stands for the numbers and names of a sentence, and the Japanese has the same names. `{hint}` is the end
of a sentence: nothing, or a text that begins with "; ". A test names each sentence without an entry, and each entry
without a sentence. All characters are in Shift-JIS, which Windows consoles in Japan show.
"""

# Each entry has two lines: the English and the Japanese one.
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
        "同じトークナイザーを持つこの小さなモデルでドラフトトークンを作る。self: モデル自身を int8 に量子化した写しで（メモリが足りなければ int4）。self:int8、self:int4: その写しで。self:FOLDER: モデルを量子化したフォルダーで",
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
        "ページは、モデル自身の写しによるドラフトトークンを見せません。別のドラフトモデルを指定するか、指定をやめてください",
    "the self-draft belongs to another model; make one of this model with speed.self_draft":
        "この self-draft は別のモデルのものです。speed.self_draft で、このモデルのものを作ってください",
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
    # the tokenizer
    "{folder} has no tokenizer: {reason}{hint}":
        "{folder} にトークナイザーがありません: {reason}{hint}",
    "neither tokenizer.model nor tokenizer.json is there":
        "tokenizer.model も tokenizer.json もありません",
    "its keys hold no vocabulary":
        "キーの中に語彙がありません",
    "{folder} has no {file}, which kind={kind} needs":
        "{folder} に、kind={kind} に必要な {file} がありません",
    "kind is {kind}; it can be {kinds}, or None for either":
        "kind が {kind} です。{kinds}、またはどちらでもよければ None にしてください",
    "segmentation is {name}; it can be {names}":
        "segmentation が {name} です。{names} のいずれかにしてください",
    "this tokenizer has no BOS token; encode with bos=False":
        "このトークナイザーには BOS トークンがありません。bos=False で符号化してください",
    "{file}: chat_control_tokens is {value}, but it has to be a list of tokens":
        "{file}: chat_control_tokens が {value} ですが、トークンのリストでなければなりません",
    '{files} do not belong together: id {id} is {piece} in one and {other} in the other; remove the wrong one, or choose with kind="sentencepiece" or kind="json"':
        '{files} が対応していません: id {id} が一方では {piece}、他方では {other} です。誤っている方を消すか、kind="sentencepiece" または kind="json" で選んでください',
    "character {position} of the text is U+{code}, half a surrogate pair":
        "文章の {position} 文字目が U+{code}（サロゲートペアの片方）です",
    "{folder}: the added token {token} gets the id {id} and not {other}, because added tokens follow the vocabulary without a gap, as in transformers":
        "{folder}: 追加されたトークン {token} の id は {other} ではなく {id} になります。transformers と同じく、追加されたトークンは語彙の直後に続きます",
    "{difference}; tokenizer.json is used, as in transformers (kind='sentencepiece': the other)":
        "{difference}。transformers と同じく tokenizer.json を使います（kind='sentencepiece' ならもう一方）",
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
