# SPDX-License-Identifier: MIT
"""How ncnn's x86 engine rounds on processors without AVX-512: as with it, but where the compiler wrote the kernel.

The wheel holds each kernel compiled for several instruction sets. Hand-written vector code computes the same in all of
them; of plain C, the compiler fuses a multiplication and an addition into one rounding only where it vectorizes for
AVX-512: depthwise convolutions, and the hard sigmoid within depthwise and fully connected layers. Measured, wheel
1.0.20261020, AMD processors with AVX2 and FMA against ones with AVX-512.
"""

from typing import Any, Callable, Optional

import numpy as np

from deploy.engine.activation import FUNCTIONS
from deploy.ir import Convolution, InnerProduct
from deploy.targets.ncnn.winograd import WinogradArithmetic


class Avx2Arithmetic(WinogradArithmetic):
    """ncnn's arithmetic on x86 without AVX-512; see the module."""

    name = "ncnn avx2"

    def fused(self, node: Any) -> bool:
        """See `NcnnArithmetic.fused`: no depthwise kernel does."""
        return isinstance(node, Convolution) and not node.depthwise

    def function(self, kind: str, node: Any) -> Optional[Callable[..., np.ndarray]]:
        """See `Arithmetic.function`: within kernels in plain C each operation is rounded."""
        plain = isinstance(node, InnerProduct) or isinstance(node, Convolution) and node.depthwise
        return FUNCTIONS.get(kind) if plain else super().function(kind, node)
