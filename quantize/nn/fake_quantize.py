# SPDX-License-Identifier: MIT
"""The base of all fake quantizers: a spec, a stored scale, and a mode."""

from types import ModuleType
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Protocol, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import HybridBlock, Parameter, ParameterDict

from quantize import reference
from quantize.errors import CalibrationError, ConfigError, ConversionError
from quantize.ops import online_qparams
from quantize.ops.types import Tensor
from quantize.spec import QParams, QuantSpec

MODES = ("float", "observe", "online", "ema", "offline")
MOMENTUM = 0.9
GRID = "grid"  # what a marked quantizer calls its operator


class Option(NamedTuple):
    """What a configuration may set of a class: a text that says what it is, and whether a value will do."""

    what: str
    fits: Callable[[Any], bool]


class Observer(Protocol):
    """What a quantizer in `observe` mode hands its input to: calib's observers, and whatever else looks at tensors."""

    def update(self, x: np.ndarray) -> None:
        """One tensor of a batch."""


class FakeQuantize(HybridBlock):
    """A block that rounds its input to an integer grid, or watches it, or lets it pass.

    Modes: `float` passes the input through; `observe` passes it through and hands it to `observer`;
    `online` quantizes with the range of this tensor; `ema` with a moving average of ranges which every batch updates
    (for training; `update_ema` turns the average into the stored scale); `offline` with the stored scale.
    Use `quantize.modes.set_mode` to switch a whole network: it also drops cached graphs. Subclasses that train numbers
    use them in `offline` mode and give them a gradient in no other.

    Parameters
    ----------
    spec : QuantSpec
    scale_shape : tuple of int
        `spec.scale_shape` of the tensors to come.
    mode : str
        One of `MODES`.

    Attributes
    ----------
    scale : Parameter, float32, `scale_shape`
        The stored scale; 0 where nothing was calibrated yet.
    zero_point : Parameter, float32, `scale_shape`, or None
        Only for asymmetric specs.
    ema : Parameter, float32, (3,)
        Moving averages of the images' minimum and maximum, and the weight seen so far.
    backend : {"auto", "native", "composed"}
        The operators to compute with.
    observer : object with ``update(array)``, or None
    tracer : callable or None
        Is given the symbol of the input when a network in `observe` mode is traced.
    reorder_first : bool
        Bring the input into MXNet's plain layout by an operator of its own. Convolutions leave oneDNN's blocked layout,
        which the native operators have reordered in the forward and again in the backward pass; this saves the second
        time. Layers set it for their inputs until their weights are frozen, since inference has no second time.
    marked : bool
        In `float` mode an operator called `prefix` + `GRID` stands in the graph where the quantizer does.
    frozen : bool
        The input is already on the grid (weights after `fix_params`): pass it through.
    method : str
        The class's published name, as configurations write it.
    trained : tuple of str
        Names of the parameters that get a gradient.
    positive : tuple of str
        Those of `trained` that must stay above zero.
    training_mode : str
        The mode in which the method trains: `offline` where it trains its numbers, else `online`.
    start : method or None
        ``start(array)`` takes the trained numbers from data; None where there is nothing to start.
    options : dict of str to Option
        Constructor arguments that a configuration may set.
    starts : tuple of str
        Those of `options` that say where trained or fixed numbers start.
    stated : bool
        Such an option was given: calibrations that are asked to (`keep_stated`) leave the numbers alone.
    solver : tuple of (str, value)
        Optimizer, lr, wd and momentum for `trained` that the configuration states; what is not in it is the training's.
    facts : tuple of str
        Constructor arguments that the layer knows: ``fan_out`` (outputs times kernel positions), ``scaling`` (no
        BatchNorm makes up for the scale of the weights).
    trains_step : bool
        The step of the grid is what training moves.
    per_tensor : bool
        There is one range for a tensor, none for groups or channels.
    only_bits : int or None
        The one number of bits that the method knows.
    clips_negative : bool
        What is below zero becomes zero with a ReLU's gradient (in `offline` mode), so that no ReLU is needed before.
    signed_counterpart : str or None
        The method for inputs that can be negative, where this one cannot take them.
    replaces_activation : bool
        It computes in the place of the activation, whatever that is: configurations put it on activations' outputs.
    keeps_size : bool
        Quantized values are as large as the float ones (the Winograd domain wants that).
    weight_bounds : (float, float) or None
        Float weights are clipped to this interval after each step (`quantize.train.ClipWeights`).
    clamp_stage : bool
        There is a first stage of training in which nothing is rounded (`quantize.train.set_clamp_only`).
    start_calibrator : str
        Name of the calibrator that serves best for the ranges at the start of training.
    momentum : float
        Of the moving average in `ema` mode, 0 to 1. After a change drop cached graphs.
    """

    method = "ste"
    momentum = MOMENTUM
    trained: Tuple[str, ...] = ()
    positive: Tuple[str, ...] = ()
    training_mode = "online"
    start: Optional[Callable[[np.ndarray], None]] = None
    options: Mapping[str, Option] = {}
    starts: Tuple[str, ...] = ()
    stated = False
    solver: Tuple[Tuple[str, Any], ...] = ()
    facts: Tuple[str, ...] = ()
    trains_step = False
    per_tensor = False
    only_bits: Optional[int] = None
    clips_negative = False
    signed_counterpart: Optional[str] = None
    replaces_activation = False
    keeps_size = True
    weight_bounds: Optional[Tuple[float, float]] = None
    clamp_stage = False
    start_calibrator = "sqnr"

    def __init__(self, spec: QuantSpec, scale_shape: Tuple[int, ...] = (1,), mode: str = "online",
                 prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__(prefix=prefix, params=params)
        self.spec = spec
        self.observer: Optional[Observer] = None
        self.tracer: Optional[Callable[[mx.sym.Symbol], None]] = None
        self.backend = "auto"
        self.frozen = False
        self.reorder_first = False
        self.marked = False
        self._traced = (None, None)
        self._mode = _known(mode)
        # trained parameter -> the gradient it asks for on the other side of the switch to `offline`
        self._requests: Dict[str, str] = {}
        self.scale = self._statistic("scale", scale_shape)
        self.ema = self._statistic("ema", (3,))
        self.zero_point = None if spec.symmetric else self._statistic("zero_point", scale_shape)

    def _statistic(self, name: str, shape: Tuple[int, ...], start: float = 0) -> Parameter:
        return self.params.get(name, shape=shape, init=mx.init.Constant(start), grad_req="null", differentiable=False)

    def _trained_parameter(self, name: str, shape: Tuple[int, ...], start: float, wd_mult: float) -> Parameter:
        """A parameter that gets a gradient in `offline` mode alone, so that no other mode leaves it a stale one."""
        parameter = self.params.get(name, shape=shape, init=mx.init.Constant(start), wd_mult=wd_mult)
        self._requests[name] = "null"
        if self.mode != "offline":
            self._requests[name], parameter.grad_req = parameter.grad_req, "null"
        return parameter

    @classmethod
    def formula(cls, x: np.ndarray, spec: QuantSpec, params: Optional[QParams] = None) -> np.ndarray:
        """The class's formula in NumPy, which the contract tests hold it to.

        Parameters
        ----------
        params : QParams or None
            The stored numbers (`offline` mode); None: the class finds them in `x`.
        """
        raise NotImplementedError(f"{cls.__name__} states no formula: define `formula` and `formula_gradient`, class "
                                  "methods in NumPy (quantize.nn.sign is an example)")

    @classmethod
    def formula_gradient(cls, x: np.ndarray, dy: np.ndarray, spec: QuantSpec,
                         params: Optional[QParams] = None) -> np.ndarray:
        """dL/dx of the class's docstring in NumPy; see `formula`."""
        raise NotImplementedError(f"{cls.__name__} states no gradient: define `formula_gradient`, a class method in "
                                  "NumPy (quantize.nn.sign is an example)")

    @classmethod
    def adapt(cls, spec: QuantSpec) -> QuantSpec:
        """The spec as this class computes with it; SpecError when it cannot."""
        return spec

    @property
    def mode(self) -> str:
        """Current mode."""
        return self._mode

    @mode.setter
    def mode(self, value: str) -> None:
        before, self._mode = self._mode, _known(value)
        # a Trainer that skips parameters without a request must not see a number that this mode does not train: weight
        # decay alone would move it
        if (value == "offline") != (before == "offline"):
            for name, request in self._requests.items():
                parameter = self._reg_params[name]
                self._requests[name], parameter.grad_req = parameter.grad_req, request

    def hybrid_forward(self, F: ModuleType, x: Tensor, **parameters: Tensor) -> Tensor:
        """`x` as the mode says; shape and dtype of `x`."""
        if self.mode == "float" or self.frozen:
            return F.identity(x, name=GRID) if self.marked else x
        if self.mode == "observe":
            self._observe(F, x)
            return x
        # eagerly an array's identity says nothing: its memory may hold another tensor by the time it is seen again
        if F is mx.nd:
            return self.quantize(F, x, **parameters)
        # layers that read one tensor share their quantizer: in a graph it is quantized once
        if self._traced[0] is not x:
            # -2 copies all remaining axes: a reshape that changes nothing but the memory's layout
            plain = F.reshape(x, shape=(-2,)) if self.reorder_first else x
            self._traced = (x, self.quantize(F, plain, **parameters))
        return self._traced[1]

    def quantize(self, F: ModuleType, x: Tensor, scale: Tensor, ema: Tensor,
                 zero_point: Optional[Tensor] = None) -> Tensor:
        """Fake-quantized `x`; what subclasses define. Receives every parameter of the block by name."""
        raise NotImplementedError

    @property
    def rounds(self) -> bool:
        """Whether what comes out lies on a grid."""
        return self.frozen or self.mode not in ("float", "observe")

    def code_step(self, F: ModuleType, x: Tensor) -> Tensor:
        """What one whole number is worth on the grid that `x` is rounded to in this mode; shape of the scale.

        Grids without a level at zero have odd numbers alone, so that it is half the distance of their levels.
        """
        step = self._grid_step(F, x)
        return step if self.spec.grid == "mid_tread" else step / 2

    def _grid_step(self, F: ModuleType, x: Tensor) -> Tensor:
        """The distance of two levels."""
        if self.mode == "ema" and not self.frozen:
            raise ConfigError(f"{self.name}: weights that are whole numbers have no moving range; take online")
        if self.frozen or self.mode == "offline":
            return self._stored_step(F, x)
        return online_qparams(F, x, self.spec)[0]

    def _stored_step(self, F: ModuleType, x: Tensor) -> Tensor:
        return self._value(F, "scale", x)

    def _value(self, F: ModuleType, name: str, like: Tensor) -> Tensor:
        """A parameter outside `hybrid_forward`, which is handed them."""
        parameter = self._reg_params[name]
        return parameter.var() if F is mx.sym else parameter.data(like.context)

    def fix(self, weight: mx.nd.NDArray) -> mx.nd.NDArray:
        """`weight` (NDArray) rounded once and for all; the scale of the grid it now lies on is stored."""
        if self.mode != "offline":
            self.set_qparams(self.qparams_of(weight))
        return self.quantize(mx.nd, weight, **{name: p.data() for name, p in self._reg_params.items()})

    def qparams_of(self, weight: mx.nd.NDArray) -> QParams:
        """The grid that `quantize` would put a weight on outside the `offline` mode: by default one that covers it."""
        scale, zero_point = online_qparams(mx.nd, weight, self.spec)
        if zero_point is None:
            return QParams.symmetric(scale.asnumpy())
        return QParams(scale.asnumpy(), zero_point.asnumpy().astype("int32"))

    def _clear_cached_op(self) -> None:
        self._traced = (None, None)
        # a symbol kept from an earlier trace would keep that whole graph alive, and could meet one of the same name
        super()._clear_cached_op()

    def _observe(self, F: ModuleType, x: Tensor) -> None:
        if F is mx.sym:
            if self.tracer is None:
                raise ConversionError(f"{self.name}: a hybridized network cannot be observed as it runs; use "
                                      "calib.collect.collect, which runs a graph of its own")
            self.tracer(x)
        elif self.observer is not None:
            self.observer.update(x.asnumpy())

    def set_qparams(self, qparams: QParams) -> None:
        """Store calibrated numbers (shape of the scale)."""
        self._store(self.scale, qparams.scale)
        if self.zero_point is not None:
            self._store(self.zero_point, qparams.zero_point)

    def get_qparams(self) -> QParams:
        """The stored numbers; CalibrationError when there are none yet."""
        if not self.calibrated:
            raise CalibrationError(f"{self.name} has no calibrated range yet; calibrate first, or use online ranges")
        scale = self.scale.data().asnumpy()
        if self.zero_point is None:
            return QParams.symmetric(scale)
        return QParams(scale, self.zero_point.data().asnumpy().astype("int32"))

    @property
    def calibrated(self) -> bool:
        """Whether a scale is stored."""
        if self.scale._data is None:
            return False
        # zero is the mark of "not yet": no grid can have a step of zero
        return bool((self.scale.data().asnumpy() > 0).all())

    def update_ema(self) -> None:
        """Store the range that the moving average has reached; nothing happens before it has seen a batch."""
        low, high, weight = self.ema.data().asnumpy().astype("float64")
        # divided by the weight, the average forgets that it began at zero: a constant input reads right after one batch
        if weight > 0:
            self.set_qparams(reference.qparams_of_range(low / weight, high / weight, self.spec))

    @property
    def threshold(self) -> np.ndarray:
        """Largest representable magnitude under the stored scale (array of the scale's shape)."""
        return self.get_qparams().scale * self.spec.max_level

    @staticmethod
    def _store(parameter: Parameter, values: np.ndarray) -> None:
        # a calibration counts in float64 and may come without the axes of length one that broadcasting needs
        values = values.astype("float32").reshape(parameter.shape)
        if parameter._data is None:
            parameter.initialize()
        parameter.set_data(mx.nd.array(values))

    def __repr__(self) -> str:
        method = "" if self.method == "ste" else self.method + " "
        return f"{self.spec} {method}{'frozen' if self.frozen else self.mode}"


def _known(mode: str) -> str:
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
    return mode
