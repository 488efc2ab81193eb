"""The mode `gradients`: the loss, and what every parameter is told to do about it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...model import LlamaConfig
from ...numerics import difference
from ..judge.findings import Finding
from ..judge.float64_reference import distance, exact_model, exceeds_rounding
from ..judge.weights import same_weights
from ..operations import operations
from ..run.models import Subject
from ..run.recording import threads
from .forward import Comparison, Tolerance, compare, digest, name_apart


def compare_gradients(
    first: Subject, second: Subject, ids: Tensor, config: LlamaConfig, tolerance: Tolerance
) -> Comparison:
    """Next-token cross entropy of ids (B, T), and its gradient for every parameter, in the order of backpropagation."""
    first, second = name_apart(first, second)
    (loss_a, a), (loss_b, b) = gradients(first, ids), gradients(second, ids)
    loss = difference(loss_a[None, None], loss_b[None, None])
    order = [op.weight for op in reversed(operations(config)) if op.weight]
    names = [f"{module}.{part}" for module in order for part in ("weight", "bias")]
    names = [name for name in names if name in a and name in b]
    differing = [name for name in names if not torch.equal(a[name], b[name])]
    forward = [] if loss.equal else compare(first, second, ids, config=config).findings
    findings = [each for each in forward if each.verdict == "bug"]  # gradients follow from it
    findings += judge_gradients(first, second, ids, config, a, b, differing) if differing else []
    verdict = "bug" if any(each.verdict == "bug" for each in findings) else "rounding" if findings else "equal"
    if verdict == "equal" and not loss.equal:
        verdict = "rounding"
    return Comparison(
        "gradients",
        verdict,
        (first.describe(), second.describe()),
        loss,
        findings=findings,
        tolerance=tolerance,
        notes=[f"loss {float(loss_a):.6f} and {float(loss_b):.6f}; {len(differing)} of {len(names)} gradients differ"],
        details={"sha256": [digest([loss_a, *a.values()]), digest([loss_b, *b.values()])]},
    )


def gradients(subject: Subject, ids: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients by parameter; the model's own are left as they were."""
    if subject.model is None:
        raise ValueError(f"{subject.name} shows no parameters, so there are no gradients to compare")
    from ...tracing import named_modules

    parameters = {
        f"{path}.{name}": value
        for path, module in named_modules(subject.model).items()
        for name, value in module.named_parameters(recurse=False)
    }
    asked = {name: value.requires_grad for name, value in parameters.items()}
    with threads(subject.settings.threads), torch.enable_grad():
        for value in parameters.values():
            value.requires_grad_(True)
        loss = next_token_loss(subject.whole(ids), ids)
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    for name, value in parameters.items():
        value.requires_grad_(asked[name])
    return loss.detach(), {
        name: torch.zeros_like(value) if grad is None else grad
        for (name, value), grad in zip(parameters.items(), found, strict=True)
    }


def next_token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    wide = torch.promote_types(logits.dtype, torch.float32)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).to(wide), ids[:, 1:].flatten())


def judge_gradients(first, second, ids, config, a, b, differing: list[str]) -> list[Finding]:
    """Against the gradients of a float64 model with the same weights, if the weights are the same."""
    weights = first.parameters(), second.parameters()
    findings = []
    exact = exact_model(config, weights[1])
    loss = next_token_loss(exact(ids), ids)
    named = dict(exact.named_parameters(remove_duplicate=False))
    names = [name for name in differing if name in named]
    right = dict(zip(names, torch.autograd.grad(loss, [named[name] for name in names], allow_unused=True), strict=True))
    for name in names:
        layer = int(name.split(".")[1]) if name.startswith("layers.") else None
        finding = Finding(name, "gradient", layer, 0, "rounding")
        far = [distance(side[name], right[name]) for side in (a, b)]
        finding.distance = dict(zip((first.name, second.name), far, strict=True))
        if not same_weights(weights[0][name], weights[1][name]):
            finding.verdict, finding.cause = "bug", f"{name} itself is not the same on both sides"
        for side, mine, other, grad in ((first, *far, a[name]), (second, *far[::-1], b[name])):
            if exceeds_rounding(mine, other, grad.dtype):
                finding.verdict, finding.model = "bug", side.name
                if not grad.any():
                    finding.cause = "the gradient is zero: the graph is cut (detach, no_grad)"
        findings.append(finding)
    return findings
