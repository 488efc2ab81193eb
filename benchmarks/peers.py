"""The contenders of compare.py: this project and other implementations, each with the same methods.

A contender loads the same random weights in its own format, computes the prefill of prompts, and decodes greedily. Its
format is converted from the checkpoint at the first use and kept beside it. A contender whose package is not installed
is left out.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

WARM_UP_STEPS = 4  # decoding steps before those that are measured
THREADS = torch.get_num_threads()


def prompt_ids(rows: int, tokens: int) -> list[list[int]]:
    return torch.randint(300, 30000, (rows, tokens), generator=torch.Generator().manual_seed(0)).tolist()


def seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


class Contender:
    """An implementation to measure. `needs` names the packages that must be installed."""

    needs: tuple[str, ...] = ()
    max_batch: float = math.inf  # rows
    generate: Callable[[list[list[int]], int], None]  # decode a number of tokens greedily, without stopping early

    def prefill(self, tokens: int) -> float:
        """Seconds for a prompt, up to its next token."""
        return seconds(lambda: self.generate(prompt_ids(1, tokens), 1))

    def step(self, batch: int, steps: int, prompt: int) -> float:
        """Seconds of one decoding step of a batch after prompts of `prompt` tokens.

        Here it is the difference of a long and a short answer.
        """
        prompts = prompt_ids(batch, prompt)
        self.generate(prompts, WARM_UP_STEPS)
        short, long = (seconds(lambda n=n: self.generate(prompts, n)) for n in (WARM_UP_STEPS, WARM_UP_STEPS + steps))
        return max(long - short, 1e-9) / steps


class Ours(Contender):
    """llama_jp: as loaded, optimised at a level, quantised, with prompt lookup, with compiled static steps."""

    def __init__(
        self,
        folder: Path,
        dtype: str,
        level: str | None = None,
        bits: int | None = None,
        lookup: int = 0,
        compiled: bool = False,
    ):
        from llama_jp import Llama

        if bits is not None:
            folder = quantized(folder, bits)
        self.model = self.plain = Llama.from_pretrained(folder, dtype=dtype, device="cpu")
        self.compiled = compiled
        self.level, self.lookup = level, lookup
        self.optimized = self.prepared = None
        if lookup:
            self.max_batch = 1

    def prepare(self, rows: int) -> None:
        """Optimise for this number of rows per step, as a user with such batches would."""
        from llama_jp import optimize
        from llama_jp.speed.static_steps import StaticLlama

        if self.prepared == rows:
            return
        self.prepared = rows
        if self.optimized is not None:
            self.optimized.undo()
        if self.level is not None:
            self.optimized = optimize(self.plain, self.level, rows)
        if self.compiled:
            self.model = StaticLlama(self.plain)

    def generate(self, prompts: list[list[int]], tokens: int) -> None:
        from llama_jp import generate

        options = {"prompt_lookup_num_tokens": self.lookup} if self.lookup else {}
        generate(self.model, prompts, max_new_tokens=tokens, do_sample=False, eos_token_id=[], **options)

    def prefill(self, tokens: int) -> float:
        self.prepare(1)
        ids = torch.tensor(prompt_ids(1, tokens))
        with torch.inference_mode():
            return seconds(lambda: self.model(ids, self.model.new_cache(1, tokens), last_only=True))

    def step(self, batch: int, steps: int, prompt: int) -> float:
        from llama_jp.speed.benchmark import time_decoding

        self.prepare(batch * (1 + self.lookup))
        if self.lookup:
            return super().step(batch, steps, prompt)
        return time_decoding(self.model, batch, steps, 1, prompt).median


def quantized(folder: Path, bits: int) -> Path:
    from llama_jp.quantization.convert import quantize

    target = folder.with_name(f"{folder.name}-int{bits}")
    if not target.is_dir():
        quantize(folder, target, bits=bits)  # no tokenizer, so no certificate
    return target


class Transformers(Contender):
    """transformers' LlamaForCausalLM with its own `generate`."""

    needs = ("transformers",)

    def __init__(
        self, folder: Path, dtype: str, attention: str = "sdpa", cache: str = "dynamic", compiled: bool = False
    ):
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.model = transformers.LlamaForCausalLM.from_pretrained(
            folder, dtype=getattr(torch, dtype), attn_implementation=attention
        ).eval()
        self.options = {} if cache == "dynamic" else {"cache_implementation": cache, "disable_compile": not compiled}
        if compiled:
            config = transformers.CompileConfig(fullgraph=False, mode="default")
            config._compile_all_devices = True  # without it, generate does not compile on a CPU
            self.options["compile_config"] = config

    def step(self, batch: int, steps: int, prompt: int) -> float:
        ids, times = torch.tensor(prompt_ids(batch, prompt)), []

        def clock(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            times.append(time.perf_counter())
            return torch.zeros(len(ids), dtype=torch.bool)

        for _ in range(2):  # the first is a warm-up, and compiles
            times.clear()
            self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=WARM_UP_STEPS + steps,
                do_sample=False,
                pad_token_id=0,
                eos_token_id=None,
                stopping_criteria=[clock],
                **self.options,
            )
        return (times[-1] - times[WARM_UP_STEPS - 1]) / steps

    def prefill(self, tokens: int) -> float:
        ids = torch.tensor(prompt_ids(1, tokens))
        with torch.inference_mode():
            return seconds(lambda: self.model(ids, use_cache=True, logits_to_keep=1))


