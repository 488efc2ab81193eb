"""The bridge beside LlamaForCausalLM: the same losses, gradients, tokens and scores in transformers' own tools."""

from __future__ import annotations

import pytest
import torch
import transformers
from helpers.reference import ATTENTIONS, SMALL, save_random, theirs

import llama_jp
from llama_jp.bridge import CACHE, LlamaJpForCausalLM

STEPS = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_random(tmp_path_factory.mktemp("bridge"), seed=5, **SMALL | {"head_dim": 16})


def no_positions(positions):
    """A rope that rotates nothing, as a researcher's module would have it."""
    cos = torch.ones(*positions.shape, 16)
    return cos, torch.zeros_like(cos)


class Doubled(llama_jp.Llama):
    """A model with a forward of its own."""

    def forward(self, *args, **kwargs):
        return 2 * super().forward(*args, **kwargs)


def pair(folder, attention="sdpa", dtype=torch.float32):
    ours = LlamaJpForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation=attention)
    return ours, theirs(folder, dtype, attention)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("rows", ["whole", "padded", "packed"])
def test_losses_and_gradients_are_equal(folder, attention, use_cache, rows):
    if rows == "packed" and use_cache:
        pytest.skip("transformers packs only without a cache")
    ids = torch.randint(0, 96, (2, 14))
    arguments = {"labels": ids, "use_cache": use_cache}
    if rows == "padded":
        arguments["attention_mask"] = torch.tensor([[1] * 14, [1] * 9 + [0] * 5])
        arguments["labels"] = torch.where(arguments["attention_mask"].bool(), ids, -100)
    if rows == "packed":
        arguments["position_ids"] = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 0, 1, 2], [*range(13), 0]])
    found = []
    for model in pair(folder, attention):
        output = model.train()(ids, **arguments)
        output.loss.backward()
        found.append((output, gradients(model)))
    (ours, our_gradients), (reference, their_gradients) = found
    assert torch.equal(ours.loss, reference.loss)
    real = arguments.get("attention_mask", torch.ones_like(ids)).bool()
    assert torch.equal(ours.logits[real], reference.logits[real])
    assert our_gradients.keys() == their_gradients.keys()
    for name, gradient in their_gradients.items():
        assert torch.equal(our_gradients[name], gradient), name


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"do_sample": True, "temperature": 0.8, "top_k": 20},
        {"do_sample": False, "num_beams": 3},
        {"do_sample": False, "use_cache": False},
        {"do_sample": False, "prefill_chunk_size": 3},
    ],
)
def test_generate_gives_the_same_tokens(folder, options):
    ids, mask = torch.randint(3, 96, (2, 7)), torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7])
    answers = []
    for model in pair(folder):
        torch.manual_seed(1)
        answers.append(model.generate(ids, attention_mask=mask, max_new_tokens=12, **options))
    assert torch.equal(*answers)


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_has_either_name(folder, name):
    """Guards against a cache that **kwargs take and nothing reads: each step would see its own token alone."""
    model, _ = pair(folder)
    ids, past = torch.randint(0, 96, (2, 7)), transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        model(ids[:, :6], **{name: past}, use_cache=True)
        step = model(ids[:, 6:], **{name: past}, use_cache=True)
        assert past.get_seq_length() == 7 and step[CACHE] is past
        torch.testing.assert_close(step.logits, model(ids).logits[:, 6:])  # other shapes may round otherwise


def test_gradient_checkpointing_changes_no_bit_and_ends(folder):
    ids, found = torch.randint(0, 96, (2, 14)), []
    for checkpointed in (False, True):
        model, _ = pair(folder)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            assert model.is_gradient_checkpointing
        runs = []
        model.model.layers[1].mlp.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        model.train()(ids, labels=ids).loss.backward()
        assert len(runs) == 1 + checkpointed, "a checkpointed layer runs again in the backward pass"
        found.append(gradients(model))
        assert "forward" not in vars(model.model.layers[1])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


