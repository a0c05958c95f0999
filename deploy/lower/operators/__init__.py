# SPDX-License-Identifier: MIT
"""MXNet operators: name -> handler(Call) -> blob, or a tuple of blobs; a file for each kind of operator."""

from deploy.lower.operators import (
    activations,
    elementwise,
    layers,
    normalization,
    pooling,
    rearranging,
    reductions,
    shapes,
)

OPERATORS = {**activations.OPERATORS, **elementwise.OPERATORS, **layers.OPERATORS, **normalization.OPERATORS,
             **pooling.OPERATORS, **rearranging.OPERATORS, **reductions.OPERATORS, **shapes.OPERATORS}

__all__ = ["OPERATORS"]
