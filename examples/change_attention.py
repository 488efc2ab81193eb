"""From an idea to a model: replace attention, measure, train, measure again, save, load. Run it in its own folder."""

import torch
import torch.nn.functional as F
from changes.sliding_window import attend_window
from torch import Tensor

from llama_jp import Llama, load
from llama_jp.evaluation.documents import Window, read_text


def losses(model: Llama, documents: list[Window]) -> Tensor:
    """The loss of each story token of some documents, packed into one row of T tokens: (N,)."""
    ids = torch.cat([document.ids for document in documents], 1)  # (1, T)
    mask = torch.cat([torch.full_like(document.ids, n) for n, document in enumerate(documents, 1)], 1)
    scored = torch.cat([F.pad(document.scored, (1, 0)) for document in documents])[1:]  # (T - 1,)
    return F.cross_entropy(model(ids, mask=mask)[0, :-1][scored], ids[0, 1:][scored], reduction="none")


@torch.no_grad()
def perplexity(model: Llama) -> float:
    return torch.cat([losses(model, row) for row in held_out]).mean().exp().item()


plain, tokenizer = load("demo", dtype="float32")
model = Llama.from_pretrained("demo", dtype="float32", attention=attend_window)
texts = [read_text(name, tokenizer, model.config).windows for name in ("calibration.ja.txt", "held-out.ja.txt")]
training, held_out = ([text[i : i + 4] for i in range(0, len(text), 4)] for text in texts)  # rows of four documents
print(f"perplexity: {perplexity(plain):.4f}, with the window {perplexity(model):.4f}")
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
for row in training:
    optimizer.zero_grad()
    losses(model, row).mean().backward()
    optimizer.step()
print(f"after {len(training)} steps: {perplexity(model):.4f}")
model.save_pretrained("checkpoints/window")
loaded = Llama.from_pretrained("checkpoints/window", dtype="float32", attention=attend_window)
print(f"loaded again: {perplexity(loaded):.4f}")
