"""Reward head: one number for a text, trained on pairs. See: "InstructGPT", arXiv:2203.02155, 3.5.

    loss = -log σ(reward(chosen) - reward(rejected))        the Bradley-Terry model

A new parameter, `reward_head.weight` (1, C), maps the last hidden state to the reward. The logits do not change.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_jp import Llama, LlamaConfig


class RewardLlama(Llama):
    def __init__(self, config: LlamaConfig, **functions: Any):
        super().__init__(config, **functions)
        self.reward_head = nn.Linear(config.hidden_size, 1, bias=False)

    def rewards(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The reward of each row: ids (B, T), mask (B, T) of zeros (padding, on either side) and ones -> (B,)."""
        mask = torch.ones_like(ids) if mask is None else mask
        last = (mask.bool() * torch.arange(ids.shape[1], device=ids.device)).argmax(-1)  # (B,)
        hidden = self.hidden(ids, mask=mask)  # (B, T, C)
        return self.reward_head(hidden[torch.arange(len(ids)), last])[:, 0]


def pairwise_loss(model: RewardLlama, chosen: Tensor, rejected: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean loss of pairs (chosen[i], rejected[i]) with one shape (B, T). mask (2B, T): chosen, then rejected."""
    better, worse = model.rewards(torch.cat([chosen, rejected]), mask).chunk(2)  # (B,)
    return -F.logsigmoid(better - worse).mean()


def make() -> Llama:
    return RewardLlama.from_pretrained("demo", missing="initialise")
