# SPDX-License-Identifier: MIT
"""What ends the process in oneDNN, as MXNet 1.9.1 calls it, computed otherwise: same values, to the bit.

**BatchNorm** over other than four axes: MXNet hands (N, C) over as a view of shape (N, C, 1, 1). Where a convolution's
output of that shape, in oneDNN's blocked layout, was normalized before in the same process with the same epsilon,
oneDNN takes the two for one primitive: what MXNet then asks of the view, that layout, it cannot have. Four axes are
safe.

**slice** of some channels of a convolution's output that oneDNN holds in blocks of eight: a division by zero, or "could
not construct a sub-memory". A copy has MXNet's plain layout, and `slice_axis` makes one without oneDNN.
"""

import contextlib
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Union

import mxnet as mx
from mxnet.gluon import Block, HybridBlock, nn

Tensor = Union[mx.nd.NDArray, mx.sym.Symbol]
SLICES = ("slice", "crop")  # two names of one operator
MAPS = (0, 0, 1, -1)  # rows (N, C, ...) as maps of one line
_PLAIN = [False]


def over_four_axes(F: ModuleType, x: Tensor, normalize: Callable[[Tensor], Any]) -> Any:
    """``normalize(x)`` of x (N, C, ...) as (N, C, 1, all others); its first output in the shape of `x` again."""
    if _PLAIN[0] or (F is mx.nd and x.ndim == 4):
        return normalize(x)
    found = normalize(F.reshape(x, shape=MAPS))
    if isinstance(found, (list, tuple)):
        return (F.reshape_like(found[0], x), *found[1:])
    return F.reshape_like(found, x)


def guarded(F: ModuleType, op: str, operator: Callable[..., Any]) -> Callable[..., Any]:
    """The operator, or one that computes the same where oneDNN's could fail."""
    if _PLAIN[0] or op not in SLICES:
        return operator
    return lambda x, *operands, **attrs: operator(F.slice_axis(x, axis=0, begin=0, end=None), *operands, **attrs)


@contextlib.contextmanager
def as_written() -> Iterator[None]:
    """Context in which networks are traced as they are written: a BatchNorm or a slice is one operator.

    For those who look at graphs. What is computed, or exported to be, is traced without it.
    """
    before, _PLAIN[0] = _PLAIN[0], True
    try:
        yield
    finally:
        _PLAIN[0] = before


class BatchNorm(nn.BatchNorm):
    """`nn.BatchNorm` along axis 1, for tensors of any number of axes: what `guard_norms` makes of one."""

    def hybrid_forward(self, F: ModuleType, x: Tensor, gamma: Tensor, beta: Tensor, running_mean: Tensor,
                       running_var: Tensor) -> Tensor:
        """The BatchNorm."""
        forward = super().hybrid_forward
        return over_four_axes(F, x, lambda maps: forward(F, maps, gamma, beta, running_mean, running_var))


def float_type(block: Block) -> type:
    """The block's type, and Gluon's BatchNorm for one that is guarded."""
    return nn.BatchNorm if type(block) is BatchNorm else type(block)


def guard_norms(net: Block, input_shape: Optional[Tuple[Optional[int], ...]] = None, inputs: int = 1) -> None:
    """Let the network's BatchNorms compute over four axes, but for those whose input is known to have them.

    In place: who holds a BatchNorm goes on holding it.

    Parameters
    ----------
    input_shape : tuple, optional
        Of the network's input, None for axes of any length. Images in the layout NCHW by default.
    """
    norms = {block.name: block for block in _blocks(net) if type(block) is nn.BatchNorm and block._kwargs["axis"] == 1}
    if not norms or not isinstance(net, HybridBlock):
        return
    axes = _axes(net, input_shape or (None,) * 4, inputs)
    for name, block in norms.items():
        if axes is not None and axes.get(f"{name}_fwd_output", 0) != 4:
            object.__setattr__(block, "__class__", BatchNorm)
            block._clear_cached_op()


def _blocks(block: Block) -> Iterator[Block]:
    yield block
    for child in block._children.values():
        yield from _blocks(child)


def _axes(net: HybridBlock, input_shape: Tuple[Optional[int], ...], inputs: int) -> Optional[Dict[str, int]]:
    """Number of axes of the tensors in a network by MXNet's names, as far as it can tell; None where it cannot."""
    names = ["data"] if inputs == 1 else [f"data{i}" for i in range(inputs)]
    try:
        with as_written():
            found = net(*[mx.sym.var(name) for name in names])
        inside = mx.sym.Group(_flat(found)).get_internals()
        shape = (1, *(length or 0 for length in input_shape[1:]))
        shapes = inside.infer_shape_partial(**{names[0]: shape})[1]
    except Exception:  # a user's forward may raise anything when it is handed symbols
        return None
    return {name: len(shape) for name, shape in zip(inside.list_outputs(), shapes or ())}


def _flat(found: Any) -> List[mx.sym.Symbol]:
    return [each for part in found for each in _flat(part)] if isinstance(found, (list, tuple)) else [found]
