# SPDX-License-Identifier: MIT
"""Fake-quantize operators: one entry point, `fake_quantize`, over interchangeable back ends."""

from quantize.ops.fake_quantize import fake_quantize, online_qparams

__all__ = ["fake_quantize", "online_qparams"]
