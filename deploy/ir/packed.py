# SPDX-License-Identifier: MIT
"""Inputs of a model that has several: in one array, each image's flattened and joined in the model's order."""

from typing import Dict, Mapping, Tuple, Union

import numpy as np

from deploy.ir.model import Model
from quantize.errors import DataError


def packed_shape(model: Model) -> Tuple[int, ...]:
    """Shape of one image's inputs in one array: that of the only input, or (values of all of them,)."""
    shapes = [tuple(model.shapes[name]) for name in model.inputs]
    return shapes[0] if len(shapes) == 1 else (sum(int(np.prod(shape)) for shape in shapes),)


def unpacked(model: Model, inputs: Union[np.ndarray, Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """Blob -> array (images, ...) of each input of a model; a mapping is returned as it is.

    Raises DataError for an array that several inputs are not in.
    """
    if isinstance(inputs, Mapping):
        return inputs
    inputs = np.asarray(inputs)
    if len(model.inputs) == 1:
        return {model.inputs[0]: inputs}
    if inputs.shape[1:] != packed_shape(model):
        raise DataError(f"the model has the inputs {', '.join(model.inputs)}: give a dict, or an array of shape "
                        f"(n, {packed_shape(model)[0]}) that has them side by side")
    found: Dict[str, np.ndarray] = {}
    start = 0
    for name in model.inputs:
        shape = tuple(model.shapes[name])
        end = start + int(np.prod(shape))
        found[name] = np.ascontiguousarray(inputs[:, start:end]).reshape((len(inputs),) + shape)
        start = end
    return found
