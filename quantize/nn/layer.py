# SPDX-License-Identifier: MIT
"""What every quantized layer is: the Gluon layer plus quantizers for its input, its weight and its output."""

import copy
from types import ModuleType
from typing import TYPE_CHECKING, Any, Iterator, Mapping, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, Parameter

from quantize.nn.fake_quantize import FakeQuantize
from quantize.nn.fold import FoldedBatchNorm
from quantize.nn.integer_weights import check_integer_weights, has_integer_weights, integer_product
from quantize.nn.methods import METHODS, make_quantizer
from quantize.ops import quantize_gradient
from quantize.ops.types import Tensor
from quantize.spec import QuantSpec

if TYPE_CHECKING:  # a mixin, put in front of a Gluon layer; and a module that imports this one
    from mxnet.gluon import HybridBlock as _Base

    from quantize.nn.winograd import WinogradTransform
else:
    _Base = object


def retyped(layer: Block, cls: type) -> Block:
    """A copy of a Gluon layer as a subclass: same name, options and Parameter objects, own children and hooks."""
    # Block.__setattr__ refuses a child of an unrelated class and the class itself, so that the copy is dressed from
    # outside; children and hooks are copied apart, else both layers would share the dictionaries
    new = copy.copy(layer)
    for name in ("_children", "_reg_params", "_forward_hooks", "_forward_pre_hooks"):
        object.__setattr__(new, name, copy.copy(getattr(layer, name)))
    object.__setattr__(new, "__class__", cls)
    # what was traced of the float layer would go on computing in float
    new._clear_cached_op()
    return new


def plain_layout(weight: Tensor) -> Tensor:
    """`weight` in MXNet's plain layout, same values.

    A float convolution in inference leaves its weight in oneDNN's blocked layout, and reshaping a grouped weight in
    that layout fails ("could not create a primitive descriptor for a reorder primitive", oneDNN 2.4 in MXNet 1.9.1).
    Arithmetic brings the plain layout back; multiplying by 1 changes no value.
    """
    return weight * 1


def make_writable(parameter: Parameter) -> None:
    """Move a weight into memory of its own in MXNet's plain layout, where it is of three axes; same values.

    What a convolution over one axis in inference leaves in oneDNN's blocked layout can be read, but not written to
    (MXNet 1.9.1: "Check failed: to.IsDefaultData()", at some later call). Other weights can.
    """
    if parameter._data is not None and len(parameter.shape) == 3:
        # the one call that replaces a parameter's memory instead of writing into it
        parameter.reset_ctx(parameter.list_ctx())


class QuantizedBlock(_Base):
    """Mixin of everything that holds quantizers: all that can be asked of it is declared here.

    Attributes
    ----------
    has_weight : bool
        Whether there is a weight, and with it whatever is said of weights below.
    owns : tuple of str
        Attributes that hold what conversion added: blocks whose parameters no float checkpoint has.
    input_quantizer : FakeQuantize or None
    weight_quantizer : FakeQuantize or None
    output_quantizer : FakeQuantize or None
        For what the layer puts out, behind a folded BatchNorm and the layer's own activation.
    tile_quantizer : FakeQuantize or None
        For input tiles in the Winograd domain; it follows the input's quantizer.
    weight_transform : WinogradTransform or None
        Where the weight is quantized in another domain: what takes it there and back.
    norm : FoldedBatchNorm or None
        The BatchNorm behind the layer, where its factor is folded into the weight before that is quantized.
    gradient_bits : int or None
        The gradient of the output is rounded to so many bits (DoReFa).
    integer_weights : bool
        The layer multiplies with the weight's codes, and with their step behind the sums.
    float_bias : NDArray or None
        What the bias was before it was corrected (`calib.bias_correction`).
    unrounded : object or None
        What weight and bias were before their rounding was learned (`calib.rounding`).
    fixes_weight : bool
        Whether `quantize.modes.fix_params` can replace the weight by the rounded one.
    """

    has_weight = False
    owns: Tuple[str, ...] = ("input_quantizer", "weight_quantizer", "output_quantizer", "weight_transform")
    input_quantizer: Optional[FakeQuantize] = None
    weight_quantizer: Optional[FakeQuantize] = None
    output_quantizer: Optional[FakeQuantize] = None
    tile_quantizer: Optional[FakeQuantize] = None
    weight_transform: Optional["WinogradTransform"] = None
    norm: Optional[FoldedBatchNorm] = None
    gradient_bits: Optional[int] = None
    integer_weights = False
    float_bias: Optional[mx.nd.NDArray] = None
    unrounded: Optional[object] = None
    fixes_weight = True

    def added(self) -> Iterator[Block]:
        """What `owns` names, where it is there."""
        for name in self.owns:
            block = getattr(self, name)
            if block is not None:
                yield block

    def quantizers(self) -> Iterator[Tuple[str, FakeQuantize]]:
        """(name, FakeQuantize) of the operands that are quantized."""
        for name in ("input_quantizer", "weight_quantizer", "output_quantizer"):
            quantizer = getattr(self, name)
            if quantizer is not None:
                yield name, quantizer


