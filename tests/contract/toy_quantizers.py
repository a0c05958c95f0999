# SPDX-License-Identifier: MIT
"""Quantizers as somebody else might write them: one with a parameter of its own, and one that states no formula.

Imported as a plugin of pytest (`-p tests.contract.toy_quantizers`) it registers both, as a row of `quantize.nn.methods`
would.
"""

import os

import numpy as np

from quantize import reference
from quantize.errors import SpecError
from quantize.nn.fake_quantize import FakeQuantize, Option
from quantize.nn.methods import METHODS, Method
from quantize.nn.uniform import UniformFakeQuantize
from quantize.ops import online_qparams
from quantize.spec import PerTensor, QParams


class WideQuantize(UniformFakeQuantize):
    """Rounds with a step that is `wide` times the range's, where `wide` is a parameter of this class alone.

    y = s * clip(round(x / s), qmin, qmax), s = wide * max|x| / qmax; dy/dx = 1 inside the range, 0 outside.
    """

    method = "wide"
    options = {"wide": Option("how much wider the step is: 1 or more", lambda v: isinstance(v, float) and v >= 1)}
    per_tensor = True

    def __init__(self, spec, scale_shape=(1,), mode="online", wide=2.0, prefix=None, params=None):
        super().__init__(self.adapt(spec), scale_shape, mode, prefix, params)
        self.wide = self._statistic("wide", (1,), wide)

    @classmethod
    def adapt(cls, spec):
        """The spec itself: symmetric, one range."""
        if not spec.symmetric or not isinstance(spec.granularity, PerTensor) or spec.grid != "mid_tread":
            raise SpecError(f"wide: write 'int{spec.bits}/layer', got {spec}")
        return spec

    @classmethod
    def formula(cls, x, spec, params=None):
        """See `FakeQuantize.formula`."""
        return super().formula(x, spec, cls._found(x, spec) if params is None else params)

    @classmethod
    def formula_gradient(cls, x, dy, spec, params=None):
        """See `FakeQuantize.formula_gradient`."""
        return super().formula_gradient(x, dy, spec, cls._found(x, spec) if params is None else params)

    @staticmethod
    def _found(x, spec):
        return QParams.symmetric(reference.find_qparams(x, spec).scale * np.float32(2))

    def quantize(self, F, x, scale, ema, wide, zero_point=None):
        """Fake-quantized `x`."""
        if self.mode == "online":
            with_range = online_qparams(F, x, self.spec)[0] * wide
            was, self._mode = self._mode, "offline"
            try:
                return super().quantize(F, x, with_range, ema)
            finally:
                self._mode = was
        return super().quantize(F, x, scale, ema)

    def qparams_of(self, weight):
        """The grid of the formula."""
        return QParams.symmetric(super().qparams_of(weight).scale * self.wide.data().asnumpy())


class SilentQuantize(FakeQuantize):
    """Rounds to whole numbers, and does not say so in NumPy."""

    method = "silent"

    def quantize(self, F, x, scale, ema, zero_point=None):
        """Whole numbers."""
        return F.round(x)


if os.environ.get("REGISTER_TOYS"):
    METHODS.register("wide")(Method(WideQuantize, WideQuantize))
    METHODS.register("silent")(Method(SilentQuantize, SilentQuantize))
