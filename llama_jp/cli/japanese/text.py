"""The Japanese of the errors of `text`. See the package."""

# ruff: noqa: E501
# fmt: off
MESSAGES = {
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
    # tokenizers
    "{file}: a token is {value}, but it has to be a string, or an object with content and flags":
        "{file}: トークンが {value} ですが、文字列か、content とフラグを持つオブジェクトでなければなりません",
    "{file}: {key} is {value}, but it has to be a list or an object":
        "{file}: {key} が {value} ですが、リストかオブジェクトでなければなりません",
    "{file} is damaged: added_tokens has to be a list of objects with an id":
        "{file} は壊れています: added_tokens は id を持つオブジェクトのリストでなければなりません",
    "{file}: added_tokens_decoder has to be an object with ids as keys":
        "{file}: added_tokens_decoder は id をキーとするオブジェクトでなければなりません",
    "{file}: the id of {token} is {id}, but it has to be a whole number":
        "{file}: {token} の id が {id} ですが、整数でなければなりません",
    "it is empty":
        "空です",
    "{file} is a tiktoken vocabulary, as Llama 3 has, and not a SentencePiece model; name a folder with the tokenizer.json of the same model (tokenizer=…, --tokenizer FOLDER)":
        "{file} は SentencePiece のモデルではなく、Llama 3 のような tiktoken の語彙です。同じモデルの tokenizer.json があるフォルダーを指定してください（tokenizer=…、--tokenizer FOLDER）",
    "{file} is damaged or not a SentencePiece model ({error})":
        "{file} は壊れているか、SentencePiece のモデルではありません（{error}）",
    "{file} is damaged or not a tokenizer.json ({error})":
        "{file} は壊れているか、tokenizer.json ではありません（{error}）",
    "{file}: its decoder is {decoder}; supported are ByteLevel, and Replace (of a string), ByteFallback, Fuse and Strip (of leading spaces), in this order":
        "{file}: デコーダーが {decoder} です。対応しているのは、ByteLevel と、Replace（文字列）、ByteFallback、Fuse、Strip（先頭の空白）をこの順に並べたものです",
    "id {id} is not in the tokenizer, which has {ids} ids, from 0 on":
        "id {id} はトークナイザーにありません。id は 0 から {ids} 個です",
    "this tokenizer has no BOS token, with which ELYZA's prompt begins":
        "このトークナイザーには、ELYZA のプロンプトの先頭に置く BOS トークンがありません",
    "this tokenizer has no EOS token, which ends every earlier turn; leave out the history":
        "このトークナイザーには、それまでの各ターンの終わりに置く EOS トークンがありません。履歴を外してください",
    "there are no ids to explain":
        "説明する id がありません",
    "{id} is no id; -100 marks labels that training ignores, so these are labels, not ids":
        "{id} という id はありません。-100 は学習で無視するラベルの印なので、これは id ではなくラベルです",
    "{file}: the chat template is not ELYZA's, and only mistakes in ids of ELYZA's are known":
        "{file}: チャットテンプレートが ELYZA のものではありません。説明できるのは ELYZA のテンプレートの id の誤りだけです",
    "{files} differ: one has {pieces} pieces, and the other {theirs}":
        "{files} が違います: 一方のピースは {pieces} 個、他方は {theirs} 個です",
    "the tokenizer begins each text with the id {id}, and the model has only {rows} rows in its embedding; name another bos_token, or use the tokenizer files of this model":
        "トークナイザーは文章の先頭に id {id} を置きますが、モデルの埋め込みは {rows} 行しかありません。別の bos_token を指定するか、このモデルのトークナイザーを使ってください",
    # conversations
    'a conversation is a list of messages such as {"role": "user", "content": "…"}: {messages}':
        '会話は {"role": "user", "content": "…"} のようなメッセージのリストです: {messages}',
    'message {number} is no {"role": "user", "content": "…"}: {message}':
        'メッセージ {number} が {"role": "user", "content": "…"} の形ではありません: {message}',
    "character {position} of message {number} is U+{code}, half a surrogate pair":
        "メッセージ {number} の {position} 文字目が U+{code}（サロゲートペアの片方）です",
    "a conversation holds text, numbers, lists and dicts; {value} is a {type}":
        "会話に入れられるのは文字列、数、リスト、辞書です。{value} は {type} です",
    "history is made of (user, assistant) pairs; this is not one: {turn}":
        "履歴は (user, assistant) の組を並べたものです。組でないものがあります: {turn}",
    "{file}: the chat template is not valid Jinja: line {number}: {error}":
        "{file}: チャットテンプレートが正しい Jinja ではありません: {number} 行目: {error}",
    "{file}: the chat template needs more than it is given: {error}":
        "{file}: チャットテンプレートに必要なものが足りません: {error}",
    "{file}: the chat template refuses this conversation: {error}":
        "{file}: チャットテンプレートがこの会話を拒否しました: {error}",
    "{file}: the chat template fails on this conversation: {error}":
        "{file}: チャットテンプレートがこの会話で失敗しました: {error}",
}
