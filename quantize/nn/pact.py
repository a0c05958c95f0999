# SPDX-License-Identifier: MIT
"""Activations with a trained upper clip: PACT and CG-PACT; and DoReFa's, whose clip is fixed."""

from types import ModuleType
from typing import Optional, Tuple

import numpy as np
from mxnet.gluon import Parameter, ParameterDict

from quantize import reference_trained
from quantize.errors import SpecError
from quantize.nn.fake_quantize import Option
from quantize.nn.uniform import UniformFakeQuantize
from quantize.ops import pact
from quantize.ops.types import Tensor
from quantize.spec import PerTensor, QParams, QuantSpec

ALPHA = 8.0
ALPHA_OPTION = Option("the start of a trained clip, or a fixed one: a positive number",
                      lambda v: isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0)


class PACTFakeQuantize(UniformFakeQuantize):
    """Clips to [0, alpha] with alpha trained, then rounds; it takes the place of the ReLU in front of it.

    y = round(clip(x, 0, alpha) * levels / alpha) * alpha / levels;
    dy/dx = 1 where 0 <= x < alpha, else 0; dy/dalpha = 1 where x >= alpha, else 0.
    Choi et al., arXiv:1805.06085, equations 1 to 3. Weight decay acts on alpha, which the paper regularizes as weights.

    Parameters
    ----------
    alpha : float
        Where training starts when nothing is calibrated.

    Attributes
    ----------
    alpha : Parameter, (1,)
        Trained in `offline` mode; `set_qparams` sets it.
    """

    method = "pact"
    trained: Tuple[str, ...] = ("alpha",)
    positive: Tuple[str, ...] = ("alpha",)
    training_mode = "offline"
    options = {"alpha": ALPHA_OPTION}
    starts: Tuple[str, ...] = ("alpha",)
    per_tensor = True
    calibrated_gradient = False
    clips_negative = True
    signed_counterpart = "lsq"

    def __init__(self, spec: QuantSpec, scale_shape: Tuple[int, ...] = (1,), mode: str = "offline",
                 alpha: float = ALPHA, prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__(self.adapt(spec), scale_shape, mode, prefix, params)
        if not (np.isfinite(alpha) and alpha > 0):
            raise SpecError(f"{self.method}: alpha must be positive, got {alpha!r}")
        self.alpha = self._alpha_parameter(alpha)

    def _alpha_parameter(self, start: float) -> Parameter:
        # with weight decay, unlike the steps of LSQ: the paper's regulariser of alpha is what keeps the range from
        # growing
        return self._trained_parameter("alpha", (1,), start, wd_mult=1)

    @classmethod
    def adapt(cls, spec: QuantSpec) -> QuantSpec:
        """The spec itself: unsigned, one scale, no zero point."""
        if spec.signed or not spec.symmetric or not isinstance(spec.granularity, PerTensor):
            raise SpecError(f"{cls.method}: clips below zero and has one range for a tensor: write 'uint{spec.bits}', "
                            f"got {spec}")
        if spec.rounding != "half_away":
            raise SpecError(f"{cls.method}: rounds halves away from zero, got {spec.rounding}")
        return spec

    @classmethod
    def formula_gradient(cls, x: np.ndarray, dy: np.ndarray, spec: QuantSpec,
                         params: Optional[QParams] = None) -> np.ndarray:
        """See `FakeQuantize.formula_gradient`."""
        if params is None:
            return super().formula_gradient(x, dy, spec)
        return reference_trained.pact_gradient(x, dy, params.scale[0] * spec.qmax, spec.qmax)[0]

    def quantize(self, F: ModuleType, x: Tensor, scale: Tensor, ema: Tensor, alpha: Tensor,
                 zero_point: Optional[Tensor] = None) -> Tensor:
        """Fake-quantized `x`: by alpha in `offline` mode, else as `UniformFakeQuantize`."""
        if self.mode != "offline":
            return super().quantize(F, x, scale, ema, zero_point)
        return pact(F, x, alpha, self.spec.qmax, self.calibrated_gradient, using=self.backend)

    def set_qparams(self, qparams: QParams) -> None:
        """Let alpha be the largest level of this grid."""
        # in float32, so that dividing by qmax again gives the same step
        self._store(self.alpha, np.asarray(qparams.scale) * np.float32(self.spec.qmax))

    def get_qparams(self) -> QParams:
        """The grid below alpha as it is now."""
        return QParams.symmetric(self.alpha.data().asnumpy() / np.float32(self.spec.qmax))

    @property
    def calibrated(self) -> bool:
        """Whether there is an alpha."""
        # alpha has a start of its own (the paper's 10, or an option), so that no calibration is needed
        return self.alpha._data is not None


class CGPACTFakeQuantize(PACTFakeQuantize):
    """PACT with the calibrated gradient: alpha also learns from the rounding error inside its range.

    y and dy/dx as PACT; dy/dalpha = 1 where x >= alpha, q / levels - x / alpha for 0 < x < alpha with q the code of x.
    Jin, Yang and Liao, arXiv:1912.10207, equation 12.
    """

    method = "cgpact"
    calibrated_gradient = True


class DoReFaActivation(PACTFakeQuantize):
    """Clips to [0, alpha] with alpha fixed at 1, then rounds.

    y and dy/dx as PACT; Zhou et al., arXiv:1606.06160. A calibration may set another clip:
    networks that were not trained with activations up to 1 need one.
    """

    method = "dorefa"
    trained = positive = ()
    training_mode = "offline"
    signed_counterpart = "ste"

    def __init__(self, spec: QuantSpec, scale_shape: Tuple[int, ...] = (1,), mode: str = "offline", alpha: float = 1.0,
                 prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__(spec, scale_shape, mode, alpha, prefix, params)

    def _alpha_parameter(self, start: float) -> Parameter:
        # no gradient, but a parameter nevertheless: it is saved, and a calibration can set it
        return self._statistic("alpha", (1,), start)
