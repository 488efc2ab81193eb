"""The Japanese of the errors of `linear`, `quantization`, `speed` and several processes. See the package."""

# ruff: noqa: E501
# fmt: off
MESSAGES = {
    # kernels
    "the kernel for {kernel} is not available on this machine: {reason}; quantised layers convert their weights to floats instead, which is slow":
        "{kernel} のカーネルはこのマシンでは使えません: {reason}。量子化した層は代わりに重みを浮動小数点数に変換するので、遅くなります",
    "{kernel} is not available on this machine: {reason}":
        "{kernel} はこのマシンでは使えません: {reason}",
    "it packs {shape} weights as {packed}":
        "{shape} の重みを {packed} に並べ替えます",
    "its packing changes the weight":
        "並べ替えで重みが変わります",
    "{reason} and {outputs} x {inputs} weights":
        "{outputs} x {inputs} の重みで、{reason}",
    "{reason} and a weight at the address of an earlier one":
        "前の重みと同じアドレスの重みで、{reason}",
    "its result is {dtype} {shape}":
        "結果が {dtype} {shape} です",
    "its result is wrong for {number} rows":
        "{number} 行の結果が誤っています",
    "its result is wrong for 1 row":
        "1 行の結果が誤っています",
    "its result is wrong for rows that are not contiguous":
        "連続していない行の結果が誤っています",
    "its result for {number} is finite, or not finite in another row":
        "{number} に対する結果が有限か、ほかの行の結果が有限でありません",
    "a later product changes its result":
        "後の積が前の結果を変えます",
    "it changes its input":
        "入力を変えます",
    "it changes {setting} of torch":
        "torch の{setting}を変えます",
    "the number of threads":
        "スレッド数",
    "the default dtype":
        "既定の dtype",
    "the mode of gradients":
        "勾配のモード",
    "the precision of products":
        "積の精度",
    "the flushing of denormal numbers":
        "非正規化数の扱い",
    "the random numbers":
        "乱数",
    "{function} as compiled by torch {version} cannot be kept, so each start compiles it again: {reason}":
        "torch {version} でコンパイルした {function} は保存できないので、起動ごとにコンパイルします: {reason}",
    "{file} is damaged and ignored, so it is compiled again: {reason}":
        "{file} は壊れているので使わず、コンパイルし直します: {reason}",
    "its content does not have its checksum":
        "内容がチェックサムと一致しません",
    "it belongs to another program":
        "別のプログラムのものです",
    "the packed weight is not this weight in a known order":
        "並べ替えた重みの順序がわかりません",
    "zentorch is not installed: pip install -e '.[zen]'":
        "zentorch がインストールされていません: pip install -e '.[zen]'",
    "zentorch {version} is for another torch than {torch}: pip install 'zentorch=={wanted}.*', or, while that is not published, 'torch=={other}.*'":
        "zentorch {version} は torch {torch} 用ではありません: pip install 'zentorch=={wanted}.*'。まだ公開されていなければ 'torch=={other}.*'",
    "zentorch {version} lacks libzentorch.so: pip install --force-reinstall -e '.[zen]'":
        "zentorch {version} に libzentorch.so がありません: pip install --force-reinstall -e '.[zen]'",
    "{kernel} is not used for {layers}: {reason}":
        "{kernel} は {layers} には使いません: {reason}",
    "its results are not bit-identical on the model's weights":
        "モデルの重みでの結果がビット単位で一致しません",
    "attention by {kernel} is not available on this machine: {reason}":
        "{kernel} によるアテンションはこのマシンでは使えません: {reason}",
    "attention by {kernel} is not used: its result is wrong at {keys} keys":
        "{kernel} によるアテンションは使いません: キー {keys} 個で結果が誤っています",
    "its result is wrong":
        "結果が誤っています",
    # quantisation
    "the calibration text gives unusable inputs of {layer}; use another text or method rtn ({error})":
        "キャリブレーション用の文章では {layer} の入力が使えません。別の文章か method rtn を使ってください（{error}）",
    "{layer}.weight has values that are not finite; the file may be damaged":
        "{layer}.weight に有限でない値があります。ファイルが壊れているかもしれません",
    # optimize
    "{file} is damaged and ignored, so kernels are measured again: {reason}":
        "{file} は壊れているので使わず、カーネルを測り直します: {reason}",
    "a choice has other entries":
        "選択の項目が違います",
    "a choice of attention has other entries":
        "アテンションの選択の項目が違います",
    "a kernel is no name":
        "カーネルが名前ではありません",
    "a time is no number":
        "時間が数ではありません",
    "a speedup is no number":
        "速度の比が数ではありません",
    "it is no object of format {format} with machines":
        "machines のある形式 {format} のオブジェクトではありません",
    "level is one of {levels}, not {level}":
        "level は {levels} のいずれかです。{level} は使えません",
    "rows, the number of rows in a decoding step, is at least 1, not {rows}":
        "rows（デコードステップの行数）は 1 以上です。{rows} は使えません",
    "optimize works on the CPU, but the model is on {device}":
        "optimize は CPU でだけ使えますが、モデルは {device} にあります",
    "the model is optimised already; call undo() on the result of optimize first":
        "モデルは既に最適化されています。先に optimize の結果の undo() を呼び出してください",
    "level 'exact' changes the logits on this machine ({deviation}), so nothing was changed; try level 'close'":
        "このマシンでは level 'exact' でもロジットが変わる（{deviation}）ので、何も変更しませんでした。level 'close' を試してください",
    # self-drafts
    "the bits of a self-draft are 8 or 4, not {bits}":
        "self-draft のビット数は 8 か 4 です。{bits} は使えません",
    "the self-draft ({scheme}) needs {needed} GB of memory beside the model, and {free} GB are free; {smaller}generate without it":
        "self-draft（{scheme}）には、モデルのほかに {needed} GB のメモリが必要ですが、空きは {free} GB です。{smaller}指定をやめてください",
    "use 4 bits, or ":
        "4 ビットにするか、",
    "{folder} is not quantised; name a folder that `llama-jp quantize` wrote of the same model":
        "{folder} は量子化されていません。同じモデルから `llama-jp quantize` で作ったフォルダーを指定してください",
    "no group size of int4 divides the inputs of every layer ({inputs}); use 8 bits":
        "すべての層の入力（{inputs}）を割り切る int4 のグループサイズがありません。8 ビットにしてください",
    "the model is quantised already ({scheme}), so a quantised copy would not be a faster draft":
        "モデルは既に量子化されている（{scheme}）ので、量子化したコピーを作っても速いドラフトモデルになりません",
    "a self-draft works on the CPU, but the model is on {device}":
        "self-draft は CPU でだけ使えますが、モデルは {device} にあります",
    "{layer} has a bias, and a quantised layer with a bias is slower than the model's own":
        "{layer} にバイアスがあります。バイアスのある量子化した層は、モデル自身の層より遅くなります",
    "the model's forward is changed ({name}), so no quantised copy can be made of it":
        "モデルの forward が変更されている（{name}）ので、量子化したコピーを作れません",
    "an int4 self-draft needs a model in bfloat16, and this one is in {dtype}; use 8 bits":
        "int4 の self-draft には bfloat16 のモデルが必要ですが、このモデルは {dtype} です。8 ビットにしてください",
    "{folder} is not made of this model: {name} differs; quantise the model itself":
        "{folder} はこのモデルから作ったものではありません: {name} が違います。このモデルを量子化してください",
    # static steps
    "the keys of a static step go on beyond the query, which {name} may not expect; use the model without StaticLlama":
        "コンパイルしたステップのキーはクエリの先まで続きますが、{name} がそれに対応しているとは限りません。--compile（StaticLlama）を外してください",
    "{type} has its own {name}, which a static step does not call; use the model without StaticLlama":
        "{type} は自分の {name} を持っていますが、コンパイルしたステップはそれを呼び出しません。--compile（StaticLlama）を外してください",
    "rope_type {type} changes the rotation of old positions as the text grows, and a static step cannot; use the model without StaticLlama":
        "rope_type {type} は、文章が伸びると前の位置の回転を変えますが、コンパイルしたステップではできません。--compile（StaticLlama）を外してください",
    "a StaticLlama has the weights of the model that it was made from; save that model":
        "StaticLlama の重みは元のモデルのものです。元のモデルを保存してください",
    # several processes
    "--{flag} works in a single process: {reason}":
        "--{flag} は単独のプロセスでだけ使えます: {reason}",
    "the clocks of several processes differ":
        "プロセスごとに時計が違うためです",
    "each process has the keys and values of its own heads only":
        "各プロセスが持つのは、自分のヘッドのキーと値だけであるためです",
    "each process would write the file of answers":
        "どのプロセスも答えのファイルに書いてしまうためです",
    "several processes share a checkpoint, and {name} is a function; write its model with `llama-jp convert {name_again} FOLDER`, and name the folder":
        "複数のプロセスで分けるのはチェックポイントですが、{name} は関数です。`llama-jp convert {name_again} FOLDER` でモデルを書き出し、そのフォルダーを指定してください",
    "the ranks share standard input as a whole, so read() takes no size, not {size}":
        "標準入力は全体をランクで共有するので、read() に大きさ {size} は指定できません",
    "each process takes a GPU of its own: --device {type}, not {device}":
        "プロセスごとに別の GPU を使います。{device} ではなく --device {type} としてください",
    "{processes} processes need a GPU each, but this machine has {gpus}; start fewer, or add --device cpu":
        "{processes} 個のプロセスに GPU が 1 つずつ必要ですが、このマシンの GPU は {gpus} 個です。プロセスを減らすか、--device cpu を付けてください",
    "this PyTorch has no NCCL, through which the processes communicate; add --device cpu":
        "この PyTorch には、プロセス間の通信に必要な NCCL がありません。--device cpu を付けてください",
    "several processes run on the CPU or on CUDA, not on {device}":
        "複数のプロセスは CPU か CUDA で動きます。{device} は使えません",
    "an adapter is not merged on several processes; merge it in one with `llama-jp convert --adapter`, and load the result":
        "アダプターは複数のプロセスではマージできません。単独のプロセスの `llama-jp convert --adapter` でマージし、その結果を読み込んでください",
    "trust_parts and missing are not supported on several processes; use one process":
        "trust_parts と missing は複数のプロセスでは使えません。単独のプロセスにしてください",
    "{source} is quantised ({scheme}), and quantised layers cannot be split among processes; use one process":
        "{source} は量子化されています（{scheme}）。量子化した層は分けられないので、単独のプロセスにしてください",
    "a rank holds only its share of the weights; load the model in one process to save it":
        "各ランクが持つのは重みの一部だけです。保存するには、単独のプロセスでモデルを読み込んでください",
    "{key} is {size}, which {ranks} processes cannot share evenly; start a number of processes that divides it":
        "{key} の {size} は {ranks} 個のプロセスに等しく分けられません。割り切れる数のプロセスにしてください",
}
