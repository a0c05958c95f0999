# SPDX-License-Identifier: MIT
"""Blocks with a `Place` behind them."""

from types import ModuleType
from typing import TYPE_CHECKING, Dict

from mxnet.gluon import Block

from quantize.errors import ConversionError
from quantize.nn.activation import Place
from quantize.ops.types import Tensor

if TYPE_CHECKING:
    from mxnet.gluon import HybridBlock as _Base
else:
    _Base = object

OUTPUT = "output"
_CLASSES: Dict[type, type] = {}


class PlacedOutput(_Base):
    """Mixin of a block whose only output passes through its child `output`."""

    def hybrid_forward(self, F: ModuleType, *inputs: Tensor, **parameters: Tensor) -> Tensor:
        """The block's own forward, then the place."""
        # blocks that run all of their children must not find it among them
        place = self._children.pop(OUTPUT)
        try:
            y = super().hybrid_forward(F, *inputs, **parameters)
        finally:
            self._children[OUTPUT] = place
        if isinstance(y, (list, tuple)):
            raise ConversionError(f"{self.name}: it has {len(y)} outputs; only a block with one can have it quantized")
        return place(y)


def placed(block: Block) -> Block:
    """The same block, of a class with `PlacedOutput` in front, whoever holds it; nothing new where it has one."""
    kind = type(block)
    if isinstance(block, PlacedOutput):
        return block
    if kind not in _CLASSES:
        _CLASSES[kind] = type(kind.__name__, (PlacedOutput, kind), {"__module__": __name__, "__doc__": kind.__doc__})
    block._children[OUTPUT] = Place(prefix=block.prefix + OUTPUT + "_")
    object.__setattr__(block, "__class__", _CLASSES[kind])
    block._clear_cached_op()
    return block
