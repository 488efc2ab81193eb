"""Teach the bundled model a new ending: write a JSONL file, fine-tune on it, and read an answer before and after.

The same as `llama-jp finetune stories.jsonl my-model`; docs/finetune.md explains the options and the files.
"""

import json
import random
import tempfile
from pathlib import Path

import llama_jp
from llama_jp.training import finetune

ANIMALS = "ネコ リス キツネ ウサギ ペンギン カエル カニ イヌ タヌキ サル ゾウ キリン カメ ヒツジ"
PLACES = "森 公園 村 砂漠 雪原 図書館"
REQUEST = "クマが海辺に行ってアザラシと友達になる話を書いてください。"


def write_stories(file: Path, count: int) -> None:
    rng = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(count):
            (hero, friend), place = rng.sample(ANIMALS.split(), 2), rng.choice(PLACES.split())
            request = f"{hero}が{place}に行って{friend}と友達になる話を書いてください。"
            story = f"{hero}は{place}で{friend}に会いました。ふたりは友達になりました。めでたし、めでたし。"
            lines.write(json.dumps({"instruction": request, "output": story}, ensure_ascii=False) + "\n")


with tempfile.TemporaryDirectory() as parent:
    data, out = Path(parent) / "stories.jsonl", Path(parent) / "my-model"
    write_stories(data, 60)
    result = finetune(data, out, "demo", epochs=3, lr=5e-4, batch=2, length=256, progress=False)
    print(f"{result.steps} steps, held-out loss {result.held_out:.3f} nats per token")
    for source in ("demo", out):
        model, tokenizer = llama_jp.load(source)
        [answer] = llama_jp.generate(model, [llama_jp.instruct_prompt(tokenizer, REQUEST)], max_new_tokens=300)
        print(f"{Path(source).name}: …{tokenizer.decode(answer.ids)[-40:]}")
