# SPDX-License-Identifier: MIT
"""The cells under the name that N2D2's scripts import them by."""

from quantize.interfaces.n2d2.cells import (
    FMP,
    Activation,
    BatchNorm2d,
    Concat,
    Conv,
    Deconv,
    Dropout,
    ElemWise,
    Fc,
    GlobalPool2d,
    Padding,
    Pool2d,
    Reshape,
    Resize,
    Scaling,
    Softmax,
    Threshold,
    Transpose,
    Unpool,
)

__all__ = ["Activation", "BatchNorm2d", "Concat", "Conv", "Deconv", "Dropout", "ElemWise", "FMP", "Fc", "GlobalPool2d",
           "Padding", "Pool2d", "Reshape", "Resize", "Scaling", "Softmax", "Threshold", "Transpose", "Unpool"]
