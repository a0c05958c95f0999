# SPDX-License-Identifier: MIT
"""ONNX files with QuantizeLinear and DequantizeLinear, for ONNX Runtime, OpenVINO and whatever else reads them."""

from deploy.targets.onnx.target import OnnxTarget

__all__ = ["OnnxTarget"]
