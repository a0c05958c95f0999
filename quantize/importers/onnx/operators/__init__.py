# SPDX-License-Identifier: MIT
"""ONNX operators: name -> function(Node) -> list of Steps; a file for each kind of operator."""

from quantize.importers.onnx.operators import (
    activations,
    convolution,
    cutting,
    elementwise,
    layers,
    normalization,
    pooling,
    reductions,
    resizing,
    shapes,
)

#: ONNX operator -> function(Node) -> list of Steps.
OPERATORS = {**layers.OPERATORS, **convolution.OPERATORS, **pooling.OPERATORS, **activations.OPERATORS,
             **elementwise.OPERATORS, **normalization.OPERATORS, **reductions.OPERATORS, **shapes.OPERATORS,
             **cutting.OPERATORS, **resizing.OPERATORS}
