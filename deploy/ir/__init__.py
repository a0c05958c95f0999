# SPDX-License-Identifier: MIT
"""The deployed network as values: what lowering produces, the engine interprets, and targets write.

A `Model` is a list of nodes in topological order. Nodes read and write *blobs*, named tensors without a batch axis; a
blob is written once. Layout is (channels, height, width), or (features,). A node that holds a `Quantization` computes
on integers inside; every blob itself is real-valued, so that a target decides where integers stay integers.
"""

from deploy.ir.base import Function, Grid, Node, Quantization
from deploy.ir.model import Model, consumers, producers, quantized
from deploy.ir.nodes import (
    Activation,
    Affine,
    BatchNorm,
    Concat,
    Convolution,
    Crop,
    Deconvolution,
    Elementwise,
    InnerProduct,
    Padding,
    Permute,
    Pooling,
    PReLU,
    Reduce,
    Reshape,
    Resize,
    ScalarOp,
    Slice,
    Softmax,
)

__all__ = ["Function", "Grid", "Node", "Quantization", "Model", "consumers", "producers", "quantized",
           "Activation", "Affine", "BatchNorm", "Concat", "Convolution", "Crop", "Deconvolution", "Elementwise",
           "InnerProduct", "PReLU", "Padding", "Permute", "Pooling", "Reduce", "Reshape", "Resize", "ScalarOp", "Slice",
           "Softmax"]
