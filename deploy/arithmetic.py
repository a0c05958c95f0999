# SPDX-License-Identifier: MIT
"""How an engine rounds: the two steps where integers meet real numbers, as objects the engine is handed."""

from dataclasses import replace
from typing import Any, Callable, Mapping, Optional, Tuple

import numpy as np
from numpy.typing import ArrayLike

from deploy.ir import Grid, Model, QuantizedNode
from quantize.errors import DeployError
from quantize.reference import ROUND

# 16 bits, with a step that is still to be found
UNSETTLED = Grid(1.0, 0, -(2 ** 15 - 1), 2 ** 15 - 1)


def weight_type(qmax: int) -> Any:
    """The type that codes of weights up to `qmax` are kept in."""
    return np.int8 if qmax <= 127 else np.int16


class Arithmetic:
    """The textbook's arithmetic: divide by the scale, round to the nearest, round after each float32 operation.

    Targets subclass it where their engine computes otherwise.

    Attributes
    ----------
    operations : dict
        Node type -> function that replaces the one of `deploy.engine.operations`.
    functions : dict
        Kind of activation function -> function that replaces the one of `deploy.engine.activation`.
    rounding : str
        What happens to exact halves, as `QuantSpec.rounding` says it: formats that say otherwise are refused.
    takes_reals : bool
        Layers of which the weight alone is quantized compute in integers, too: the grid of their input is `UNSETTLED`,
        until somebody who knows how large the input can be finds one.
    spreads : bool
        Quantized transposed convolutions become convolutions of an input with zeros in it (`deploy.ir.Spread`).
    codes : (int, int) or None
        The only smallest and largest code that the engine clips inputs to; None: whatever a grid says.
    """

    name = "plain"
    rounding = "half_away"
    takes_reals = False
    spreads = True
    codes: Optional[Tuple[int, int]] = None
    operations: Mapping[type, Callable] = {}
    functions: Mapping[str, Callable] = {}

    def bound(self, model: Model) -> "Arithmetic":
        """The arithmetic for one model, where it depends on what is around a node; else itself."""
        return self

    def function(self, kind: str, node: Any) -> Optional[Callable[..., np.ndarray]]:
        """The engine's own version of an activation function within a node; None: as everywhere."""
        return self.functions.get(kind)

    def quantize(self, x: ArrayLike, grid: Grid) -> np.ndarray:
        """Codes (int32) of a float32 array on a `Grid`."""
        scaled = np.asarray(x, np.float32) / np.float32(grid.scale)
        return self._code(scaled, grid)

    def held(self, grid: Grid) -> Tuple[Grid, Optional[Tuple[float, float]]]:
        """(The grid that the engine rounds an input to, what the input is to be clipped to before; None: to nothing).

        An engine that always clips to its own codes holds every grid with fewer of them, once what is beyond their
        smallest and largest value is cut off: those values are codes themselves, so that nothing else changes.
        """
        if self.codes is None or (grid.qmin, grid.qmax) == self.codes or not self.holds(grid):
            return grid, None
        low, high = (float(np.float32(code) * np.float32(grid.scale)) for code in (grid.qmin, grid.qmax))
        return replace(grid, qmin=self.codes[0], qmax=self.codes[1]), (low, high)

    def holds(self, grid: Grid) -> bool:
        """Whether every code of a grid is one that the engine has."""
        if self.codes is None:
            return True
        return grid.zero_point == 0 and self.codes[0] <= grid.qmin and grid.qmax <= self.codes[1]

    def quantize_weight(self, weight: np.ndarray, scale: ArrayLike, qmax: int) -> np.ndarray:
        """Codes (int8; int16 where `qmax` is beyond 127) of a weight; `scale` (outputs,) belongs to the first axis."""
        shape = (-1,) + (1,) * (weight.ndim - 1)
        scaled = np.asarray(weight, np.float32) / np.asarray(scale, np.float32).reshape(shape)
        return np.clip(ROUND[self.rounding](scaled), -qmax, qmax).astype(weight_type(qmax))

    def dequantize(self, accumulator: np.ndarray, node: QuantizedNode) -> np.ndarray:
        """Real output (float32), before the activation, of a layer's integer sums (batch, outputs, ...)."""
        quantization = node.quantization
        scale = np.float32(quantization.input.scale) * quantization.weight_scale.astype(np.float32)
        y = accumulator.astype(np.float32) * per_channel(scale, accumulator.ndim)
        return y if node.bias is None else y + per_channel(node.bias, accumulator.ndim)

    def _code(self, scaled, grid):
        if np.isnan(scaled).any():
            raise DeployError("a blob to be quantized holds values that are not numbers")
        return np.clip(ROUND[self.rounding](scaled) + grid.zero_point, grid.qmin, grid.qmax).astype(np.int32)


def real(codes: np.ndarray, grid: Grid) -> np.ndarray:
    """The real values (float32) that codes stand for."""
    return (codes - grid.zero_point).astype(np.float32) * np.float32(grid.scale)


def per_channel(values: ArrayLike, ndim: int) -> np.ndarray:
    """A (channels,) array that broadcasts along axis 1 of a tensor with `ndim` axes."""
    return np.asarray(values, np.float32).reshape((1, -1) + (1,) * (ndim - 2))
