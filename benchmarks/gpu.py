"""One GPU: parity with transformers, prefill, and decoding at batch 1 beside transformers and the memory's limit.

    benchmarks/gpu.sh [--tiny]

`--tiny` runs every section with tiny shapes on the CPU. Weights are random, of ELYZA's shapes, made on the device. An
H100 takes under four minutes; its tables are in RESULTS.md. Sections are independent: a failure is reported in one
line, and a section that would begin after `--seconds` is left out. Tables come last, and one JSON line after them.

Decoding is measured through the `generate` of each implementation, as the difference of a long and a short answer. MBU
is the bytes of weights per token times the tokens per second, as a share of the bandwidth. The bandwidth is that of a
sum over memory in the same run.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib.util
import json
import signal
import statistics
import sys
import time
import types
from collections.abc import Callable

import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn

for module in ("sentencepiece", "tokenizers", "tqdm"):  # no text is used here, and a bare machine may lack them
    if importlib.util.find_spec(module) is None:
        sys.modules[module] = types.ModuleType(module)
        sys.modules[module].tqdm = None

from llama_jp import (  # noqa: E402
    Llama,
    LlamaConfig,
    generate,
)
from llama_jp.checkpoint.random_checkpoint import ELYZA, random_config, random_ids  # noqa: E402
from llama_jp.numerics import difference  # noqa: E402
from llama_jp.speed.static_steps import StaticLlama  # noqa: E402

GROUP = 128  # int4: weights that share a scale


class Bench:
    """The state of all sections: the device, the sizes, and the rows of the tables."""

    def __init__(self, tiny: bool, seconds: float):
        self.tiny, self.ends = tiny, time.monotonic() + seconds
        self.device = torch.device("cpu" if tiny else "cuda")
        self.dtype = torch.bfloat16
        self.config = (
            random_config("tiny", num_key_value_heads=4, hidden_size=128, intermediate_size=128) if tiny else ELYZA
        )
        self.lengths = (16, 32) if tiny else (512, 2048)
        self.new_tokens = (2, 8) if tiny else (16, 80)
        self.tables: dict[str, list[dict]] = {}
        self.bandwidth = self.peak = float("nan")
        self.answer: list[int] = []  # of the first implementation; others differ from it after the first near tie

    def section(self, run: Callable[[Bench], None]) -> None:
        name = run.__name__.replace("_", " ")
        begun = time.monotonic()
        if begun > self.ends:
            print(f"{name}: left out, the time is over", flush=True)
            return
        try:
            with torch.no_grad():
                run(self)
            print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)
        except Exception as error:
            print(f"{name}: failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def row(self, table: str, **cells) -> None:
        self.tables.setdefault(table, []).append(cells)

    def seconds(self, run: Callable[[], object], repeats: int = 5) -> float:
        """The median of several runs, after one run as a warm-up."""
        times = []
        for _ in range(repeats + 1):
            self.wait()
            begun = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - begun)
        return statistics.median(times[1:])

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def graphed(self, run: Callable[[], object]) -> Callable[[], object]:
        """`run` as one CUDA graph; on the CPU, `run` itself."""
        if self.device.type == "cpu":
            return run
        run()
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return graph.replay

    def model(self) -> Llama:
        """The large model, made once, so that every section has the same weights."""
        if not hasattr(self, "large"):
            self.large = random_model(self.config, self.dtype, self.device)
        return self.large

    def decode(self, name: str, answer: Callable[[int], list[int]], weights: int, repeats: int = 3) -> None:
        """Measure `answer(new_tokens)` for two lengths; the difference is decoding alone."""
        short, long = self.new_tokens
        begun = time.perf_counter()
        tokens = answer(long)
        warm_up = time.perf_counter() - begun
        self.answer = self.answer or tokens
        equal = next((i for i in range(long) if tokens[i] != self.answer[i]), long)
        spent = {n: self.seconds(lambda n=n: answer(n), repeats) for n in self.new_tokens}
        self.decoded(name, (spent[long] - spent[short]) / (long - short), weights, warm_up, f"{equal} of {long}")

    def decoded(self, name: str, step: float, weights: int, warm_up: float, equal: str = "") -> None:
        share = weights / step / self.bandwidth
        self.row("decoding, batch 1", implementation=name, ms=step * 1e3, tokens_per_s=1 / step, gb=weights / 1e9,
                 MBU=share, first_call_s=warm_up, tokens_equal_to_the_first=equal)  # fmt: skip


def random_model(config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> Llama:
    """Random weights made on the device, scaled so that every layer contributes to the output."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Llama(config)
    model = model.to(dtype).to_empty(device=device).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            parameter.data.normal_(1, 0.1)
        else:
            parameter.data.normal_(0, 0.02 if name.startswith("embed") else parameter.shape[1] ** -0.5)
    return model


