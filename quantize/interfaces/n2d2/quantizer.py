# SPDX-License-Identifier: MIT
"""N2D2's quantizers, as values: what a cell's weights or an activation's output are rounded by."""

from typing import Any, Dict, Optional, Tuple

from quantize.config import Rule, parse_format
from quantize.errors import ConfigError
from quantize.interfaces.n2d2.solver import SGD, Solver
from quantize.registry import closest

MODES = ("Default", "Integer")
LARGEST = 65535


class Quantizer:
    """What a cell or an activation is rounded by.

    Parameters
    ----------
    range : int
        Steps between the lowest and the highest code: 255 is 8 bits, 15 is 4, 1 is one.
    solver : Solver, optional
        Moves the number that the quantizer trains; SGD by default.
    """

    def __init__(self, range: int = 255, solver: Optional[Solver] = None) -> None:
        self.solver: Solver = SGD() if solver is None else solver
        self.set_range(range)

    def set_range(self, range: int) -> None:
        """Round to so many steps."""
        if isinstance(range, bool) or not isinstance(range, int) or not 1 <= range <= LARGEST:
            raise ConfigError(f"range must be a whole number from 1 to {LARGEST}, got {range!r}")
        self.range = range

    def get_range(self) -> int:
        """The steps."""
        return self.range

    def set_solver(self, solver: Solver) -> None:
        """Another solver."""
        self.solver = solver

    @property
    def bits(self) -> int:
        """Bits that hold a code."""
        return self.range.bit_length()

    def _format(self, sign: str, ending: str = "") -> str:
        exact = self.range == 2 ** self.bits - 1
        return f"{sign}{self.bits if exact else f'({self.range})'}/layer{ending}"

    def describe(self) -> Dict[str, Any]:
        """What it is, as JSON can hold it: equal for quantizers that compute the same."""
        return {"type": type(self).__name__, **{name: value for name, value in sorted(vars(self).items())
                                                if name != "solver"}}

    def __repr__(self) -> str:
        said = ", ".join(f"{name}={value}" for name, value in self.describe().items() if name != "type")
        return f"{type(self).__name__}({said})"


class CellQuantizer(Quantizer):
    """Of a cell's weights.

    Parameters
    ----------
    quant_mode : {"Default", "Integer"}
        Weights are real numbers on a grid; or whole numbers, with the grid's step behind the layer's sums.
    """

    quantizing = True

    def __init__(self, range: int = 255, solver: Optional[Solver] = None, quant_mode: str = "Default") -> None:
        if quant_mode not in MODES:
            raise ConfigError(f"quant_mode must be one of {', '.join(MODES)}, got {quant_mode!r}"
                              f"{closest(quant_mode, MODES)}")
        super().__init__(range, solver)
        self.quant_mode = quant_mode

    def rule(self, path: str) -> Rule:
        """The rule for the layer at a path."""
        raise NotImplementedError

    @property
    def _mode_options(self) -> Tuple[Tuple[str, Any], ...]:
        return (("integer_weights", True),) if self.quant_mode == "Integer" else ()

    def set_quantization(self, apply: bool) -> None:
        """Round (True) or only clamp; ConfigError where the method knows no clamping."""
        if not apply:
            raise ConfigError(f"{type(self).__name__} has no stage without rounding; take SATCell, or no quantizer")


