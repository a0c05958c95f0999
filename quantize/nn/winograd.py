# SPDX-License-Identifier: MIT
"""Convolutions quantized in the Winograd domain: their weights alone, or the transformed input tiles as well."""

from types import ModuleType
from typing import Any, Mapping, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, HybridBlock, nn

from quantize.nn.conv import QConv2D
from quantize.nn.fake_quantize import FakeQuantize
from quantize.nn.layer import plain_layout
from quantize.nn.methods import METHODS, make_quantizer
from quantize.ops.types import Tensor
from quantize.spec import PerChannel, PerTensor, QuantSpec
from quantize.winograd import KERNEL, WinogradSpec, kernel_matrices, tile_kernels


def why_not(layer: Block) -> str:
    """What keeps a float layer from being computed by Winograd; "" where nothing does."""
    if type(layer) is not nn.Conv2D:
        return "no convolution"
    options = layer._kwargs
    for name, what, needed in (("kernel", "kernel", KERNEL), ("stride", "stride", 1), ("dilate", "dilation", 1)):
        if tuple(options[name]) != (needed, needed):
            return f"{what} {options[name][0]}x{options[name][1]}"
    return ""


class WinogradTransform(HybridBlock):
    """The constant matrices of one layer's transforms, and the transforms themselves.

    The constants are found by `collect_params`, so that a hybridized network knows them, but they are not saved: they
    are no state.

    Parameters
    ----------
    spec : WinogradSpec
    shape : tuple of int
        Of the weight: (outputs, inputs of a group, 3, 3).
    groups : int
    """

    CONSTANTS = ("there", "back", "tiles", "results", "one")

    def __init__(self, spec: WinogradSpec, shape: Tuple[int, ...], groups: int = 1,
                 prefix: Optional[str] = None) -> None:
        super().__init__(prefix=prefix)
        self.spec = spec
        self.outputs, self.inputs = shape[:2]
        self.groups = groups
        self.positions = spec.tile ** 2
        there, back = kernel_matrices(spec.variant)
        constants = {"there": there, "back": back}
        if spec.inputs:
            tiles, results = tile_kernels(spec.variant)
            # a second kernel of zeros where oneDNN 2.4 (MXNet 1.9.1) cannot compute the gradient of a transposed
            # convolution with one: "could not create a primitive descriptor for a reorder primitive"
            self.kernels = 2 if self.positions % 16 == 0 else 1
            results = np.stack([results, 0 * results][:self.kernels], axis=1)
            # the position of the point 1 on both axes: what is added there is added to all outputs of a tile
            one = np.eye(self.positions)[:, spec.tile + 1:spec.tile + 2]
            constants.update(tiles=tiles[:, None, None], results=results, one=one)
        self._constants = {name: self.params.get_constant(name, mx.nd.array(value))
                           for name, value in constants.items()}

    def _constant(self, F: ModuleType, name: str, like: Tensor) -> Tensor:
        constant = self._constants[name]
        return constant.var() if F is mx.sym else constant.data(like.context)

    @property
    def matrix_shape(self) -> Tuple[int, int]:
        """Shape that a transformed weight is quantized in: rows share a scale, unless all do."""
        rows = self.outputs * (self.positions if self.spec.granularity == "position" else 1)
        return rows, self.outputs * self.positions * self.inputs // rows

    def weight_spec(self, spec: QuantSpec) -> QuantSpec:
        """The weight's format with the granularity of the Winograd domain."""
        return spec.with_(granularity=PerTensor() if self.spec.granularity == "layer" else PerChannel(0))

    def tile_spec(self, spec: QuantSpec) -> QuantSpec:
        """The format of transformed tiles (n, positions, channels, rows, columns): signed, with the input's bits."""
        return QuantSpec(spec.bits, granularity=PerChannel(1) if self.spec.granularity == "position" else PerTensor())

    def transform(self, F: ModuleType, weight: Tensor) -> Tensor:
        """G g G^T of each kernel, as a matrix whose rows run over outputs, then positions."""
        kernels = F.reshape(weight, shape=(self.outputs * self.inputs, KERNEL ** 2))
        parts = F.dot(kernels, self._constant(F, "there", weight))
        parts = F.reshape(parts, shape=(self.outputs, self.inputs, self.positions))
        return F.reshape(F.transpose(parts, axes=(0, 2, 1)), shape=self.matrix_shape)

    def back(self, F: ModuleType, matrix: Tensor) -> Tensor:
        """The weight (outputs, inputs of a group, 3, 3) whose transform is nearest to `matrix`."""
        parts = F.reshape(matrix, shape=(self.outputs, self.positions, self.inputs))
        parts = F.reshape(F.transpose(parts, axes=(0, 2, 1)), shape=(-1, self.positions))
        kernels = F.dot(parts, self._constant(F, "back", matrix))
        return F.reshape(kernels, shape=(self.outputs, self.inputs, KERNEL, KERNEL))

    def tiles(self, F: ModuleType, x: Tensor, pad: Tuple[int, int]) -> Tuple[Tensor, Tensor]:
        """B^T d B of all tiles: (n, positions, channels, rows, columns) of tiles, and a slice of the output's size.

        Zeros fill the last tiles up. One channel in three dimensions with the channels as the first of them: so a
        single convolution transforms all channels, and puts the positions in front of them.
        """
        step, side = self.spec.outputs, self.spec.tile
        width = (0, 0, 0, 0) + tuple(size for before in pad for size in (before, before + step - 1))
        x = F.pad(x, mode="constant", constant_value=0, pad_width=width)
        like = F.slice(x, begin=(None, 0, None, None), end=(None, 1, -side + 1, -side + 1))
        kernels = self._constant(F, "tiles", x)
        return F.Convolution(F.expand_dims(x, axis=1), kernels, kernel=(1, side, side), stride=(1, step, step),
                             num_filter=self.positions, no_bias=True), like

    def multiply(self, F: ModuleType, tiles: Tensor, operands: Tuple[Tensor, Optional[Tensor]], like: Tensor) -> Tensor:
        """Output (n, outputs, h, w) of transformed tiles.

        Parameters
        ----------
        operands : (matrix, bias)
            The transformed weight; the bias (outputs,), or None.
        like : any tensor
            As `tiles` returns it.
        """
        matrix, bias = operands
        weight = F.transpose(F.reshape(matrix, shape=(self.outputs, self.positions, self.inputs)), axes=(1, 0, 2))
        weight = F.reshape(weight, shape=(-1, self.inputs, 1, 1))
        count, step = self.positions * self.outputs, self.spec.outputs
        if bias is not None:
            bias = F.reshape(F.dot(self._constant(F, "one", bias), F.reshape(bias, shape=(1, -1))), shape=(-1,))
        products = F.Convolution(F.reshape(tiles, shape=(0, -3, -2)), weight, bias, kernel=(1, 1), num_filter=count,
                                 num_group=self.positions * self.groups, no_bias=bias is None)
        # all channels in one plane, one above the other: the results of tiles do not overlap
        products = F.reshape(products, shape=(0, self.positions, -1, 0))
        y = F.Deconvolution(products, self._constant(F, "results", like), kernel=(step, step), stride=(step, step),
                            num_filter=self.kernels, no_bias=True)
        if self.kernels > 1:
            y = F.slice_axis(y, axis=1, begin=0, end=1)
        return F.slice_like(F.reshape(y, shape=(0, self.outputs, -1, 0)), like, axes=(2, 3))

    def __repr__(self) -> str:
        return str(self.spec)


