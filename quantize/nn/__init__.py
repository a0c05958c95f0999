# SPDX-License-Identifier: MIT
"""Quantized layers and the fake quantizers they hold."""

from quantize.nn.activation import QActivation, ReLU6, SkippableReLU
from quantize.nn.batchnorm import BypassBatchNorm
from quantize.nn.conv import QConv2D, QConv2DTranspose
from quantize.nn.dense import QDense
from quantize.nn.fake_quantize import MODES, FakeQuantize
from quantize.nn.layer import QuantizedLayer
from quantize.nn.pooling import MeanGlobalAvgPool2D
from quantize.nn.uniform import UniformFakeQuantize

__all__ = ["MODES", "BypassBatchNorm", "FakeQuantize", "MeanGlobalAvgPool2D", "QActivation", "QConv2D",
           "QConv2DTranspose", "QDense", "QuantizedLayer", "ReLU6", "SkippableReLU", "UniformFakeQuantize"]