class QuantizedLayer(QuantizedBlock):
    """Mixin placed in front of a Gluon layer that has a weight.

    Attributes
    ----------
    channel_axis : int
        The weight's axis of output channels.
    output_axis : int
        The output's axis of channels.
    groups_are_channels : bool
        A scale for each group means one for each channel.
    folds_norm : bool
        Whether a BatchNorm behind the layer can be folded into its weight.
    """

    has_weight = True
    channel_axis = 0
    output_axis = 1
    groups_are_channels = False
    folds_norm = True

    @classmethod
    def groups_of(cls, layer: Block) -> int:
        """Groups of input channels of a layer of this kind, float or quantized."""
        return 1

    @classmethod
    def from_float(cls, layer: Block) -> "QuantizedLayer":
        """The quantized layer on the float layer's parameters; operands stay float until `attach`."""
        return retyped(layer, cls)

    def attach(self, input_spec: Optional[QuantSpec] = None, weight_spec: Optional[QuantSpec] = None,
               input_method: str = "ste", weight_method: str = "ste", options: Optional[Mapping[str, Any]] = None,
               transform: Optional["WinogradTransform"] = None) -> "QuantizedLayer":
        """Give the layer its quantizers; None leaves that operand float.

        Parameters
        ----------
        transform : WinogradTransform, optional
            The weight is quantized as it leaves it, with its granularity.
        """
        options = dict(options or {})
        # these options belong to the layer and not to one of its quantizers
        self.gradient_bits = options.pop("gradient_bits", None)
        self.integer_weights = options.pop("integer_weights", False)
        if self.integer_weights:
            check_integer_weights(weight_spec, transform is not None, False)
        if input_spec is not None:
            self.input_quantizer = make_quantizer(METHODS.get(input_method).activation, input_spec, (1,),
                                                  self.prefix + "input_quantizer_", options)
            self.input_quantizer.reorder_first = True
        if weight_spec is not None:
            shape = self.weight.shape
            # the axis that is not the output channels' is the inputs', in a transposed convolution the first
            options["fan_out"] = int(np.prod(shape)) // shape[1 - self.channel_axis]
            if transform is not None:
                self.weight_transform = transform
                weight_spec, shape = transform.weight_spec(weight_spec), transform.matrix_shape
            self.weight_quantizer = make_quantizer(METHODS.get(weight_method).weight, weight_spec,
                                                   weight_spec.scale_shape(shape), self.prefix + "weight_quantizer_",
                                                   options)
        return self

    def attach_output(self, spec: QuantSpec, method: str = "ste",
                      options: Optional[Mapping[str, Any]] = None) -> "QuantizedLayer":
        """Give the layer a quantizer for its output."""
        self.output_quantizer = make_quantizer(METHODS.get(method).activation, spec, (1,),
                                               self.prefix + "output_quantizer_", options or {})
        return self

    def hybrid_forward(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """The layer's own forward on quantized operands."""
        if self.input_quantizer is not None:
            x = self.input_quantizer(x)
        if self.norm is not None:
            y = self.norm.normalized(F, self, self.convolved, (x, weight, bias))
        else:
            y = self.computed(F, x, weight, bias)
        if self.output_quantizer is not None:
            y = self.output_quantizer(y)
        # behind everything else: forward it is the identity, and backward it comes first
        return y if self.gradient_bits is None else quantize_gradient(F, y, self.gradient_bits)

    def computed(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """The layer's forward on the quantized input and the float weight."""
        if has_integer_weights(self):
            return integer_product(F, self, x, weight, bias)
        return self.convolved(F, x, self.rounded(F, weight), bias)

    def convolved(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """The float layer's forward on a weight that may be computed."""
        return super().hybrid_forward(F, x, weight, bias)

    def product(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """Sums of products, without the layer's activation."""
        raise NotImplementedError

    def rounded(self, F: ModuleType, weight: Tensor) -> Tensor:
        """`weight` as its quantizer leaves it."""
        quantizer, transform = self.weight_quantizer, self.weight_transform
        # a frozen weight was rounded in place by `fix_params`: what is stored is what engines hold
        if quantizer is None or quantizer.frozen:
            return weight
        weight = plain_layout(weight)
        if transform is None or quantizer.mode == "float":
            return quantizer(weight)
        return transform.back(F, quantizer(transform.transform(F, weight)))

    def effective_weight(self) -> mx.nd.NDArray:
        """The float weight (NDArray) as the weight quantizer meets it.

        With the factor of a folded BatchNorm, and in the domain it is quantized in.
        """
        weight = plain_layout(self.weight.data())
        if self.norm is not None:
            weight = self.norm.fold(mx.nd, weight)
        return weight if self.weight_transform is None else self.weight_transform.transform(mx.nd, weight)

    def fixed_weight(self) -> mx.nd.NDArray:
        """What the weight (NDArray) is replaced with so that it need not be quantized again; its scale is stored."""
        assert self.weight_quantizer is not None
        # the factor of a folded BatchNorm is divided out again: the layer multiplies it back at every forward pass
        fixed = self.weight_quantizer.fix(self.effective_weight())
        if self.weight_transform is not None:
            fixed = self.weight_transform.back(mx.nd, fixed)
        return fixed if self.norm is None else self.norm.unfold(mx.nd, fixed)

    @property
    def clips_negative_input(self) -> bool:
        """Whether what is below zero is cut off here anyway: unsigned input, and in inference (frozen weights).

        PACT does so in training too, with the gradient of a ReLU.
        """
        quantizer, weight = self.input_quantizer, self.weight_quantizer
        if quantizer is not None and quantizer.clips_negative and quantizer.mode == "offline":
            return True
        return (quantizer is not None and weight is not None and weight.frozen and not quantizer.spec.signed
                and quantizer.spec.symmetric and quantizer.mode in ("online", "offline"))

    def __repr__(self) -> str:
        operands = ", ".join(f"{name.split('_')[0]}={quantizer}" for name, quantizer in self.quantizers())
        if self.norm is not None:
            operands += f", norm={self.norm}"
        return f"{super().__repr__()[:-1]}, {operands})"
