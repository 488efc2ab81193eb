"""The mode `gradients`: compare the loss and the gradient of every parameter."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model import LlamaConfig
from ...numerics import all_finite, difference, same_bits
from ...tracing import named_modules
from ..comparison import Comparison, Tolerance, sha256_of
from ..judge.findings import Finding
from ..judge.float64_reference import distance, exact_model, exceeds_rounding
from ..judge.weights import same_weights
from ..operations import operations_of
from ..run.models import ComparedModel, with_distinct_names
from ..run.recording import torch_threads
from .forward import compare


class LossAndGradients(NamedTuple):
    """The loss of one model in nats, and its gradient for every parameter by the name of its point."""

    loss: Tensor  # ()
    gradients: dict[str, Tensor]


def compare_gradients(
    first: ComparedModel, second: ComparedModel, ids: Tensor, config: LlamaConfig, tolerance: Tolerance
) -> Comparison:
    """Compare the next-token cross entropy of ids (B, T) and its gradients, in the order of backpropagation.

    When the losses differ, `compare` looks for a bug in the forward pass, which would explain the gradients as well.
    Raises ValueError for a model without parameters, and for rows of one token, which have no next token.
    """
    if ids.shape[1] < 2:
        raise ValueError("a row of 1 token has no next token, so no loss and no gradients; give at least 2 tokens")
    first, second = with_distinct_names(first, second)
    a, b = loss_and_gradients(first, ids), loss_and_gradients(second, ids)
    loss = difference(a.loss[None, None], b.loss[None, None])
    names = [
        f"{op.weight}.{parameter}"
        for op in reversed(operations_of(config))
        if op.weight
        for parameter in ("weight", "bias")
        if f"{op.weight}.{parameter}" in a.gradients and f"{op.weight}.{parameter}" in b.gradients
    ]
    differing = [name for name in names if not same_bits(a.gradients[name], b.gradients[name])]
    finite = bool(a.loss.isfinite() and b.loss.isfinite())
    forward = [] if loss.equal and finite else compare(first, second, ids, config=config).findings
    findings = [each for each in forward if each.verdict in ("bug", "non-finite")]
    if finite:
        findings += non_finite_gradients(first.name, second.name, names, a.gradients, b.gradients)
    if differing and finite:
        findings += judge_gradients(first, second, ids, config, a.gradients, b.gradients, differing)
    verdicts = {each.verdict for each in findings}
    verdict = next((each for each in ("bug", "non-finite", "rounding") if each in verdicts), "equal")
    if verdict == "equal" and not loss.equal:
        verdict = "rounding"
    counts = f"{len(differing)} of {len(names)} gradients differ"
    return Comparison(
        "gradients",
        verdict,
        (first.describe(), second.describe()),
        loss,
        findings=findings,
        tolerance=tolerance,
        notes=[f"loss {float(a.loss):.6f} and {float(b.loss):.6f}; {counts}"],
        sha256=[sha256_of([each.loss, *each.gradients.values()]) for each in (a, b)],
    )


def non_finite_gradients(
    first: str, second: str, names: list[str], a: dict[str, Tensor], b: dict[str, Tensor]
) -> list[Finding]:
    """The first gradient with NaN or infinite numbers, in the order of backpropagation."""
    for name in names:
        models = [model for model, gradients in ((first, a), (second, b)) if not all_finite(gradients[name])]
        if models:
            layer = int(name.split(".")[1]) if name.startswith("layers.") else None
            where = "both models" if len(models) == 2 else models[0]
            cause = f"the loss is finite, and this gradient has NaN or infinite numbers in {where}"
            return [Finding(name, "gradient", layer, 0, "non-finite", cause=cause)]
    return []


def loss_and_gradients(model: ComparedModel, ids: Tensor) -> LossAndGradients:
    """The loss and all gradients. The model's own `requires_grad` and `grad` stay as they are."""
    if model.module is None:
        raise ValueError(f"{model.name} shows no parameters, so it has no gradients to compare")
    parameters = {
        f"{path}.{name}": value
        for path, module in named_modules(model.module).items()
        for name, value in module.named_parameters(recurse=False)
    }
    required = {name: value.requires_grad for name, value in parameters.items()}
    try:
        with torch_threads(model.settings.threads), torch.enable_grad():
            for value in parameters.values():
                value.requires_grad_(True)
            loss = next_token_loss(model.run_whole(ids), ids)
            gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for name, value in parameters.items():
            value.requires_grad_(required[name])
    by_name = {}
    for (name, value), gradient in zip(parameters.items(), gradients, strict=True):
        by_name[name] = torch.zeros_like(value) if gradient is None else gradient
    return LossAndGradients(loss.detach(), by_name)


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross entropy of the next token in nats: logits (B, T, V), ids (B, T) -> (), at least in float32."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).to(dtype), ids[:, 1:].flatten())


def judge_gradients(
    first: ComparedModel,
    second: ComparedModel,
    ids: Tensor,
    config: LlamaConfig,
    a: dict[str, Tensor],
    b: dict[str, Tensor],
    differing: list[str],
) -> list[Finding]:
    """Judge the gradients that differ against those of a float64 model with the second model's weights."""
    weights = first.parameters(), second.parameters()
    model = exact_model(config, weights[1])
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = [name for name in differing if name in parameters]
    loss = next_token_loss(model(ids), ids)
    exact = torch.autograd.grad(loss, [parameters[name] for name in names], allow_unused=True)
    findings = []
    for name, gradient in zip(names, exact, strict=True):
        layer = int(name.split(".")[1]) if name.startswith("layers.") else None
        finding = Finding(name, "gradient", layer, 0, "rounding")
        far_a, far_b = distance(a[name], gradient), distance(b[name], gradient)
        finding.distance = {first.name: far_a, second.name: far_b}
        if not same_weights(weights[0][name], weights[1][name]):
            finding.verdict, finding.cause = "bug", f"{name} itself differs between the models"
        judge_gradient(finding, first, a[name], far_a, far_b)
        judge_gradient(finding, second, b[name], far_b, far_a)
        findings.append(finding)
    return findings


def judge_gradient(finding: Finding, model: ComparedModel, gradient: Tensor, far: float, other_far: float) -> None:
    """Mark the finding as a bug of this model when rounding cannot explain its distance from float64."""
    if exceeds_rounding(far, other_far, gradient.dtype):
        finding.verdict, finding.model = "bug", model.name
        if not gradient.any():
            finding.cause = "the gradient is zero: the graph is cut (detach, no_grad)"