class GptFast(Contender):
    """gpt-fast's model from the checkout in GPT_FAST, with one step compiled as in its generate.py."""

    needs = ("tiktoken", "sentencepiece")  # imported by its quantize.py

    def __init__(self, folder: Path, dtype: str, int8: bool = False):
        if (checkout := os.environ["GPT_FAST"]) not in sys.path:
            sys.path.insert(0, checkout)
        from model import ModelArgs, Transformer

        from llama_jp.checkpoint.config import read_config
        from llama_jp.checkpoint.layouts import find_tensors
        from llama_jp.checkpoint.tensors import read_tensors

        c = read_config(folder)
        args = ModelArgs(
            vocab_size=c.vocab_size,
            n_layer=c.num_hidden_layers,
            n_head=c.num_attention_heads,
            dim=c.hidden_size,
            intermediate_size=c.intermediate_size,
            n_local_heads=c.num_key_value_heads,
            rope_base=c.rope_theta,
            norm_eps=c.rms_norm_eps,
        )
        with torch.device("meta"):
            self.model = Transformer(args)
        tensors = read_tensors(find_tensors(folder), getattr(torch, dtype), torch.device("cpu"))
        self.model.load_state_dict(dict(gpt_fast_names(tensors, c)), assign=True)
        if int8:
            from quantize import WeightOnlyInt8QuantHandler

            handler = WeightOnlyInt8QuantHandler(self.model)
            state = handler.create_quantized_state_dict()
            self.model = handler.convert_for_runtime()
            self.model.load_state_dict(state, assign=True)

    def prefill(self, tokens: int) -> float:
        self.model.setup_caches(1, tokens)
        ids = torch.tensor(prompt_ids(1, tokens))
        return seconds(lambda: self.model(ids, torch.arange(tokens)))

    def step(self, batch: int, steps: int, prompt: int) -> float:
        self.model.setup_caches(batch, prompt + steps + WARM_UP_STEPS)
        compiled = torch.compile(self.next_token, mode="reduce-overhead", fullgraph=True)
        tokens = self.next_token(torch.tensor(prompt_ids(batch, prompt)), torch.arange(prompt))

        def decode(begin: int, end: int) -> None:
            nonlocal tokens
            for position in range(begin, end):
                tokens = compiled(tokens, torch.tensor([position]))

        first = prompt + WARM_UP_STEPS
        decode(prompt, first)
        return seconds(lambda: decode(first, first + steps)) / steps

    def next_token(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return self.model(ids, positions)[:, -1:].argmax(-1)


def gpt_fast_names(tensors: dict[str, torch.Tensor], config) -> Iterator[tuple[str, torch.Tensor]]:
    """gpt-fast's names, and q and k rows in Meta's order, which rotates neighbours instead of split halves."""
    parts = {"q_proj": "attention.wq", "k_proj": "attention.wk", "v_proj": "attention.wv", "o_proj": "attention.wo"}
    parts |= {"gate_proj": "feed_forward.w1", "up_proj": "feed_forward.w3", "down_proj": "feed_forward.w2"}
    parts |= {"input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm"}
    parts |= {"embed_tokens": "tok_embeddings", "norm": "norm", "lm_head": "output"}
    for name, tensor in tensors.items():
        *parents, part, _ = name.split(".")
        if part in ("q_proj", "k_proj"):
            tensor = tensor.view(-1, 2, config.head_dim // 2, config.hidden_size).transpose(1, 2).flatten(0, 2)
        yield ".".join([*parents[:2], parts[part], "weight"]), tensor


class LlamaCpp(Contender):
    """llama.cpp through llama-cpp-python's low-level functions, on a GGUF file made from the same weights."""

    needs = ("llama_cpp", "gguf")

    def __init__(self, folder: Path, dtype: str, kind: str):
        import llama_cpp

        self.lib = llama_cpp
        llama_cpp.llama_backend_init()
        silence = llama_cpp.llama_log_callback(lambda level, text, data: None)
        self.silence = silence  # kept alive for as long as llama.cpp may call it
        llama_cpp.llama_log_set(silence, ctypes.c_void_p(0))
        file = gguf_file(folder, kind)
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())

    def context(self, rows: int, length: int):
        parameters = self.lib.llama_context_default_params()
        parameters.n_ctx = rows * (length + 8)
        parameters.n_batch = rows * length
        parameters.n_ubatch = 512
        parameters.n_seq_max = rows
        parameters.n_threads = parameters.n_threads_batch = THREADS
        return self.lib.llama_init_from_model(self.model, parameters)

    def decode(self, context, tokens: list[tuple[int, int, int]], wanted: set[int]) -> None:
        """Run (token, position, row) triples, with logits at the indices in `wanted`."""
        batch = self.lib.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, (token, position, row) in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0] = row
            batch.logits[i] = i in wanted
        status = self.lib.llama_decode(context, batch)
        self.lib.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")

    def prefill(self, tokens: int) -> float:
        context = self.context(1, tokens)
        triples = [(token, i, 0) for i, token in enumerate(prompt_ids(1, tokens)[0])]
        duration = seconds(lambda: self.decode(context, triples, {tokens - 1}))
        self.lib.llama_free(context)
        return duration

    def step(self, batch: int, steps: int, prompt: int) -> float:
        context = self.context(batch, prompt + steps + WARM_UP_STEPS)
        prompts = prompt_ids(batch, prompt)
        triples = [(token, i, row) for row, ids in enumerate(prompts) for i, token in enumerate(ids)]
        self.decode(context, triples, {len(triples) - 1})
        vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        next_tokens = [300] * batch

        def step(position: int) -> None:
            self.decode(context, [(t, position, row) for row, t in enumerate(next_tokens)], set(range(batch)))
            for row in range(batch):
                logits = self.lib.llama_get_logits_ith(context, row)
                scores = (ctypes.c_float * vocabulary).from_address(ctypes.addressof(logits.contents))
                next_tokens[row] = int(torch.frombuffer(scores, dtype=torch.float32).argmax())

        first = prompt + WARM_UP_STEPS
        for position in range(prompt, first):
            step(position)
        duration = seconds(lambda: [step(position) for position in range(first, first + steps)])
        self.lib.llama_free(context)
        return duration / steps


