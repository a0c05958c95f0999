# SPDX-License-Identifier: MIT
"""What every quantized layer is: the Gluon layer plus quantizers for its input and its weight."""

import copy

from mxnet.gluon import Block

from quantize.nn.fake_quantize import FakeQuantize
from quantize.nn.uniform import UniformFakeQuantize


def retyped(layer: Block, cls: type) -> Block:
    """A copy of a Gluon layer as a subclass: same name, options and Parameter objects, own children and hooks."""
    new = copy.copy(layer)
    for name in ("_children", "_reg_params", "_forward_hooks", "_forward_pre_hooks"):
        object.__setattr__(new, name, copy.copy(getattr(layer, name)))
    object.__setattr__(new, "__class__", cls)
    new._clear_cached_op()
    return new


def plain_layout(weight):
    """`weight` in MXNet's plain layout, same values.

    A float convolution in inference leaves its weight in oneDNN's blocked layout, and reshaping a grouped weight in
    that layout fails ("could not create a primitive descriptor for a reorder primitive", oneDNN 2.4 in MXNet 1.9.1).
    Arithmetic brings the plain layout back; multiplying by 1 changes no value.
    """
    return weight * 1


class QuantizedLayer:
    """Mixin placed in front of a Gluon layer that has a weight.

    Attributes
    ----------
    input_quantizer : FakeQuantize or None
    weight_quantizer : FakeQuantize or None
    """

    input_quantizer = None
    weight_quantizer = None

    @classmethod
    def from_float(cls, layer: Block) -> "QuantizedLayer":
        """The quantized layer on the float layer's parameters; operands stay float until `attach`."""
        return retyped(layer, cls)

    def attach(self, input_spec=None, weight_spec=None):
        """Give the layer its quantizers; None leaves that operand float."""
        if input_spec is not None:
            self.input_quantizer = UniformFakeQuantize(input_spec, (1,), prefix=self.prefix + "input_quantizer_")
            self.input_quantizer.reorder_first = True
        if weight_spec is not None:
            shape = weight_spec.scale_shape(self.weight.shape)
            self.weight_quantizer = UniformFakeQuantize(weight_spec, shape, prefix=self.prefix + "weight_quantizer_")
        return self

    def hybrid_forward(self, F, x, weight, bias=None):
        """The layer's own forward on quantized operands."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        if self.weight_quantizer is not None and not self.weight_quantizer.frozen:
            weight = self.weight_quantizer(plain_layout(weight))
        return super().hybrid_forward(F, x, weight, bias)

    @property
    def clips_negative_input(self) -> bool:
        """Whether what is below zero is cut off here anyway, in inference: unsigned input, frozen weights."""
        quantizer, weight = self.input_quantizer, self.weight_quantizer
        return (quantizer is not None and weight is not None and weight.frozen and not quantizer.spec.signed
                and quantizer.spec.symmetric and quantizer.mode in ("online", "offline"))

    def quantizers(self):
        """(name, FakeQuantize) of the operands that are quantized."""
        for name in ("input_quantizer", "weight_quantizer"):
            quantizer = getattr(self, name)
            if isinstance(quantizer, FakeQuantize):
                yield name, quantizer

    def __repr__(self):
        operands = ", ".join("{}={}".format(name.split("_")[0], quantizer) for name, quantizer in self.quantizers())
        return "{}, {})".format(super().__repr__()[:-1], operands)
