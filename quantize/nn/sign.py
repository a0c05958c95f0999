# SPDX-License-Identifier: MIT
"""Binary weights and activations."""

from types import ModuleType
from typing import Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import ParameterDict

from quantize import reference_trained
from quantize.errors import SpecError
from quantize.nn.uniform import UniformFakeQuantize
from quantize.ops import sign
from quantize.ops.types import Tensor
from quantize.spec import PerTensor, QParams, QuantSpec


class SignFakeQuantize(UniformFakeQuantize):
    """+1 or -1 in every mode but `float` and `observe`; the numbers of its grid are fixed.

    y = 1 where x >= 0, else -1; dy/dx = 1 where |x| <= 1, else 0 (clipped identity).
    Courbariaux et al., arXiv:1602.02830, equations 1 and 4. Weights are to be clipped to [-1, 1] after each step:
    `quantize.train.ClipWeights` does.
    """

    method = "bnn"
    per_tensor = True
    only_bits = 1
    replaces_activation = True
    keeps_size = False
    weight_bounds = (-1.0, 1.0)
    start_calibrator = "naive"

    def __init__(self, spec: QuantSpec, scale_shape: Tuple[int, ...] = (1,), mode: str = "online",
                 prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__(self.adapt(spec), scale_shape, mode, prefix, params)

    @classmethod
    def adapt(cls, spec: QuantSpec) -> QuantSpec:
        """The spec itself: one signed bit."""
        if spec.grid != "mid_rise" or spec.qmax - spec.qmin != 1 or not isinstance(spec.granularity, PerTensor):
            raise SpecError(f"{cls.method}: values are -1 and +1: write 'int1', got {spec} (after a ReLU all of them "
                            "would be +1: let the activation itself be binary, op_types ['Activation'], output 'int1')")
        return spec

    @classmethod
    def formula(cls, x: np.ndarray, spec: QuantSpec, params: Optional[QParams] = None) -> np.ndarray:
        """See `FakeQuantize.formula`."""
        return reference_trained.sign(x)

    @classmethod
    def formula_gradient(cls, x: np.ndarray, dy: np.ndarray, spec: QuantSpec,
                         params: Optional[QParams] = None) -> np.ndarray:
        """See `FakeQuantize.formula_gradient`."""
        return reference_trained.sign_gradient(x, dy)

    def quantize(self, F: ModuleType, x: Tensor, scale: Tensor, ema: Tensor,
                 zero_point: Optional[Tensor] = None) -> Tensor:
        """Signs of `x`."""
        return sign(F, x, using=self.backend)

    def _grid_step(self, F: ModuleType, x: Tensor) -> Tensor:
        return F.ones_like(self._value(F, "scale", x)) * 2

    def set_qparams(self, qparams: QParams) -> None:
        """Nothing: a calibration of the whole network has no say here."""

    def get_qparams(self) -> QParams:
        """Levels half a step of 2 above and below zero."""
        return QParams.symmetric(np.full(self.scale.shape, 2))

    def qparams_of(self, weight: mx.nd.NDArray) -> QParams:
        """The same levels whatever the weight is."""
        return self.get_qparams()

    @property
    def calibrated(self) -> bool:
        """Always."""
        return True
