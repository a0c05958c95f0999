# SPDX-License-Identifier: MIT
"""Quantized layers and the fake quantizers they hold."""

from quantize.nn.activation import Place, QActivation, QPlace, QReLU6, ReLU6, SkippableReLU
from quantize.nn.batchnorm import BypassBatchNorm
from quantize.nn.conv import QConv1D, QConv2D, QConv2DTranspose
from quantize.nn.dense import QDense
from quantize.nn.dorefa import DoReFaWeight
from quantize.nn.fake_quantize import MODES, FakeQuantize
from quantize.nn.fold import FoldedBatchNorm
from quantize.nn.layer import QuantizedLayer
from quantize.nn.lsq import LSQActivation, LSQFakeQuantize, LSQPlusWeight
from quantize.nn.lsqplus import LSQPlusFakeQuantize
from quantize.nn.methods import METHODS
from quantize.nn.pact import CGPACTFakeQuantize, DoReFaActivation, PACTFakeQuantize
from quantize.nn.pooling import MeanGlobalAvgPool2D
from quantize.nn.sat import SATWeight
from quantize.nn.sign import SignFakeQuantize
from quantize.nn.uniform import UniformFakeQuantize
from quantize.nn.winograd import WinogradConv2D, WinogradTransform

__all__ = ["METHODS", "MODES", "BypassBatchNorm", "CGPACTFakeQuantize", "DoReFaActivation", "DoReFaWeight",
           "FakeQuantize", "FoldedBatchNorm", "LSQActivation", "LSQFakeQuantize", "LSQPlusFakeQuantize",
           "LSQPlusWeight", "MeanGlobalAvgPool2D", "PACTFakeQuantize", "Place", "QActivation", "QConv1D", "QConv2D",
           "QConv2DTranspose", "QDense", "QPlace", "QReLU6", "QuantizedLayer", "ReLU6", "SATWeight", "SignFakeQuantize",
           "SkippableReLU", "UniformFakeQuantize", "WinogradConv2D", "WinogradTransform"]
