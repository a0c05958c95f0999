# SPDX-License-Identifier: MIT
"""Networks of several inputs: batches hold them side by side in one array, which the network takes apart.

Calibration, simulation, proof and stored samples work on one array for each batch. Where a network has several inputs,
each image's are flattened and joined, in the network's order, to one row of values (n, values); `pack` lets the network
itself take such an array, in eager mode, hybridized and traced alike. It goes on taking its inputs one by one, too, and
what is deployed has them one by one (`deploy.ir.packed`).
"""

from typing import TYPE_CHECKING, Any, Dict, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block

from quantize.errors import DataError
from quantize.storage.graph import StoredNet

if TYPE_CHECKING:  # a mixin, put in front of the class of whatever network has several inputs
    from mxnet.gluon import HybridBlock as _Base
else:
    _Base = object

Shape = Tuple[int, ...]
_CLASSES: Dict[type, type] = {}


class PackedNet(_Base):
    """Mixin of a network with several inputs that takes them in one array as well.

    Attributes
    ----------
    packed_shapes : tuple of tuple of int
        Of the inputs, without the batch axis.
    """

    packed_shapes: Tuple[Shape, ...] = ()

    def __call__(self, *inputs: Any) -> Any:
        """The outputs; one input is all of them, packed."""
        if len(inputs) == 1:
            inputs = tuple(_taken_apart(inputs[0], self.packed_shapes))
        return super().__call__(*inputs)


def _taken_apart(x, shapes):
    F = mx.sym if isinstance(x, mx.sym.Symbol) else mx.nd
    start = 0
    for shape in shapes:
        size = int(np.prod(shape))
        yield F.reshape(F.slice_axis(x, axis=1, begin=start, end=start + size), shape=(0, *shape))
        start += size


def input_names(net: Block) -> Tuple[str, ...]:
    """What a network calls its inputs; () where that is not known, as of somebody's own blocks."""
    if isinstance(net, StoredNet):
        return tuple(f"data{number}" for number in range(net.inputs))
    return tuple(getattr(net, "input_names", ()))


def inputs_of(net: Block) -> Sequence[Shape]:
    """Shapes of the inputs of a network that takes them packed; () for others."""
    return net.packed_shapes if isinstance(net, PackedNet) else ()


def pack(net: Block, shapes: Sequence[Shape], origin: str) -> None:
    """Let a network of several inputs take them packed, in place.

    Parameters
    ----------
    shapes : sequence of tuple of int
        Of what an image consists of.
    origin : str
        What to call that image.

    Raises
    ------
    DataError
        For another number of parts than the network has inputs, or shapes that its file declares otherwise.
    """
    names = input_names(net)
    if names and len(names) != len(shapes):
        given = "one" if len(shapes) == 1 else f"{len(shapes)}"
        raise DataError(f"the network takes {len(names)} inputs ({', '.join(names)}), {origin} is {given}; a function "
                        "for --data gives each image as a tuple of as many arrays, in this order, with its label")
    if len(shapes) == 1:
        return
    for name, shape, declared in zip(names, shapes, getattr(net, "input_shapes", ())):
        if not _fits(shape, declared):
            raise DataError(f"the network's input {name} has the shape {tuple(declared[1:])}, that of {origin} "
                            f"{tuple(shape)}")
    cls = type(net)
    if cls not in _CLASSES:
        _CLASSES[cls] = type(cls.__name__, (PackedNet, cls), {"__doc__": PackedNet.__doc__})
    net.__class__ = _CLASSES[cls]
    net.packed_shapes = tuple(map(tuple, shapes))


def _fits(shape: Shape, declared: Optional[Sequence[Optional[int]]]) -> bool:
    if not declared:
        return True
    wanted = tuple(declared)[1:]
    return len(wanted) == len(shape) and all(want in (None, 0, have) for want, have in zip(wanted, shape))
