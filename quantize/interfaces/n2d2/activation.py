# SPDX-License-Identifier: MIT
"""N2D2's activation functions, which can carry a quantizer for their output."""

from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

from mxnet.gluon import nn

from quantize.importers.graph_block import LayerSpec, Step
from quantize.interfaces.n2d2.quantizer import ActQuantizer

LECUN = 1.7159 * 2 / 3
CARRIER = "_quant"  # behind the name of an activation that computes something else than a ReLU


@dataclass
class ActivationFunction:
    """A function behind a cell.

    Parameters
    ----------
    quantizer : ActQuantizer, optional
        Rounds what comes out; below zero it gives zero.
    """

    quantizer: Optional[ActQuantizer] = None

    def computed(self, name: str, source: str) -> List[Step]:
        """The steps of the function itself; empty where it is the identity."""
        return []

    def steps(self, name: str, source: str) -> Tuple[List[Step], str]:
        """(Steps from a tensor on, path of the layer that carries the quantizer, "" without one)."""
        if self.quantizer is None:
            return self.computed(name, source), ""
        # the quantizer is a ReLU itself, so that one is enough; any other function comes before it
        if isinstance(self, Rectifier) and self.plain:
            return [_relu(name, source)], name
        found = self.computed(name, source)
        if not found:
            return [_relu(name, source)], name
        carrier = _relu(name + CARRIER, found[-1].outputs[0])
        return found + [carrier], carrier.name


def _relu(name: str, source: str) -> Step:
    return Step(name, (source,), (name + ":out",), layer=LayerSpec(nn.Activation, {"activation": "relu"}))


def _layer(name: str, source: str, kind: type, **options: object) -> Step:
    return Step(name, (source,), (name + ":out",), layer=LayerSpec(kind, options))


def _call(name: str, source: str, op: str, **attrs: object) -> Step:
    return Step(name, (source,), (name + ":out",), op=op, attrs=attrs)


@dataclass
class Linear(ActivationFunction):
    """The identity."""


@dataclass
class Rectifier(ActivationFunction):
    """max(x, 0); leak_slope * x below zero, and not above `clipping` where that is not 0."""

    leak_slope: float = 0.0
    clipping: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether it is a ReLU."""
        return not self.leak_slope and not self.clipping

    def computed(self, name: str, source: str) -> List[Step]:
        """See `ActivationFunction`."""
        if self.plain:
            return [_relu(name, source)]
        first = _layer(name, source, nn.LeakyReLU, alpha=self.leak_slope) if self.leak_slope else _relu(name, source)
        if not self.clipping:
            return [first]
        return [first, _call(name + "_clip", first.outputs[0], "clip", a_min=-3e38, a_max=self.clipping)]


@dataclass
class Tanh(ActivationFunction):
    """tanh(alpha * x)."""

    alpha: float = 1.0

    def computed(self, name: str, source: str) -> List[Step]:
        """See `ActivationFunction`."""
        if self.alpha == 1:
            return [_layer(name, source, nn.Activation, activation="tanh")]
        scaled = _call(name + "_scaled", source, "_mul_scalar", scalar=self.alpha)
        return [scaled, _layer(name, scaled.outputs[0], nn.Activation, activation="tanh")]


@dataclass
class TanhLeCun(Tanh):
    """tanh(1.7159 * 2 / 3 * x)."""

    alpha: float = LECUN


@dataclass
class Logistic(ActivationFunction):
    """1 / (1 + exp(-x))."""

    def computed(self, name: str, source: str) -> List[Step]:
        """See `ActivationFunction`."""
        return [_layer(name, source, nn.Activation, activation="sigmoid")]


@dataclass
class Softplus(ActivationFunction):
    """log(1 + exp(x))."""

    def computed(self, name: str, source: str) -> List[Step]:
        """See `ActivationFunction`."""
        return [_layer(name, source, nn.Activation, activation="softrelu")]


@dataclass
class Saturation(ActivationFunction):
    """min(max(x, -1), 1)."""

    def computed(self, name: str, source: str) -> List[Step]:
        """See `ActivationFunction`."""
        return [_call(name, source, "clip", a_min=-1.0, a_max=1.0)]


ACTIVATIONS: Dict[str, type] = {kind.__name__: kind for kind in (Linear, Rectifier, Tanh, TanhLeCun, Logistic, Softplus,
                                                                 Saturation)}
