# SPDX-License-Identifier: MIT
"""Activations: ReLU6, and an activation whose output is quantized."""

from types import ModuleType
from typing import Any, FrozenSet, Iterable, Mapping, Optional

from mxnet.gluon import ParameterDict, nn

from quantize.nn.layer import QuantizedBlock, QuantizedLayer, retyped
from quantize.nn.methods import METHODS, make_quantizer
from quantize.ops.types import Tensor
from quantize.spec import QuantSpec


class ReLU6(nn.Activation):
    """min(max(x, 0), 6), in the place of an `nn.Activation('relu')`."""

    def __init__(self, prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__("relu", prefix=prefix, params=params)

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:
        """Clipped `x`, same shape."""
        return F.clip(x, 0, 6)

    def __repr__(self) -> str:
        return "ReLU6"


class SkippableReLU(nn.Activation):
    """A ReLU that is the identity while all its readers cut off what is below zero themselves.

    That is so in inference with frozen weights. In training a ReLU stays one: where the quantizer's code is 0 its
    straight-through gradient is 1, and the ReLU's is 0.
    """

    readers: FrozenSet[QuantizedLayer] = frozenset()

    @classmethod
    def from_float(cls, layer: nn.Activation, readers: Iterable[QuantizedLayer]) -> "SkippableReLU":
        """The same activation, knowing the quantized layers that read it (and nobody else does)."""
        new = retyped(layer, cls)
        # a set: Gluon takes lists and tuples of blocks for children that somebody forgot to register
        new.readers = frozenset(readers)
        return new

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:
        """Rectified `x`, or `x` where nobody sees the difference."""
        return x if all(reader.clips_negative_input for reader in self.readers) else super().hybrid_forward(F, x)


class QActivation(QuantizedBlock, nn.Activation):
    """`nn.Activation` whose *output* is fake-quantized; PACT, DoReFa and BNN quantizers take the activation's place.

    Attributes
    ----------
    output_quantizer : FakeQuantize or None
    """

    @classmethod
    def from_float(cls, layer: nn.Activation) -> "QActivation":
        """A quantized activation with the float one's name and type."""
        return retyped(layer, cls)

    def attach(self, output_spec: QuantSpec, output_method: str = "ste",
               options: Optional[Mapping[str, Any]] = None) -> "QActivation":
        """Give the activation its quantizer."""
        self.output_quantizer = make_quantizer(METHODS.get(output_method).activation, output_spec, (1,),
                                               self.prefix + "output_quantizer_", options or {})
        return self

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:
        """Activation, then its output's quantizer; or the quantizer alone where it is an activation itself."""
        quantizer = self.output_quantizer
        assert quantizer is not None  # rules make this layer only where the output is quantized
        clips = quantizer.clips_negative and quantizer.mode == "offline"
        if quantizer.mode not in ("float", "observe") and (quantizer.replaces_activation or clips):
            return quantizer(x)
        return quantizer(super().hybrid_forward(F, x))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._act_type}, output={self.output_quantizer})"


class Place(nn.Activation):
    """Nothing at all: a place between layers whose tensor can be quantized, as an activation's output can."""

    def __init__(self, prefix: Optional[str] = None, params: Optional[ParameterDict] = None) -> None:
        super().__init__("relu", prefix=prefix, params=params)
        self._act_type = "identity"

    def hybrid_forward(self, F: ModuleType, x: Tensor) -> Tensor:
        """`x`, by an operator of its own, so that the place is seen in traced graphs."""
        return F.identity(x, name="fwd")

    def __repr__(self) -> str:
        return "Place"


class QPlace(QActivation, Place):
    """`Place` whose tensor is fake-quantized."""


class QReLU6(QActivation, ReLU6):
    """`ReLU6` whose output is fake-quantized."""
