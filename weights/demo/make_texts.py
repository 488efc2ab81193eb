"""Write the bundled texts for quantisation and evaluation to llama_jp/evaluation/texts.

    python weights/demo/make_texts.py

calibration.ja.txt    documents of the demo's training split, with some paragraphs of plain prose between them
held-out.ja.txt       documents of combinations that are held out from training
prose.ja.txt          plain prose, for models that are trained on more than the demo's stories

The documents have the form in which the demo is trained on them. The prose was written for this project. A line of four
hyphens ends a document.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import corpus

from llama_jp import DEFAULT_SYSTEM_PROMPT

TEXTS = Path(__file__).resolve().parents[2] / "llama_jp" / "evaluation" / "texts"
PROSE = {
    "calibration": (
        "図書館で本を借りるには、まず利用者カードを作ります。住所の分かるものを窓口に出すと、その場で発行してもらえます。借りられるのは一度に十冊まで、"
        "期間は二週間です。予約が入っていなければ、一回だけ延ばすことができます。返すときは窓口に渡すか、閉館後なら入口の横にあるポストに入れてください。",
        "台風は、暖かい海の上で生まれる大きな空気の渦です。海から上がる水蒸気が雲になるときに熱を出し、その熱が空気をさらに押し上げます。"
        "日本に近づくのは夏の終わりから秋にかけてが多く、上陸すると水蒸気が足りなくなって、だんだん弱まります。",
        "味噌汁を作るときは、だしを沸かし、火の通りにくい具から順に入れます。大根や人参は早めに、豆腐や葱は最後で間に合います。"
        "味噌は火を止めてから溶きます。煮立てると香りが飛んでしまうからです。",
        "The museum opens at ten and closes at five. 月曜日は休館ですが、祝日に当たるときは翌日の火曜日が休みです。"
        "入館料は大人600円、中学生以下は無料です。",
        "線形回帰では、観測した値と予測した値の差を二乗し、その合計がいちばん小さくなるように係数を決める。外れた値が一つあるだけで結果が大きく動くので、"
        "図に描いて確かめてから使うのがよい。",
    ),
    "prose": (
        "駅前の商店街に、古い時計屋がある。店の主人は七十を過ぎているが、今でも毎朝八時に戸を開け、壁に掛かった三十あまりの時計を一つずつ合わせていく。"
        "急ぐ客には待ってもらう。時計が止まる理由は一つではない、開けてみなければ分からない、というのが口癖だった。",
        "川の水が海まで流れる間に、石は角を失って丸くなる。上流で見つかる石は大きくて角張っており、下流の河原では小さくて滑らかな石が多い。"
        "石の形を見れば、それがどれほどの旅をしてきたのかをおおよそ知ることができる。",
        "自転車の鍵をなくしたときは、最寄りの交番か駐輪場の管理室に届け出てください。防犯登録の番号が分かると、手続きが早く済みます。"
        "合鍵を作る場合は、身分証明書と購入時の控えが必要です。",
        "関数 f は整数 n を受け取り、n が偶数なら n/2 を、奇数なら 3n+1 を返す。これを何度も繰り返すと、"
        "どの数から始めても最後は 1 になると予想されているが、まだ証明されていない。"
        "たとえば 6 から始めると 6、3、10、5、16、8、4、2、1 となる。",
        "会議は午後二時から三階の小会議室で行います。資料は前日までに共有しますので、各自で目を通しておいてください。"
        "欠席される方は、代わりに出る人の名前を総務まで知らせてください。",
    ),
}
END = "\n----\n"


def document_texts(split: str, count: int) -> Iterator[str]:
    """Stories and requests as text. With `<s>` and `</s>` parsed, it encodes to the ids that `train.py` trains on."""
    short = (turns for turns in corpus.documents("texts", split) if len(turns) == 1)
    for ((request, answer),) in islice(short, count):
        prompt = f"[INST] <<SYS>>\n{DEFAULT_SYSTEM_PROMPT}\n<</SYS>>\n\n{request} [/INST] " if request else ""
        yield f"<s>{prompt}{answer}</s>"


def write(name: str, documents: list[str]) -> None:
    (TEXTS / f"{name}.ja.txt").write_text(END.join(documents) + "\n", encoding="utf-8")


def main() -> None:
    TEXTS.mkdir(exist_ok=True)
    training, held_out = (list(document_texts(split, 24)) for split in ("train", "held-out"))
    prose = {name: [f"<s>{paragraph}</s>" for paragraph in PROSE[name]] for name in PROSE}
    for i, paragraph in enumerate(prose["calibration"]):
        training.insert(5 * i + 4, paragraph)
    write("calibration", training)
    write("held-out", held_out)
    write("prose", prose["prose"])


if __name__ == "__main__":
    main()