class WinogradConv2D(QConv2D):
    """A 3x3 convolution computed tile by tile in the Winograd domain, with both factors of its products rounded.

    y = A^T [sum over channels of Q(G g G^T) * Q'(B^T d B)] A + bias, g the weight, d the tiles of the input. The input
    is rounded by its own quantizer first, as an engine keeps it in memory; Q' follows the mode of that quantizer, with
    the range of each batch until ranges are set (`calib.tiles.calibrate_tiles`). What passes in float is convolved
    directly.

    The gradient passes both roundings where they do not clip, and the transforms, which are linear. Where the input's
    step is trained (LSQ), those of Q' are trained as well, from their calibrated start.

    The rounded weight lies on no 3x3 grid, so it is never fixed: the float one stays, and is rounded at each batch.

    Attributes
    ----------
    tile_quantizer : FakeQuantize
    """

    owns = (*QConv2D.owns, "tile_quantizer")
    fixes_weight = False
    folds_norm = False

    def attach(self, input_spec: Optional[QuantSpec] = None, weight_spec: Optional[QuantSpec] = None,
               input_method: str = "ste", weight_method: str = "ste", options: Optional[Mapping[str, Any]] = None,
               transform: Optional[WinogradTransform] = None) -> "WinogradConv2D":
        """See `QuantizedLayer.attach`; both operands and the transform are needed."""
        super().attach(input_spec, weight_spec, input_method, weight_method, options, transform)
        assert input_spec is not None and transform is not None and self.input_quantizer is not None
        spec = transform.tile_spec(input_spec)
        method = METHODS.get("lsq" if self.input_quantizer.trains_step else "ste")
        self.tile_quantizer = make_quantizer(method.activation, spec,
                                             spec.scale_shape((1, transform.positions, 1, 1, 1)),
                                             self.prefix + "tile_quantizer_")
        return self

    def computed(self, F: ModuleType, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """The layer's forward on the quantized input and the float weight."""
        quantizer = self._follow()
        transform = self.weight_transform
        assert self.weight_quantizer is not None and transform is not None
        if quantizer.mode == self.weight_quantizer.mode == "float":
            return super().computed(F, x, weight, bias)
        tiles, like = transform.tiles(F, x, self._kwargs["pad"])
        matrix = self.weight_quantizer(transform.transform(F, plain_layout(weight)))
        y = transform.multiply(F, quantizer(tiles), (matrix, bias), like)
        return y if self.act is None else self.act(y)

    def _follow(self) -> FakeQuantize:
        """The quantizer of tiles, in the mode that its input's quantizer asks for."""
        source, quantizer = self.input_quantizer, self.tile_quantizer
        assert source is not None and quantizer is not None
        quantizer.backend = source.backend
        if source.mode in ("float", "observe"):
            quantizer.mode = "float"
        elif quantizer.observer is not None:
            quantizer.mode = "observe"
        else:
            quantizer.mode = "offline" if source.mode == "offline" and quantizer.calibrated else "online"
        return quantizer
