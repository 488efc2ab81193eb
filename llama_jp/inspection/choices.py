"""How each new token was chosen: the distribution before and after every filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..generation.filters import Filter

ROWS = 8  # the most probable tokens before the first and after the last filter


@torch.no_grad()
def explain_choices(
    filters: Mapping[str, Filter], ids: Sequence[int], logits: Sequence[Tensor], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Apply the filters again, one after the other, to the logits that the model gave for each new token.

    filters   by the names of their options, in their order
    ids       prompt and answer
    logits    (V,) for each token of the answer, before any filter
    settings  the values of the options, for display
    """
    choices = []
    begin = len(ids) - len(logits)
    for number, before in enumerate(logits):
        text = torch.tensor([list(ids[: begin + number])], device=before.device)
        stages = [("", None, before[None])]
        for name, each in filters.items():
            stages.append((name, settings.get(name), each(text, stages[-1][2])))
        distributions = [scores[0].softmax(-1) for _, _, scores in stages]
        chosen = ids[begin + number]
        shown = {chosen: None}
        for distribution in (distributions[0], distributions[-1]):
            most = min(ROWS, int((distribution > 0).sum()))  # no removed tokens among the most probable ones
            shown |= dict.fromkeys(distribution.topk(most).indices.tolist())
        rows = sorted(shown, key=lambda token: -float(distributions[0][token]))
        choices.append(
            {
                "chosen": chosen,
                "ids": rows,
                "stages": [
                    {
                        "option": name,
                        "value": value if isinstance(value, int | float) else None,
                        "kept": int((p > 0).sum()),
                        "p": [round(float(p[token]), 6) for token in rows],
                    }
                    for (name, value, _), p in zip(stages, distributions, strict=True)
                ],
            }
        )
    return choices