def dataset():
    """Rows of token ids with prompts that are masked in the loss."""
    from datasets import Dataset

    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, 20, (24,), generator=generator).tolist()
    ids = [torch.randint(3, 96, (length,), generator=generator).tolist() for length in lengths]
    return Dataset.from_dict({"input_ids": ids, "completion_mask": [[0, 0] + [1] * (len(row) - 2) for row in ids]})


@pytest.fixture(scope="module")
def their_tokenizer():
    from pathlib import Path

    demo = Path(llama_jp.__file__).parents[1] / "weights" / "demo"
    return transformers.AutoTokenizer.from_pretrained(demo)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("lora", [False, True])
def test_trl_gives_the_same_losses_and_weights(folder, tmp_path, their_tokenizer, packing, lora):
    import peft
    import trl

    found = []
    for number, model in enumerate(pair(folder)):
        arguments = trl.SFTConfig(
            output_dir=str(tmp_path / str(number)),
            packing=packing,
            max_length=32,
            max_steps=STEPS,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            use_cpu=True,
            bf16=False,
            seed=0,
            disable_tqdm=True,
        )
        config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
        torch.manual_seed(0)
        trainer = trl.SFTTrainer(
            model, arguments, train_dataset=dataset(), processing_class=their_tokenizer, peft_config=config
        )
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        found.append((losses, {name: p.detach().clone() for name, p in trainer.model.named_parameters()}))
    (losses, weights), (their_losses, their_weights) = found
    assert losses == their_losses and len(losses) == STEPS
    assert weights.keys() == their_weights.keys()
    for name, weight in their_weights.items():
        assert torch.equal(weights[name], weight), name


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}])
def test_an_adapter_trained_on_the_bridge_opens_in_transformers(folder, tmp_path, options):
    import peft

    model, reference = pair(folder)
    config = peft.LoraConfig(r=3, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM", **options)
    wrapped = peft.get_peft_model(model, config)
    ids = torch.randint(0, 96, (2, 9))
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        wrapped(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    wrapped.save_pretrained(tmp_path)
    opened = peft.PeftModel.from_pretrained(reference, tmp_path)
    with torch.no_grad():
        wrapped.eval()
        assert torch.equal(opened(ids).logits, wrapped(ids).logits)
        plain, _ = pair(folder)
        again = peft.PeftModel.from_pretrained(plain, tmp_path)
        assert torch.equal(again(ids).logits, wrapped(ids).logits)
        assert not torch.equal(pair(folder)[0](ids).logits, again(ids).logits)
        # the Llama inside computes with the modules that PEFT put in
        assert torch.equal(again.base_model.model.llama(ids), again(ids).logits)


def test_trainer_saves_a_checkpoint_that_transformers_loads(folder, tmp_path):
    found = []
    rows = [{"input_ids": row, "labels": row} for row in torch.randint(0, 96, (8, 10)).tolist()]
    for number, model in enumerate(pair(folder)):
        arguments = transformers.TrainingArguments(
            str(tmp_path / str(number)), max_steps=3, report_to=[], use_cpu=True, disable_tqdm=True, save_steps=3
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        trainer.save_model(str(tmp_path / f"saved-{number}"))
        found.append(theirs(tmp_path / f"saved-{number}", torch.float32).state_dict())
    assert all(torch.equal(found[0][name], weight) for name, weight in found[1].items())
    assert (tmp_path / "0" / "checkpoint-3" / "config.json").is_file()


def test_lm_eval_scores_are_equal(folder, their_tokenizer):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'llama-jp[eval]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    context, text = "むかしむかし、", "クマがいました。"
    requests = {
        "loglikelihood": [(context, text), (context, "は"), ("", text)],
        "loglikelihood_rolling": [(context + text * 9,)],
        "generate_until": [(context, {"until": ["。"], "max_gen_toks": 6})],
    }
    config = SMALL | {"vocab_size": len(their_tokenizer), "head_dim": 16}
    large = save_random(folder / "large", seed=7, **config)
    models = [HFLM(pretrained=model, tokenizer=their_tokenizer, batch_size=2, max_length=64) for model in pair(large)]
    for kind, arguments in requests.items():
        results = [
            getattr(model, kind)([Instance(kind, {}, argument, i) for i, argument in enumerate(arguments)])
            for model in models
        ]
        assert results[0] == results[1], kind


def test_a_changed_model_goes_through_auto_classes(folder, tmp_path):
    """Only with trust_remote_code: to import a part is to run its module's code."""
    changed = llama_jp.Llama.from_pretrained(folder, dtype="float32", rope=no_positions)
    LlamaJpForCausalLM(changed).save_pretrained(tmp_path / "changed")
    with pytest.raises(ValueError, match="no_positions.*trust_parts.*trust_remote_code=True"):
        LlamaJpForCausalLM.from_pretrained(tmp_path / "changed")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "changed", trust_remote_code=True)
    ids = torch.randint(0, 96, (1, 9))
    assert type(again) is LlamaJpForCausalLM and torch.equal(again(ids).logits, changed(ids))
    plain, _ = pair(folder)
    assert not torch.equal(plain(ids).logits, again(ids).logits)


def test_a_forward_of_its_own_counts(folder):
    """Against: logits from hidden states and head, which leave out what a class does after them."""
    model = LlamaJpForCausalLM(Doubled.from_pretrained(folder, dtype="float32"))
    plain, _ = pair(folder)
    ids = torch.randint(0, 96, (1, 9))
    assert torch.equal(model(ids).logits, 2 * plain(ids).logits)
    assert torch.equal(model(ids, logits_to_keep=2).logits, 2 * plain(ids).logits[:, -2:])
    with pytest.raises(ValueError, match="Doubled computes its logits in a forward of its own"):
        model.model(ids)


def test_a_larger_vocabulary_is_saved(folder, tmp_path):
    model, _ = pair(folder)
    model.resize_token_embeddings(100, mean_resizing=False)
    model.save_pretrained(tmp_path)
    again = theirs(tmp_path, torch.float32)
    assert again.config.vocab_size == 100
    ids = torch.randint(0, 100, (1, 9))
    assert torch.equal(again(ids).logits, model(ids).logits)


def test_what_it_cannot_follow_is_refused(folder):
    model, _ = pair(folder)
    ids, past = torch.randint(0, 96, (2, 5)), transformers.DynamicCache(config=model.config)
    for arguments, sentence in (
        ({"attention_mask": torch.ones(2, 1, 5, 5)}, r"attention_mask is \(batch, tokens\), not \(2, 1, 5, 5\)"),
        ({"position_ids": torch.arange(3, 8)[None]}, r"as in \[0, 1, 2, 3\] …, and they are \[3, 4, 5, 6\]"),
        ({"output_attentions": True}, "output_attentions is not supported.*trace"),
        ({"output_hidden_states": True}, "output_hidden_states is not supported.*trace"),
        ({"past_key_values": transformers.StaticCache(model.config, 8)}, "caches that grow, and not a StaticCache"),
        ({"past_key_values": past, "cache": past}, "cache and past_key_values are two names of one argument"),
    ):
        with pytest.raises(ValueError, match=sentence):
            model(ids, **arguments)
    with pytest.raises(ValueError, match="input_ids and not inputs_embeds"):
        model(inputs_embeds=torch.zeros(1, 2, 24))
    with pytest.raises(ValueError, match="leave out cache_implementation"):
        model.generate(ids, max_new_tokens=2, cache_implementation="static")
    with pytest.raises(ValueError, match="does not take load_in_4bit"):
        LlamaJpForCausalLM.from_pretrained(folder, load_in_4bit=True)
    with pytest.raises(TypeError, match="wraps a llama_jp.Llama, not a LlamaConfig"):
        LlamaJpForCausalLM(transformers.LlamaConfig())
