# SPDX-License-Identifier: MIT
"""Uniform fake quantization with nothing to train."""

from types import ModuleType
from typing import Optional

import numpy as np

from quantize import reference
from quantize.nn.fake_quantize import FakeQuantize
from quantize.ops import fake_quantize, online_fake_quantize, tracking_fake_quantize
from quantize.ops.types import Tensor
from quantize.spec import QParams, QuantSpec


class UniformFakeQuantize(FakeQuantize):
    """Rounds to the grid of its spec; straight-through gradient masked outside the range.

    y = s * (clip(round(x / s) + z, qmin, qmax) - z);
    dy/dx = 1 where qmin <= round(x / s) + z <= qmax, else 0. Source: Jacob et al., arXiv:1712.05877, equation 12.
    """

    def quantize(self, F: ModuleType, x: Tensor, scale: Tensor, ema: Tensor,
                 zero_point: Optional[Tensor] = None) -> Tensor:
        """Fake-quantized `x`, with the range of `x` itself, a moving average, or the stored range."""
        if self.mode == "online":
            return online_fake_quantize(F, x, self.spec, using=self.backend)
        if self.mode == "ema":
            return tracking_fake_quantize(F, x, ema, self.spec, self.momentum, using=self.backend)
        return fake_quantize(F, x, scale, self.spec, zero_point, using=self.backend)

    @classmethod
    def formula(cls, x: np.ndarray, spec: QuantSpec, params: Optional[QParams] = None) -> np.ndarray:
        """See `FakeQuantize.formula`."""
        return reference.fake_quantize(x, reference.find_qparams(x, spec) if params is None else params, spec)

    @classmethod
    def formula_gradient(cls, x: np.ndarray, dy: np.ndarray, spec: QuantSpec,
                         params: Optional[QParams] = None) -> np.ndarray:
        """See `FakeQuantize.formula_gradient`."""
        return reference.ste_gradient(x, dy, reference.find_qparams(x, spec) if params is None else params, spec)
