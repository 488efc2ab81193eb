"""Quantise the bundled model to int4, read the certificate, and check it as anybody else could.

The certificate measures the quantised model against its original on a named text. `verify` measures again.
"""

import json
import tempfile
from pathlib import Path

import llama_jp
from llama_jp.quantization import verify

with tempfile.TemporaryDirectory() as parent:
    folder = Path(parent) / "demo-int4"
    llama_jp.quantize("demo", folder, bits=4, group_size=64)

    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    result = json.loads((folder / "certificate.json").read_text(encoding="utf-8"))["result"]
    print(f"weights            {size / 1e6:.1f} MB")
    print(f"KL divergence      {result['kl_divergence']:.6f} nats a token")
    print(f"top-1 agreement    {result['top1_agreement']:.2%}")
    print(f"perplexity         {result['perplexity']['original']:.4f} -> {result['perplexity']['quantized']:.4f}")

    print(f"measured again, equal to the certificate: {verify(folder).equal}")
