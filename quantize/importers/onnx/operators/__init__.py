# SPDX-License-Identifier: MIT
"""ONNX operators: name -> function(Node) -> list of Steps; a file for each kind of operator."""

from quantize.importers.onnx.operators import elementwise, layers, pooling, shapes

#: ONNX operator -> function(Node) -> list of Steps.
OPERATORS = {**layers.OPERATORS, **pooling.OPERATORS, **elementwise.OPERATORS, **shapes.OPERATORS}
