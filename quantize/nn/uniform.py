# SPDX-License-Identifier: MIT
"""Uniform fake quantization with nothing to train."""

from quantize.nn.fake_quantize import FakeQuantize
from quantize.ops import fake_quantize, online_qparams


class UniformFakeQuantize(FakeQuantize):
    """Rounds to the grid of its spec; straight-through gradient masked outside the range.

    y = s * (clip(round(x / s) + z, qmin, qmax) - z);
    dy/dx = 1 where qmin <= round(x / s) + z <= qmax, else 0. Source: Jacob et al., arXiv:1712.05877, equation 12.
    """

    def quantize(self, F, x, scale, zero_point):
        """Fake-quantized `x`, with the range of `x` itself (online) or the stored one (offline)."""
        if self.mode == "online":
            scale, zero_point = online_qparams(F, x, self.spec)
        return fake_quantize(F, x, scale, self.spec, zero_point)