class SATCell(CellQuantizer):
    """Scale-adjusted training of weights (`quantize.nn.SATWeight`).

    Parameters
    ----------
    apply_scaling : bool
        Adjust the scale: for layers without BatchNorm behind them.
    apply_quantization : bool
        False: the first stage, in which weights are clamped to [-1, 1] and not rounded.
    """

    def __init__(self, apply_scaling: bool = False, apply_quantization: bool = True, range: int = 255,
                 quant_mode: str = "Default", solver: Optional[Solver] = None) -> None:
        super().__init__(range, solver, quant_mode)
        self.apply_scaling, self.apply_quantization = bool(apply_scaling), bool(apply_quantization)

    def set_quantization(self, apply: bool) -> None:
        """Second stage (True) or first."""
        self.apply_quantization = bool(apply)

    def set_scaling(self, apply: bool) -> None:
        """Adjust the scale, or not."""
        self.apply_scaling = bool(apply)

    @property
    def quantizing(self) -> bool:  # type: ignore[override]
        """Whether weights are rounded."""
        return self.apply_quantization

    def rule(self, path: str) -> Rule:
        """See `CellQuantizer`."""
        return Rule(op_names=(path,), weight=parse_format(self._format("int")), weight_method="sat",
                    options=(("scaling", self.apply_scaling), *self._mode_options), reason="QWeight=SAT")


class LSQCell(CellQuantizer):
    """Learned step size of weights (`quantize.nn.LSQFakeQuantize`), on the codes -(range + 1) / 2 to (range - 1) / 2.

    An even range has the codes -range / 2 to range / 2. A range of 1 has -1/2 and 1/2: of N2D2's two codes, -1 and 0,
    no weight would be positive.

    Parameters
    ----------
    step_size : float
        The step's start, where `step_opt_init_step_size` is False.
    step_opt_init_step_size : bool
        The start is 2 * mean|w| / sqrt(highest code), as LSQ's authors have it.
    """

    def __init__(self, range: int = 255, step_size: float = 100.0, step_opt_init_step_size: bool = True,
                 quant_mode: str = "Default", solver: Optional[Solver] = None) -> None:
        super().__init__(range, solver, quant_mode)
        self.step_size, self.step_opt_init_step_size = _positive("step_size", step_size), step_opt_init_step_size

    def rule(self, path: str) -> Rule:
        """See `CellQuantizer`."""
        weight = parse_format(self._format("int", "" if self.range == 1 else "/full"))
        return Rule(op_names=(path,), weight=weight, weight_method="lsq", options=self._mode_options,
                    reason="QWeight=LSQ")


class ActQuantizer(Quantizer):
    """Of an activation's output: what is below zero becomes zero."""

    def rule(self, path: str) -> Rule:
        """The rule for the activation at a path."""
        raise NotImplementedError


class SATAct(ActQuantizer):
    """PACT with the calibrated gradient (`quantize.nn.CGPACTFakeQuantize`).

    Parameters
    ----------
    alpha : float
        Where the trained upper end starts.
    """

    def __init__(self, alpha: float = 8.0, range: int = 255, solver: Optional[Solver] = None) -> None:
        super().__init__(range, solver)
        self.alpha = _positive("alpha", alpha)

    def rule(self, path: str) -> Rule:
        """See `ActQuantizer`."""
        return Rule(op_names=(path,), output=parse_format(self._format("uint")), output_method="sat",
                    options=(("alpha", self.alpha),), reason="QAct=SAT")


class LSQAct(ActQuantizer):
    """Learned step size of activations (`quantize.nn.LSQActivation`); arguments as those of `LSQCell`."""

    def __init__(self, range: int = 255, step_size: float = 100.0, step_opt_init_step_size: bool = True,
                 solver: Optional[Solver] = None) -> None:
        super().__init__(range, solver)
        self.step_size, self.step_opt_init_step_size = _positive("step_size", step_size), step_opt_init_step_size

    def rule(self, path: str) -> Rule:
        """See `ActQuantizer`."""
        return Rule(op_names=(path,), output=parse_format(self._format("uint")), output_method="lsq",
                    reason="QAct=LSQ")


def _positive(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ConfigError(f"{name} must be a positive number, got {value!r}")
    return float(value)


def fuse_qat(deepnet: Any, provider: Any, scaling: str = "NONE") -> Any:
    """The network of whole numbers alone: BatchNorms absorbed, quantizers gone (`DeepNetCell.fuse`).

    Parameters
    ----------
    deepnet : DeepNetCell
        Becomes that network, until its next `learn()`.
    provider : DataProvider
    scaling : str
    """
    return deepnet.fuse(provider, scaling)
