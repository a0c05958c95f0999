# SPDX-License-Identifier: MIT
"""The deployed network as values: what lowering produces, the engine interprets, and targets write.

A `Model` is a list of nodes in topological order. Nodes read and write *blobs*, named tensors without a batch axis; a
blob is written once. Layout is (channels, height, width), or (features,). A node that holds a `Quantization` computes
on integers inside; every blob itself is real-valued, so that a target decides where integers stay integers.
"""

from deploy.ir.model import (
    Activation,
    Affine,
    BatchNorm,
    Concat,
    Constant,
    Convolution,
    Crop,
    Deconvolution,
    Elementwise,
    Function,
    Grid,
    InnerProduct,
    Model,
    Node,
    Padding,
    Permute,
    Pooling,
    PReLU,
    Quantization,
    QuantizedNode,
    Reduce,
    Reshape,
    Resize,
    Rounding,
    ScalarOp,
    Slice,
    Softmax,
    Spread,
    activation,
    consumers,
    integers,
    producers,
    quantized,
)

__all__ = [
    "Activation", "Affine", "BatchNorm", "Concat", "Constant", "Convolution", "Crop", "Deconvolution", "Elementwise",
    "Function", "Grid", "InnerProduct", "Model", "Node", "Padding", "Permute", "Pooling",
    "PReLU", "Quantization", "QuantizedNode", "Reduce", "Reshape", "Resize", "Rounding", "ScalarOp", "Slice",
    "Softmax", "Spread", "activation", "consumers", "integers", "producers", "quantized",
]
