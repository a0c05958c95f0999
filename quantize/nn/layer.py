# SPDX-License-Identifier: MIT
"""What every quantized layer is: the Gluon layer plus quantizers for its input and its weight."""

from quantize.nn.fake_quantize import FakeQuantize
from quantize.nn.uniform import UniformFakeQuantize


class QuantizedLayer:
    """Mixin placed in front of a Gluon layer that has a weight.

    Attributes
    ----------
    input_quantizer : FakeQuantize or None
    weight_quantizer : FakeQuantize or None
    """

    input_quantizer = None
    weight_quantizer = None

    def attach(self, input_spec=None, weight_spec=None):
        """Give the layer its quantizers; None leaves that operand float."""
        if input_spec is not None:
            self.input_quantizer = UniformFakeQuantize(input_spec, (1,), prefix=self.prefix + "input_quantizer_")
        if weight_spec is not None:
            shape = weight_spec.scale_shape(self.weight.shape)
            self.weight_quantizer = UniformFakeQuantize(weight_spec, shape, prefix=self.prefix + "weight_quantizer_")
        return self

    def hybrid_forward(self, F, x, weight, bias=None):
        """The layer's own forward on quantized operands."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        if self.weight_quantizer is not None:
            weight = self.weight_quantizer(weight)
        return super().hybrid_forward(F, x, weight, bias)

    def quantizers(self):
        """(name, FakeQuantize) of the operands that are quantized."""
        for name in ("input_quantizer", "weight_quantizer"):
            quantizer = getattr(self, name)
            if isinstance(quantizer, FakeQuantize):
                yield name, quantizer

    def __repr__(self):
        operands = ", ".join("{}={}".format(name.split("_")[0], quantizer) for name, quantizer in self.quantizers())
        return "{}, {})".format(super().__repr__()[:-1], operands)
