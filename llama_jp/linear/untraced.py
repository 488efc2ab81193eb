"""A call that torch.compile keeps out of its graphs.

Importing this module imports the compiler, which takes about a second. Import it late, while something compiles.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def call(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Compute `function(x)` as in eager mode. A compiled graph ends before the call and continues after it."""
    return function(x)


call_untraced: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor] = torch.compiler.disable(call)