def gguf_file(folder: Path, kind: str) -> Path:
    """The checkpoint as a GGUF file: F16, BF16 and F32 written here, the others by llama.cpp's quantiser from F16."""
    file = folder.with_name(f"{folder.name}-{kind}.gguf")
    if file.is_file():
        return file
    if kind in ("F16", "BF16", "F32"):
        write_gguf(folder, file, kind)
        return file
    import llama_cpp

    kinds = {"Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15}  # llama.h: enum llama_ftype
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.nthread, parameters.ftype = THREADS, kinds[kind]
    source = gguf_file(folder, "F16")
    if llama_cpp.llama_model_quantize(str(source).encode(), str(file).encode(), ctypes.byref(parameters)):
        raise RuntimeError(f"llama.cpp could not make {kind} of {source.name}")
    return file


def write_gguf(folder: Path, file: Path, kind: str) -> None:
    """Write llama.cpp's names and shapes. The vocabulary is a dummy, since nothing is tokenised."""
    import gguf

    from llama_jp.checkpoint.config import read_config
    from llama_jp.checkpoint.layouts import find_tensors
    from llama_jp.checkpoint.tensors import read_tensors

    config, stored = read_config(folder), find_tensors(folder)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces += [f"t{i}" for i in range(config.vocab_size - len(pieces))]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(pieces)
    writer.add_token_scores([0.0] * len(pieces))
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * (len(pieces) - 259))
    types = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    parts = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    parts |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    parts |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    for name in stored:
        words = name.split(".")
        new = f"blk.{words[1]}.{parts[words[-2]]}" if words[0] == "layers" else names[words[0]]
        tensor = read_tensors({name: stored[name]}, stored[name].dtype, torch.device("cpu"))[name]
        if tensor.dim() == 1 or kind != "BF16":
            tensor = tensor.to(torch.float32 if tensor.dim() == 1 else types[kind])
            writer.add_tensor(f"{new}.weight", tensor.numpy())
        else:
            raw = tensor.to(torch.bfloat16).view(torch.uint8).numpy()
            writer.add_tensor(f"{new}.weight", raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class CTranslate2(Contender):
    """CTranslate2's Generator; its converter is called directly, with a dummy vocabulary."""

    needs = ("ctranslate2", "transformers")

    def __init__(self, folder: Path, dtype: str, kind: str):
        import ctranslate2

        target = folder.with_name(f"{folder.name}-ct2-{kind}")
        if not target.is_dir():
            self.convert(folder, target, kind)
        self.generator = ctranslate2.Generator(
            str(target), device="cpu", compute_type=kind, inter_threads=1, intra_threads=THREADS
        )

    @staticmethod
    def convert(folder: Path, target: Path, kind: str) -> None:
        from ctranslate2.converters.transformers import LlamaLoader
        from transformers import LlamaForCausalLM

        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
        model.config.rope_theta, model.config.rope_scaling = 10000.0, None  # the converter uses these attributes
        with torch.no_grad():
            spec = LlamaLoader().get_model_spec(model)
        spec.register_vocabulary(["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(model.config.vocab_size - 3))])
        spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "<s>", "</s>", "<unk>"
        spec.validate()
        spec.optimize(quantization=kind)
        target.mkdir()
        spec.save(str(target))

    def generate(self, prompts: list[list[int]], tokens: int) -> None:
        words = [["<s>", *(f"t{token}" for token in prompt[1:])] for prompt in prompts]
        options = {"max_length": tokens, "min_length": tokens, "beam_size": 1, "include_prompt_in_result": False}
        self.generator.generate_batch(words, **options)


def contenders(dtype: str) -> dict[str, Callable[[Path], Contender]]:
    """All contenders for weights of this dtype, by name."""
    ours = {
        "llama_jp": lambda f: Ours(f, dtype),
        "llama_jp, exact": lambda f: Ours(f, dtype, "exact"),
        "llama_jp, close": lambda f: Ours(f, dtype, "close"),
        "llama_jp, compiled": lambda f: Ours(f, dtype, compiled=True),
        "llama_jp, close, compiled": lambda f: Ours(f, dtype, "close", compiled=True),
    }
    theirs = {
        "transformers": lambda f: Transformers(f, dtype),
        "transformers, eager attention": lambda f: Transformers(f, dtype, "eager"),
        "transformers, static cache": lambda f: Transformers(f, dtype, cache="static"),
        "transformers, compiled": lambda f: Transformers(f, dtype, cache="static", compiled=True),
        "gpt-fast, compiled": lambda f: GptFast(f, dtype),
    }
    if dtype == "float32":
        return ours | theirs | {"llama.cpp F32": lambda f: LlamaCpp(f, dtype, "F32")}
    ours |= {
        "llama_jp, int8 as loaded": lambda f: Ours(f, dtype, bits=8),
        "llama_jp, int8": lambda f: Ours(f, dtype, "int8", bits=8),
        "llama_jp, int4 as loaded": lambda f: Ours(f, dtype, bits=4),
        "llama_jp, int4": lambda f: Ours(f, dtype, "int8", bits=4),
        "llama_jp, exact, lookup": lambda f: Ours(f, dtype, "exact", lookup=7),
        "llama_jp, int8, lookup": lambda f: Ours(f, dtype, "int8", bits=8, lookup=7),
    }
    theirs["gpt-fast int8, compiled"] = lambda f: GptFast(f, dtype, int8=True)
    cpp = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_K_M")
    theirs |= {f"llama.cpp {kind}": lambda f, kind=kind: LlamaCpp(f, dtype, kind) for kind in cpp}
    return ours | theirs | {"CTranslate2 int8": lambda f: CTranslate2(f, dtype, "int8")}


def missing_packages(name: str) -> tuple[str, ...]:
    """The packages that a contender needs and that are not installed."""
    kinds = {"llama_jp": Ours, "transformers": Transformers, "gpt-fast": GptFast, "llama.cpp": LlamaCpp}
    kinds["CTranslate2"] = CTranslate2
    kind = next(kind for prefix, kind in kinds.items() if name.startswith(prefix))
    missing = tuple(package for package in kind.needs if importlib.util.find_spec(package) is None)
    return missing if kind is not GptFast or "GPT_FAST" in os.environ else (*missing, "a checkout in GPT_FAST")