def reference(model: Llama, attention: str):
    """transformers' model with the same tensors."""
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    weight = model.embed_tokens.weight
    ours = {key: value for key, value in dataclasses.asdict(model.config).items() if key != "torch_dtype"}
    theta = ours.pop("rope_theta")
    ours.pop("rope_scaling")
    config = TheirConfig(**ours, rope_parameters={"rope_type": "default", "rope_theta": theta})
    config._attn_implementation = attention
    with torch.device("meta"):
        theirs = LlamaForCausalLM(config)
    names = {name: name if name.startswith("lm_head") else f"model.{name}" for name in model.state_dict()}
    theirs.load_state_dict({names[name]: tensor for name, tensor in model.state_dict().items()}, assign=True)
    theirs.model.rotary_emb = LlamaRotaryEmbedding(config).to(weight.device)
    theirs.generation_config.update(pad_token_id=0, eos_token_id=None, bos_token_id=1)
    return theirs.eval()


def linear_weights(model: nn.Module) -> int:
    """Bytes of weights per token: all buffers and parameters of the linear layers, in any format."""
    layers = (m for m in model.modules() if isinstance(m, nn.Linear | Int8Linear | Int4Linear))
    return sum(t.nbytes for layer in layers for t in (*layer.parameters(), *layer.buffers()))


# ---- the machine


def the_device(bench: Bench) -> None:
    size = 1 << (22 if bench.tiny else 32)  # bytes
    memory = torch.zeros(size // 4, dtype=torch.float32, device=bench.device)
    seconds = bench.seconds(bench.graphed(lambda: memory.sum()))
    bench.bandwidth = size / seconds
    n = 256 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device, dtype=bench.dtype) for _ in range(2))
    bench.peak = 2 * n**3 / bench.seconds(lambda: a @ b, 10)
    name = "CPU, tiny" if bench.tiny else torch.cuda.get_device_name()
    bench.row("the device", name=name, read_gb_s=bench.bandwidth / 1e9, bf16_tflop_s=bench.peak / 1e12)


# ---- parity with transformers


def parity(bench: Bench) -> None:
    wide = bench.config if bench.tiny else dataclasses.replace(ELYZA, num_hidden_layers=2)
    shapes = {"tiny": random_config("tiny"), "ELYZA's width": wide}
    torch.backends.cuda.matmul.allow_tf32 = False
    for (shape, config), dtype in ((s, d) for s in shapes.items() for d in (torch.float32, torch.bfloat16)):
        for attention in ("sdpa", "eager"):
            model = random_model(config, dtype, bench.device)
            ours = Llama(dataclasses.replace(config, num_hidden_layers=1), attention=attention)
            for layer in model.layers:
                layer.self_attn.attend = ours.layers[0].self_attn.attend
            calls = dict(compare_calls(model, reference(model, attention)))
            for call, found in calls.items():
                bench.row("parity with transformers", shape=shape, dtype=str(dtype)[6:], attention=attention, call=call,
                          equal=found.equal, max_ulp=found.max_ulp, median_ulp=found.median_ulp,
                          max_difference=found.max_value)  # fmt: skip


def compare_calls(model: Llama, theirs):
    """Compare the logits of a whole text, and of the same text as a prompt and cached steps."""
    from transformers import DynamicCache

    from llama_jp.bridge import CACHE

    device = model.embed_tokens.weight.device
    ids = random_ids(model.config, 2, 48).to(device)
    yield "whole", difference(model(ids), theirs(ids).logits)
    cache, past = model.new_cache(2, 48), DynamicCache(config=theirs.config)
    parts = ids.split([40] + [1] * 8, dim=1)
    ours = [model(part, cache) for part in parts]
    yield (
        "steps",
        difference(
            torch.cat(ours, 1),
            torch.cat([theirs(part, **{CACHE: past}, use_cache=True).logits for part in parts], 1),
        ),
    )


