"""The demo checkpoint: its corpus, tokenizer, training, weights and answers."""

import json
import logging
import math
import os
import random
import signal
import subprocess
import sys
import time
import warnings
import zlib
from itertools import islice
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

import llama_jp
from llama_jp import Llama, Tokenizer, instruct_prompt
from llama_jp.training.losses import IGNORE
from llama_jp.training.state import STATE_FILE

DEMO = Path(__file__).resolve().parents[2] / "weights" / "demo"
sys.path.insert(0, str(DEMO))

import corpus  # noqa: E402
import judge  # noqa: E402
import train  # noqa: E402

CARD = "クマが海辺に行ってアザラシと友達になり、最終的には家に帰るというプロットの短編小説を書いてください。"


# --- the corpus -------------------------------------------------------------------------------------------------------


def test_the_corpus_follows_from_its_seed():
    assert list(islice(corpus.documents(7), 50)) == list(islice(corpus.documents(7), 50))
    assert list(islice(corpus.documents(7), 50)) != list(islice(corpus.documents(8), 50))


def test_the_corpus_does_not_depend_on_the_process():
    """Guards against `hash()` and the order of sets, which change from one Python to the next."""
    command = [sys.executable, str(DEMO / "corpus.py"), "--count", "20"]
    printed = {
        subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_held_out_combinations_are_not_trained_on():
    rng = random.Random(0)

    def combination(plan):
        return plan.hero_kind, plan.friend_kind, plan.place_kind

    trained = {combination(corpus.draw_plan(rng)) for _ in range(3000)}
    kept = {combination(corpus.draw_plan(rng, "held-out")) for _ in range(300)}
    assert not trained & kept
    assert corpus.is_held_out("クマ", "アザラシ", "海辺"), "the model card's request must be new to the model"
    every = [corpus.is_held_out(h, f, p) for h in corpus.ANIMALS for f in corpus.ANIMALS for p in corpus.PLACES]
    assert 0.09 < sum(every) / len(every) < 0.11


def test_every_story_keeps_its_promise_and_is_well_formed():
    rng = random.Random(1)
    for _ in range(1500):
        plan = corpus.draw_plan(rng, rng.choice(("train", "held-out")))
        story, _ = corpus.tell(rng, plan)
        assert all(corpus.keeps_promise(plan, story).values()), story
        assert story.count("「") == story.count("」"), story
        assert story.endswith(("。", "」")), story
        for slip in ("{", "}", "。。", "、、", "、。", "。、", "をを", "がが", "にに", "へに", "ましたました"):
            assert slip not in story, (slip, story)


def test_a_hundred_stories_differ():
    """Compares whole sentences. Names become one placeholder: other names do not make a repeated sentence new."""
    rng = random.Random(2)
    stories = []
    for _ in range(100):
        plan = corpus.draw_plan(rng)
        story, _ = corpus.tell(rng, plan)
        for name in (plan.hero, plan.friend, plan.place, plan.name):
            story = story.replace(name, "＊") if name else story
        stories.append({sentence for sentence in story.replace("\n", "").split("。") if len(sentence) > 8})
    shared = [len(a & b) / min(len(a), len(b)) for i, a in enumerate(stories) for b in stories[:i]]
    assert max(shared) < 0.7 and sum(shared) / len(shared) < 0.15


@pytest.mark.parametrize(
    ("plain", "te", "tari", "let_us", "mashita"),
    [
        ("砂のお城を作る", "作って", "作ったり", "作ろう", "作りました"),
        ("波の音を聞く", "聞いて", "聞いたり", "聞こう", "聞きました"),
        ("小舟をこぐ", "こいで", "こいだり", "こごう", "こぎました"),
        ("絵本を読む", "読んで", "読んだり", "読もう", "読みました"),
        ("広場で遊ぶ", "遊んで", "遊んだり", "遊ぼう", "遊びました"),
        ("やまびこと話す", "話して", "話したり", "話そう", "話しました"),
        ("みんなで歌う", "歌って", "歌ったり", "歌おう", "歌いました"),
        ("雲の上ではねる", "はねて", "はねたり", "はねよう", "はねました"),
        ("旅に出る", "出て", "出たり", "出よう", "出ました"),
        ("家に帰る", "帰って", "帰ったり", "帰ろう", "帰りました"),
        ("雪合戦をする", "して", "したり", "しよう", "しました"),
        ("町へ行く", "行って", "行ったり", "行こう", "行きました"),
    ],
)
def test_conjugation(plain, te, tari, let_us, mashita):
    verb = corpus.Verb(plain)
    assert verb.te.endswith(te) and verb.tari.endswith(tari)
    assert verb.let_us.endswith(let_us) and verb.mashita.endswith(mashita)


def test_verbs_that_look_ichidan_are_known():
    """Guards against a new verb in -iru or -eru with the wrong conjugation: 帰る looks like 変える and differs."""
    plays = [play for place in corpus.PLACES.values() for play in place.plays]
    for phrase in [*plays, *corpus.ENDINGS]:
        if phrase[-1] == "る" and phrase[-2] in "いきぎしじちにひびみりえけげせぜてでねへべめれ":
            assert phrase.endswith((*corpus.ICHIDAN, "すべる", "帰る")), phrase


# --- the tokenizer ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both_files():
    sp = sentencepiece.SentencePieceProcessor(model_file=str(DEMO / "tokenizer.model"))
    from_json = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    from_json.encode_special_tokens = True
    return sp.encode, lambda text: from_json.encode(text, add_special_tokens=False).ids


PIECES = list(json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_both_tokenizer_files_give_equal_ids(both_files, text):
    from_model, from_json = both_files
    assert from_model(text) == from_json(text)


def test_both_tokenizer_files_give_equal_ids_for_the_corpus(both_files):
    from_model, from_json = both_files
    for turns in islice(corpus.documents(3), 300):
        for text in (part for turn in turns for part in turn if part is not None):
            assert from_model(text) == from_json(text)


@pytest.mark.parametrize(
    "text", ["", " ", "　", "  a  b ", "\n", "a\n\nb", "𠮷野家", "🐻‍❄️は雪の中", "12345", "<s>", "<0x41>"]
)
def test_decoding_restores_the_text(text, both_files):
    tokenizer = Tokenizer.from_pretrained(DEMO)
    assert both_files[0](text) == both_files[1](text) == tokenizer.encode(text, bos=False)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_emoji_and_rare_kanji_are_bytes_and_names_are_pieces():
    tokenizer = Tokenizer.from_pretrained(DEMO)
    assert tokenizer.pieces(tokenizer.encode("🐻", bos=False)) == ["▁", "<0xF0>", "<0x9F>", "<0x90>", "<0xBB>"]
    assert tokenizer.pieces(tokenizer.encode("檸", bos=False)) == ["▁", "<0xE6>", "<0xAA>", "<0xB8>"]
    for particle in "がはとにの":
        assert tokenizer.pieces(tokenizer.encode(f"アザラシ{particle}", bos=False)) == ["▁", "アザラシ", particle]


@pytest.mark.slow
def test_the_tokenizer_can_be_reproduced(tmp_path):
    import make_tokenizer

    make_tokenizer.write_tokenizer(tmp_path)
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes(), name


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_ids_are_those_of_generation():
    """Guards against training on other prompt ids than `instruct_prompt` gives to generation."""
    tokenizer = Tokenizer.from_pretrained(DEMO)
    for turns in islice(corpus.documents(4), 200):
        ids, labels = train.encode(tokenizer, turns)
        assert ids[0] == tokenizer.bos_id and ids[-1] == tokenizer.eos_id and len(ids) == len(labels)
        if turns[0][0] is None:
            assert tokenizer.decode(ids) == turns[0][1]
            assert labels == [IGNORE, *ids[1:]]
            continue
        for i, (request, answer) in enumerate(turns):
            prompt = instruct_prompt(tokenizer, request, history=turns[:i])
            end = len(prompt) + len(tokenizer.encode(answer, bos=False)) - 1
            assert ids[: len(prompt)] == prompt
            assert tokenizer.decode(ids[len(prompt) - 1 : end]) == answer  # from the space that ends the prompt
            assert labels[len(prompt) : end] == ids[len(prompt) : end] and labels[len(prompt) - 1] == IGNORE
        learnt = sum(label != IGNORE for label in labels)
        assert learnt == sum(len(tokenizer.encode(answer, bos=False)) for _, answer in turns), "each answer and its EOS"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """The demo's tokenizer with a model that trains in seconds."""
    folder = tmp_path_factory.mktemp("tiny")
    for file in DEMO.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((DEMO / "config.json").read_text())
    config |= {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_batch_holds_whole_documents(tiny):
    tokenizer = Tokenizer.from_pretrained(tiny)
    ids, labels, mask = train.make_batch(corpus.documents(5), tokenizer, tokens=2048)
    rows = [
        ids[row][mask[row] == number].tolist() for row in range(len(ids)) for number in range(1, 1 + mask[row].max())
    ]
    documents = [train.encode(tokenizer, turns).ids for turns in islice(corpus.documents(5), len(rows))]
    assert sorted(rows) == sorted(documents) and 1024 < sum(map(len, rows)) <= 2048
    following = train.encode(tokenizer, next(islice(corpus.documents(5), len(rows), None)))
    assert sum(map(len, rows)) + len(following.ids) > 2048, "no document that fits is left out"
    assert ids.shape == labels.shape == mask.shape == (len(ids), train.ROW)


@pytest.fixture
def same_threads():
    """Put back the number of threads, which training sets for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def training_options(folder, checkpoint, lr=0.01):
    options = {"folder": folder, "checkpoint": checkpoint, "steps": 16, "cycle": 12}
    options |= {"tokens": 1024, "warmup": 2, "every": 2, "lr": lr}
    return [f"--{name}={value}" for name, value in options.items()]


def test_training_twice_and_killed_half_way_ends_with_the_same_weights(tiny, tmp_path, same_threads):
    results = []
    for name in ("whole", "again", "killed"):
        checkpoint = tmp_path / name
        state = checkpoint / STATE_FILE
        options = training_options(tiny, checkpoint)
        if name == "killed":
            command = [sys.executable, str(DEMO / "train.py"), *options]
            run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while not state.exists():
                assert run.poll() is None, "training ended before its first checkpoint"
                time.sleep(0.01)
            run.send_signal(signal.SIGKILL)
            run.wait()
            assert torch.load(state)["step"] < 16, "the process was killed after its last step, so nothing is resumed"
        train.main(options)
        log = json.loads((tiny / "training_log.json").read_text())
        results.append((load_file(tiny / "model.safetensors"), torch.load(state)["tensors"], log))
    (whole, tensors, log), *others = results
    for weights, other, other_log in others:
        assert all(torch.equal(whole[name], weights[name]) for name in whole)
        assert all(torch.equal(tensors[name], other[name]) for name in tensors)
        assert [entry["held_out"] for entry in other_log] == [entry["held_out"] for entry in log]
        assert [entry["train"] for entry in other_log] == [entry["train"] for entry in log]
    assert log[-1]["held_out"] < log[0]["held_out"] - 0.5

    with pytest.raises(ValueError, match="other settings: lr was 0.01 and is 0.02"):
        train.main(training_options(tiny, tmp_path / "whole", lr=0.02))


@pytest.mark.slow
def test_the_quick_run_lowers_the_loss(tmp_path):
    command = [sys.executable, str(DEMO / "train.py"), "--quick", "--checkpoint", str(tmp_path / "demo")]
    before = (DEMO / "model.safetensors").stat().st_mtime_ns
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    table = dict(line.rsplit(maxsplit=1) for line in shown.splitlines())
    assert float(table["held-out loss"]) < 0.7 * math.log(3072), shown
    assert (DEMO / "model.safetensors").stat().st_mtime_ns == before, "a quick run must not replace the weights"


# --- the checkpoint ---------------------------------------------------------------------------------------------------


def checksums() -> dict[str, int]:
    """The CRC-32 of each tensor's bytes."""
    weights = load_file(DEMO / "model.safetensors")
    return {name: zlib.crc32(w.view(torch.uint8).numpy().tobytes()) for name, w in sorted(weights.items())}


def test_no_weight_has_changed():
    """Guards against one changed weight, which may turn no story and no printed digit of the tour.

    After a new training run, write `json.dumps(checksums(), indent=1)` to the file again.
    """
    expected = json.loads((Path(__file__).parent / "demo_checksums.json").read_text())
    found = checksums()
    assert [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)] == []


def test_the_folder_has_the_published_form():
    keys = (
        "architectures bos_token_id eos_token_id hidden_act hidden_size initializer_range intermediate_size "
        "max_position_embeddings model_type num_attention_heads num_hidden_layers num_key_value_heads pad_token_id "
        "pretraining_tp rms_norm_eps rope_scaling tie_word_embeddings torch_dtype transformers_version use_cache "
        "vocab_size"
    )
    config = json.loads((DEMO / "config.json").read_text())
    assert list(config) == keys.split()
    assert config["num_key_value_heads"] == config["num_attention_heads"]
    assert config["torch_dtype"] == "float16" and config["rms_norm_eps"] == 1e-6
    assert config["vocab_size"] == Tokenizer.from_pretrained(DEMO).vocab_size
    generation = json.loads((DEMO / "generation_config.json").read_text())
    assert not generation.keys() & {"do_sample", "temperature", "top_p", "top_k"}, "greedy, as 7b-instruct is"
    for name in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        assert (DEMO / name).is_file()
    with safe_open(DEMO / "model.safetensors", "pt") as weights:
        slices = [weights.get_slice(name) for name in weights.keys()]  # noqa: SIM118 (not a dict)
        assert {one.get_dtype() for one in slices} == {"F16"}
        assert 5e6 < sum(math.prod(one.get_shape()) for one in slices) < 10e6
        assert weights.metadata() == {"format": "pt"}
    assert sum(file.stat().st_size for file in DEMO.rglob("*") if file.is_file()) < 20e6


@pytest.fixture(scope="module")
def ours():
    return Llama.from_pretrained(DEMO, dtype=torch.float32), Tokenizer.from_pretrained(DEMO)


@pytest.fixture(scope="module")
def reference():
    """transformers' model. Loading it must give no warning, neither logged nor from `warnings`."""
    import transformers

    messages = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("transformers").addHandler(listener)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = transformers.AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
        transformers.AutoTokenizer.from_pretrained(DEMO)
    logging.getLogger("transformers").removeHandler(listener)
    assert messages == []
    return model


def answer(model, tokenizer, message, history=()):
    [result] = llama_jp.generate(model, [instruct_prompt(tokenizer, message, history=history)], max_new_tokens=400)
    assert result.finish_reason == "eos"
    return tokenizer.decode(result.ids)


def test_the_model_cards_request(ours):
    story = answer(*ours, CARD)
    plan = corpus.Plan("クマ", "アザラシ", "海辺", "家に帰る", "クマ", "アザラシ", "海辺")
    assert all(judge.verdict(plan, story, "eos").values()) and "友達" in story, story


def test_twenty_held_out_requests(ours):
    assert sum(all(checks.values()) for *_, checks in judge.ask_and_judge(*ours, 20, seed="test")) >= 18


def test_whole_stories_equal_those_of_transformers(ours, reference):
    model, tokenizer = ours
    for _, request in islice(corpus.requests("test", "held-out"), 4):
        prompt = torch.tensor([instruct_prompt(tokenizer, request)])
        theirs = reference.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=400)
        [story] = llama_jp.generate(model, prompt.tolist(), max_new_tokens=400)
        assert theirs[0, prompt.shape[1] :].tolist() == story.ids


def test_held_out_perplexity_is_the_same_in_transformers(ours, reference):
    model, tokenizer = ours
    losses, count = {"llama_jp": 0.0, "transformers": 0.0}, 0
    for turns in islice(corpus.documents("perplexity", "held-out"), 40):
        tokens, labels = train.encode(tokenizer, turns)
        ids, learnt = torch.tensor([tokens]), torch.tensor(labels[1:]) != IGNORE
        with torch.no_grad():
            for name, logits in {"llama_jp": model(ids), "transformers": reference(ids).logits}.items():
                losses[name] += F.cross_entropy(logits[0, :-1][learnt], ids[0, 1:][learnt], reduction="sum").item()
        count += int(learnt.sum())
    assert losses["llama_jp"] == losses["transformers"]
    trained = json.loads((DEMO / "training_log.json").read_text())[-1]["held_out"]
    assert abs(losses["llama_jp"] / count - trained) < 0.05, (
        "the loss is not that of the training log: are these the trained weights?"
    )


def test_a_second_turn_refers_to_the_first(ours):
    history = [(CARD, answer(*ours, CARD))]
    title = answer(*ours, "その話に題名をつけてください。", history)
    assert title.startswith("『") and title.endswith("』")
    assert any(word in title for word in ("クマ", "アザラシ", "海辺"))
    history.append(("その話に題名をつけてください。", title))
    cast = answer(*ours, "登場人物を教えてください。", history)
    assert "クマ" in cast and "アザラシ" in cast


def test_emoji_come_out_whole(ours):
    """An emoji is several byte tokens, so the stream holds back all but the last.

    The test names only the emoji of the hero and of the place: the model guesses the others (README).
    """
    model, tokenizer = ours
    history = [(CARD, answer(model, tokenizer, CARD))]
    prompt = instruct_prompt(tokenizer, "その話を絵文字で表してください。", history=history)
    pieces = list(llama_jp.stream_text(model, tokenizer, prompt, max_new_tokens=40))
    assert pieces[:2] == ["🐻", "🌊"] and len(pieces) == 4
    assert all(len(piece) == 1 and piece > "\U0001f000" for piece in pieces)


def test_a_plain_continuation(ours):
    model, tokenizer = ours
    [result] = llama_jp.generate(model, [tokenizer.encode("むかしむかし、")], max_new_tokens=400)
    assert result.finish_reason == "eos" and len(tokenizer.decode(result.ids)) > 100
