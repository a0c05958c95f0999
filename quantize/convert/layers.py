# SPDX-License-Identifier: MIT
"""The one table of layer types: what can be quantized, by what, and by which names it goes.

A new type is a file with its quantized class and a row here; rules, the traced graph, merging of BatchNorm and the
interfaces read the table.
"""

from dataclasses import dataclass
from typing import Optional, Tuple, Type

from mxnet.gluon import Block, nn

from quantize.nn import (
    Place,
    QActivation,
    QConv1D,
    QConv2D,
    QConv2DTranspose,
    QDense,
    QPlace,
    QReLU6,
    ReLU6,
)
from quantize.nn.layer import QuantizedBlock

# operator in a traced graph -> the axis of its weight that output channels run along
OPERATORS = {"Convolution": 0, "Deconvolution": 1, "FullyConnected": 0}
LAYER_OPS = tuple(OPERATORS)


@dataclass(frozen=True)
class LayerType:
    """One type of layer.

    Parameters
    ----------
    gluon : type
        The exact type: a user's subclass has a forward of its own and is left alone.
    quantized : type or None
        What replaces it; None for a layer that always stays float.
    operator : str
        Its operator in traced graphs; "" for activations, which have no weight.
    aliases : tuple of str
        Names that other tools call it by.
    by_default : bool
        Whether `convert_model` quantizes it where no rules are given.
    """

    gluon: Type[Block]
    quantized: Optional[Type[QuantizedBlock]]
    operator: str = ""
    aliases: Tuple[str, ...] = ()
    by_default: bool = True

    @property
    def name(self) -> str:
        """As rules write it."""
        return self.gluon.__name__

    @property
    def has_weight(self) -> bool:
        """Whether input and weight can be quantized, and not the output alone."""
        return bool(self.operator)

    @property
    def channel_axis(self) -> int:
        """The weight's axis of output channels."""
        return OPERATORS[self.operator]


LAYERS = (
    LayerType(nn.Conv2D, QConv2D, "Convolution", ("Conv2d",)),
    LayerType(nn.Conv2DTranspose, QConv2DTranspose, "Deconvolution", ("ConvTranspose2d",)),
    LayerType(nn.Dense, QDense, "FullyConnected", ("Linear",)),
    LayerType(nn.Conv1D, QConv1D, "Convolution", ("Conv1d",)),
    LayerType(nn.Conv3D, None, "Convolution", ("Conv3d",)),
    LayerType(nn.Conv1DTranspose, None, "Deconvolution", ("ConvTranspose1d",)),
    LayerType(nn.Conv3DTranspose, None, "Deconvolution", ("ConvTranspose3d",)),
    LayerType(nn.Activation, QActivation, by_default=False),
    LayerType(ReLU6, QReLU6, by_default=False),
    LayerType(Place, QPlace, by_default=False),
)
QUANTIZABLE = {row.gluon: row for row in LAYERS if row.quantized is not None}
NAMES = tuple(sorted(row.name for row in QUANTIZABLE.values()))
WEIGHTED = tuple(row.name for row in QUANTIZABLE.values() if row.has_weight)
DEFAULT_TYPES = tuple(row.name for row in QUANTIZABLE.values() if row.by_default)


def quantizable(block: Block) -> Optional[LayerType]:
    """The row of a float layer that can be quantized, None for every other block."""
    return QUANTIZABLE.get(type(block))


def weighted(block: Block) -> Optional[LayerType]:
    """The row of anything that is a layer with a weight, quantized or a user's subclass too; None for other blocks."""
    return next((row for row in LAYERS if row.has_weight and isinstance(block, row.gluon)), None)