# ---- prompts


def prefill(bench: Bench) -> None:
    model = bench.model()
    theirs = reference(model, "sdpa")
    c = model.config
    for length in bench.lengths:
        ids = random_ids(c, 1, length).to(bench.device)
        cache = model.new_cache(1, length)

        def ours(ids=ids, cache=cache):
            cache.crop(0)
            return model(ids, cache, last_only=True)

        linear = linear_weights(model.layers) // model.embed_tokens.weight.element_size()
        attention = 2 * length**2 * c.num_attention_heads * c.head_dim * c.num_hidden_layers  # half of it is masked
        work = 2 * linear * length + attention
        implementations = {
            "llama_jp": ours,
            "transformers": lambda ids=ids: theirs(ids, use_cache=True, logits_to_keep=1),
        }
        for name, run in implementations.items():
            seconds = bench.seconds(run)
            bench.row("prefill, batch 1", tokens=length, implementation=name, ms=seconds * 1e3,
                      tokens_per_s=length / seconds, tflop_s=work / seconds / 1e12,
                      of_peak=work / seconds / bench.peak)  # fmt: skip


# ---- decoding


def prompt_of(bench: Bench) -> list[int]:
    return random_ids(bench.config, 1, 32)[0].tolist()


def ours_answering(bench: Bench, model: Llama) -> Callable[[int], list[int]]:
    prompt = prompt_of(bench)
    return lambda n: generate(model, [prompt], max_new_tokens=n, do_sample=False, eos_token_id=None)[0].ids


def decoding_by_llama_jp(bench: Bench) -> None:
    model = bench.model()
    bench.decode("llama_jp, eager", ours_answering(bench, model), linear_weights(model))


def decoding_by_llama_jp_static(bench: Bench) -> None:
    model = StaticLlama(bench.model(), compile=False)
    bench.decode("llama_jp, static (CUDA graph)", ours_answering(bench, model), linear_weights(model))


def decoding_by_llama_jp_compiled(bench: Bench) -> None:
    model = StaticLlama(bench.model())
    bench.decode("llama_jp, static, compiled", ours_answering(bench, model), linear_weights(model))


def the_upper_bound(bench: Bench) -> None:
    """Only the matrix–vector products, on the same bytes, in one CUDA graph."""
    model = bench.model()
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    inputs = {w.shape[1]: torch.randn(w.shape[1], device=w.device, dtype=w.dtype) for w in weights}
    step = bench.graphed(lambda: [torch.mv(w, inputs[w.shape[1]]) for w in weights])
    bench.decoded("products alone (upper bound)", bench.seconds(step), linear_weights(model), 0.0)


def decoding_by_transformers(bench: Bench) -> None:
    model = bench.model()
    bench.decode("transformers, dynamic", theirs_answering(bench), linear_weights(model))


def decoding_by_transformers_compiled(bench: Bench) -> None:
    model = bench.model()
    bench.decode("transformers, static, compiled", theirs_answering(bench, static=True), linear_weights(model))


def theirs_answering(bench: Bench, static: bool = False) -> Callable[[int], list[int]]:
    theirs = reference(bench.model(), "sdpa")
    ids = torch.tensor([prompt_of(bench)], device=bench.device)
    options = {"do_sample": False, "attention_mask": torch.ones_like(ids)}
    if static:
        options["cache_implementation"] = "static"  # generate compiles it on a GPU
    prompt = ids.shape[1]
    return lambda n: theirs.generate(ids, min_new_tokens=n, max_new_tokens=n, **options)[0, prompt:].tolist()


# ---- int8 and int4 weights


