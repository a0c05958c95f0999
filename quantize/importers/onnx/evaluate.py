# SPDX-License-Identifier: MIT
"""What nodes compute from constants alone (by onnx's reference evaluator) and from sizes that are partly open.

Kept libraries were looked at: `onnx.reference` comes with the pinned onnx and computes single nodes of every opset, so
nothing else is needed at run time. onnxsim and ONNX Runtime's optimizer fix the batch axis, rewrite what they cannot
name (fused operators of their own domain) and would be 20 MB or more for users who import a file.
"""

import logging
import warnings
from typing import Any, Callable, Dict, Iterable, List, Optional, Sequence

import numpy as np
import onnx
from onnx import helper

from quantize.importers.onnx.sizes import Length, OpenSize, array_of, divided, equal, is_open, whole

# An array larger than this is no weight of a CNN (1 GB of float32).
LARGEST = 2 ** 28
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
# The evaluator has these from opset 19 on only, where they mean what they meant before.
_FROM_19 = {"QuantizeLinear", "DequantizeLinear"}
_logger = logging.getLogger(__name__)


def evaluated(proto: onnx.NodeProto, values: Sequence[Optional[np.ndarray]], opset: int
              ) -> Optional[List[Optional[np.ndarray]]]:
    """The outputs of a node whose inputs are all constant (None: absent); None where that cannot be computed."""
    from onnx.reference import ReferenceEvaluator
    if proto.op_type in _RANDOM or any(entry.type == onnx.AttributeProto.GRAPH for entry in proto.attribute):
        return None
    feeds: Dict[str, Any] = {name: value for name, value in zip(proto.input, values) if name}
    opset = max(opset, 19) if proto.op_type in _FROM_19 else opset
    try:
        infos = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                 for name, value in feeds.items()]
        outputs = [helper.make_value_info(name, onnx.TypeProto()) for name in proto.output if name]
        model = helper.make_model(helper.make_graph([proto], "constants", infos, outputs),
                                  opset_imports=[helper.make_opsetid("", opset)])
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception as error:  # the evaluator raises whatever NumPy and its own operators do
        _logger.debug("%s is not folded: %r", proto.op_type, error)
        return None
    if not all(isinstance(result, (np.ndarray, np.generic)) for result in results):
        return None
    named = dict(zip([name for name in proto.output if name], map(np.asarray, results)))
    return [named.get(name) for name in proto.output]


def attribute(proto: onnx.NodeProto, key: str, default: Any = None) -> Any:
    """An attribute's value."""
    return next((helper.get_attribute_value(entry) for entry in proto.attribute if entry.name == key), default)


def evaluated_sizes(proto: onnx.NodeProto, values: Sequence[Optional[np.ndarray]], opset: int) -> Optional[np.ndarray]:
    """The output of a node some of whose inputs are arrays of sizes, others constant; None where it stays open."""
    if proto.op_type not in SIZES or any(value is None for name, value in zip(proto.input, values) if name):
        return None
    try:
        result = SIZES[proto.op_type](proto, *values)
    except (OpenSize, IndexError, ValueError, TypeError, AttributeError) as error:
        _logger.debug("%s of open sizes stays open: %r", proto.op_type, error)
        return None
    return array_of(result)


def shape_of(proto: onnx.NodeProto, lengths: Iterable[Length]) -> np.ndarray:
    """What Shape says about a tensor of these lengths."""
    return array_of(list(lengths)[slice(attribute(proto, "start", 0), attribute(proto, "end"))])


def _ints(values) -> list:
    return [int(value) for value in np.atleast_1d(values)]


def _axes(proto, values):
    found = values[1] if len(values) > 1 and values[1] is not None else attribute(proto, "axes")
    return None if found is None else _ints(found)


def _unsqueeze(proto, *values):
    axes = _axes(proto, values)
    return np.expand_dims(values[0], tuple(axes))


def _squeeze(proto, *values):
    axes = _axes(proto, values)
    return np.squeeze(values[0], None if axes is None else tuple(axes))


def _slice(proto, value, *bounds):
    if bounds:
        starts, ends = _ints(bounds[0]), _ints(bounds[1])
        axes = _ints(bounds[2]) if len(bounds) > 2 and bounds[2] is not None else range(len(starts))
        steps = _ints(bounds[3]) if len(bounds) > 3 else [1] * len(starts)
    else:
        starts, ends = attribute(proto, "starts"), attribute(proto, "ends")
        axes, steps = attribute(proto, "axes", range(len(starts))), [1] * len(starts)
    cut = [slice(None)] * value.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps):
        cut[axis] = slice(start, None if step < 0 and end < -value.shape[axis] else end, step)
    return value[tuple(cut)]


def _concat(proto, *values):
    return np.concatenate([np.asarray(value, object) for value in values], attribute(proto, "axis", 1))


def _each(function: Callable) -> Callable:
    """A binary operation on arrays of sizes, element by element."""
    def compute(proto, left, right):
        left, right = np.broadcast_arrays(np.asarray(left, object), np.asarray(right, object))
        pairs = zip(left.ravel(), right.ravel())
        results = np.empty(left.size, object)
        results[:] = [function(one, two) for one, two in pairs]
        return results.reshape(left.shape)
    return compute


def _reduce_prod(proto, value, *axes):
    keep = attribute(proto, "keepdims", 1)
    return np.asarray([whole(value.ravel())] if keep else whole(value.ravel()), dtype=object)


def _where(proto, condition, left, right):
    condition, left, right = np.broadcast_arrays(condition, np.asarray(left, object), np.asarray(right, object))
    return np.where(condition.astype(bool), left, right)


SIZES: Dict[str, Callable] = {
    "Gather": lambda proto, value, at: np.take(value, at.astype("int64"), attribute(proto, "axis", 0)),
    "Slice": _slice,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Cast": lambda proto, value: value,
    "Identity": lambda proto, value: value,
    "Floor": lambda proto, value: value,
    "Ceil": lambda proto, value: value,
    "Round": lambda proto, value: value,
    "Reshape": lambda proto, value, target: value.reshape(_ints(target)),
    "Expand": lambda proto, value, target: np.broadcast_to(value, np.broadcast_shapes(value.shape, _ints(target))),
    "Add": _each(lambda left, right: left + right),
    "Sub": _each(lambda left, right: left - right),
    "Mul": _each(lambda left, right: left * right),
    "Div": _each(divided),
    "Equal": _each(equal),
    "Where": _where,
    "ReduceProd": _reduce_prod,
}


def has_open(values: Iterable[Any]) -> bool:
    """Whether any of the values holds an open size."""
    return any(is_open(value) for value in values)
