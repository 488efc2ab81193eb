"""All kinds of operations by their names. A new kind needs a file of its own and an entry here."""

from __future__ import annotations

from .attention import ATTENTION, SCORES, SOFTMAX
from .embedding import EMBEDDING
from .kind import OperationKind
from .kv_cache import KV_CACHE
from .linear import LINEAR
from .logits import LOGITS
from .mlp import MLP_ACTIVATION
from .norm import NORM
from .residual import RESIDUAL
from .rope import ROPE
from .rotation import ROTATION

KINDS: dict[str, OperationKind] = {
    kind.name: kind
    for kind in (
        EMBEDDING,
        ROPE,
        NORM,
        LINEAR,
        ROTATION,
        KV_CACHE,
        SCORES,
        SOFTMAX,
        ATTENTION,
        RESIDUAL,
        MLP_ACTIVATION,
        LOGITS,
    )
}