class Int8Linear(nn.Module):
    """int8 weights with a scale per row. When compiled, the conversion to floats is fused into the product."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.float()
        scale = weight.abs().amax(1).clamp(min=1e-8) / 127
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale.to(linear.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype)) * self.scale


class Int4Linear(nn.Module):
    """int4 weights with a scale and a zero per group of a row, multiplied by torch's tinygemm kernel."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        N, K = linear.weight.shape
        groups = linear.weight.float().reshape(N, -1, min(GROUP, K))
        self.group = groups.shape[2]
        low, high = groups.amin(-1), groups.amax(-1)
        scale = ((high - low) / 15).clamp(min=1e-6)
        number = ((groups - low[..., None]) / scale[..., None]).round().clamp(0, 15).to(torch.int32).reshape(N, K)
        zero = low + 8 * scale  # the value of 8, the middle of the sixteen numbers
        both = torch.stack([scale, zero], -1).transpose(0, 1).contiguous().to(torch.bfloat16)  # (groups, N, 2)
        if linear.weight.is_cuda:
            pairs = (number[:, ::2] << 4 | number[:, 1::2]).to(torch.uint8)
            packed = torch._convert_weight_to_int4pack(pairs, 8)
        else:
            packed = torch._convert_weight_to_int4pack_for_cpu(number, 1)
        self.register_buffer("packed", packed)
        self.register_buffer("both", both)
        self.N = N

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        product = torch._weight_int4pack_mm if rows.is_cuda else torch._weight_int4pack_mm_for_cpu
        return product(rows, self.packed, self.group, self.both).view(*x.shape[:-1], self.N)


def quantized(model: Llama, form: type[nn.Module], worst: float) -> StaticLlama:
    """A copy of the model with quantised linear layers. ValueError if their error exceeds `worst`."""
    other = copy.copy(model)
    other._modules = dict(model._modules)
    other.layers = nn.ModuleList()
    for layer in model.layers:
        layer = copy.copy(layer)
        layer._modules = {name: copy.copy(part) for name, part in layer._modules.items()}
        for part in (layer.self_attn, layer.mlp):
            part._modules = {
                name: form(linear) if isinstance(linear, nn.Linear) else linear
                for name, linear in part._modules.items()
            }
        other.layers.append(layer)
    other.lm_head = form(model.lm_head)
    x = torch.randn(1, 4, model.config.hidden_size, device=model.norm.weight.device, dtype=model.norm.weight.dtype)
    exact, found = model.layers[0].mlp.up_proj(x).float(), other.layers[0].mlp.up_proj(x).float()
    if (error := ((found - exact).norm() / exact.norm()).item()) > worst:
        raise ValueError(f"{form.__name__} has a relative error of {error:.3f}; at most {worst} is expected")
    return StaticLlama(other)


def decoding_with_int8_weights(bench: Bench) -> None:
    model = quantized(bench.model(), Int8Linear, 0.03)
    bench.decode("llama_jp, int8 weights, compiled", ours_answering(bench, model), linear_weights(model))


def decoding_with_int4_weights(bench: Bench) -> None:
    model = quantized(bench.model(), Int4Linear, 0.2)
    bench.decode("llama_jp, int4 weights, compiled", ours_answering(bench, model), linear_weights(model))


# ---- the tables


def show(table: str, rows: list[dict]) -> None:
    def text(value: object) -> str:
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    columns = list(rows[0])
    cells = [columns] + [[text(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{table}")
    for line in cells:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--seconds", type=float, default=380, help="begin no section after this time (default: 380)")
    args = parser.parse_args()
    if not args.tiny and not torch.cuda.is_available():
        raise SystemExit("this machine has no CUDA GPU; --tiny runs every section on the CPU")
    torch._inductor.config.coordinate_descent_tuning = True  # makes int8 kernels faster, and one block is tuned quickly
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the time is over"))
    bench = Bench(args.tiny, args.seconds)
    try:
        for section in (
            the_device,
            parity,
            prefill,
            the_upper_bound,
            decoding_by_llama_jp,
            decoding_by_llama_jp_static,
            decoding_by_llama_jp_compiled,
            decoding_by_transformers,
            decoding_with_int8_weights,
            decoding_with_int4_weights,
            decoding_by_transformers_compiled,
        ):
            bench.section(section)
    finally:  # also when the time is over: print the results so far
        report(bench)


def report(bench: Bench) -> None:
    import transformers

    for table, rows in bench.tables.items():
        show(table, rows)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__, "tiny": bench.tiny}
    print(json.dumps(versions | {"tables": bench.tables}))


if __name__ == "__main__":
    main()
