# SPDX-License-Identifier: MIT
"""DoReFa weights."""

from types import ModuleType
from typing import Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import ParameterDict

from quantize import reference_trained
from quantize.errors import SpecError
from quantize.nn.uniform import UniformFakeQuantize
from quantize.ops import dorefa
from quantize.ops.types import Tensor
from quantize.spec import PerTensor, QParams, QuantSpec


class DoReFaWeight(UniformFakeQuantize):
    """Weights clamped to [-1, 1] by tanh, then rounded to `levels` equal steps; there is no level at zero.

    y = 2 * round(levels * (t / (2 * max|t|) + 1 / 2)) / levels - 1 with t = tanh(w);
    dy/dw = (1 - t**2) / max|t|: rounding passes straight through, the divisor carries no gradient.
    Zhou et al., arXiv:1606.06160, equation 9.

    In `offline` mode weights are rounded to the stored grid and nothing else: that is for weights that `fix_params`
    has put there.
    """

    method = "dorefa"
    per_tensor = True
    keeps_size = False

    def __init__(self, spec: QuantSpec, scale_shape: Tuple[int, ...] = (1,), mode: str = "online",
                 prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__(self.adapt(spec), scale_shape, mode, prefix, params)

    @classmethod
    def adapt(cls, spec: QuantSpec) -> QuantSpec:
        """The spec on a mid-rise grid."""
        if not spec.signed or not spec.symmetric or not isinstance(spec.granularity, PerTensor):
            raise SpecError(f"{cls.method}: weights have one symmetric range for a layer: write "
                            f"'int{spec.bits}/layer', got {spec}")
        if spec.levels is not None and spec.levels % 2 == 0:
            raise SpecError(f"{cls.method}: an odd number of levels is wanted (1, 3, 7, 15, ... 255), got "
                            f"{spec.levels}")
        return spec.with_(grid="mid_rise")

    @classmethod
    def formula(cls, x: np.ndarray, spec: QuantSpec, params: Optional[QParams] = None) -> np.ndarray:
        """See `FakeQuantize.formula`."""
        return reference_trained.dorefa(x, spec.qmax - spec.qmin) if params is None else super().formula(
            x, spec, params)

    @classmethod
    def formula_gradient(cls, x: np.ndarray, dy: np.ndarray, spec: QuantSpec,
                         params: Optional[QParams] = None) -> np.ndarray:
        """See `FakeQuantize.formula_gradient`."""
        return reference_trained.dorefa_gradient(x, dy) if params is None else super().formula_gradient(
            x, dy, spec, params)

    def quantize(self, F: ModuleType, x: Tensor, scale: Tensor, ema: Tensor,
                 zero_point: Optional[Tensor] = None) -> Tensor:
        """Quantized weights by the formula; in `offline` mode `x` on the stored grid."""
        if self.mode == "offline":
            return super().quantize(F, x, scale, ema, zero_point)
        return self.transform(F, x)

    def transform(self, F: ModuleType, x: Tensor) -> Tensor:
        """The class's formula."""
        return dorefa(F, x, self.levels, using=self.backend)

    def _grid_step(self, F: ModuleType, x: Tensor) -> Tensor:
        if self.frozen or self.mode == "offline":
            return self._stored_step(F, x)
        return F.ones_like(self._value(F, "scale", x)) * (2.0 / self.levels)

    @property
    def levels(self) -> int:
        """Number of steps between the lowest and the highest level."""
        return self.spec.qmax - self.spec.qmin

    def qparams_of(self, weight: mx.nd.NDArray) -> QParams:
        """The grid of the formula: from -1 to 1."""
        return QParams.symmetric(np.array([2], np.float32) / np.float32(self.levels))
