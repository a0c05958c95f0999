# SPDX-License-Identifier: MIT
"""N2D2's cells."""

from quantize.interfaces.n2d2.cells import operators
from quantize.interfaces.n2d2.cells.base import Cell, Names, WeightedCell
from quantize.interfaces.n2d2.cells.deepnet import DeepNetCell, Sequence, Softmax
from quantize.interfaces.n2d2.cells.fractional import FMP
from quantize.interfaces.n2d2.cells.layers import BatchNorm2d, Conv, Deconv, Dropout, Fc, GlobalPool2d, Pool2d
from quantize.interfaces.n2d2.cells.operators import (
    Activation,
    Concat,
    ElemWise,
    Operation,
    Padding,
    Reshape,
    Resize,
    Scaling,
    Threshold,
    Transpose,
    Unpool,
)

__all__ = ["Activation", "BatchNorm2d", "Cell", "Concat", "Conv", "Deconv", "DeepNetCell", "Dropout", "ElemWise", "FMP",
           "Fc", "GlobalPool2d", "Names", "Operation", "Padding", "Pool2d", "Reshape", "Resize", "Scaling", "Sequence",
           "Softmax", "Threshold", "Transpose", "Unpool", "WeightedCell", "operators"]
