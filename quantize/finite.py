# SPDX-License-Identifier: MIT
"""Finds NaN and infinity among a network's parameters, by name: signs, ReLUs and clips make finite numbers of them."""

from typing import Dict, List, Optional, Sequence, Type, Union

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, Parameter

from quantize.errors import ConversionError, DataError, QuantizeError

Inputs = Union[mx.nd.NDArray, Sequence[mx.nd.NDArray]]
FLOATS = (np.float16, np.float32, np.float64)
AT_ONCE = 100  # arrays of one operator, which has room for 200 and writes beyond it without a word (MXNet 1.9.1)
ADVICE = "the training diverged, or the file is damaged: use another one"


def not_finite(parameters: Dict[str, Parameter]) -> List[str]:
    """Names of the parameters that hold NaN or infinity; those without values are passed over."""
    arrays = {name: parameter.list_data()[0] for name, parameter in parameters.items()
              if parameter._data is not None and parameter.dtype in FLOATS + tuple(t.__name__ for t in FLOATS)}
    single = {name: array for name, array in arrays.items() if array.dtype == np.float32}
    values = list(single.values())
    parts = [values[start:start + AT_ONCE] for start in range(0, len(values), AT_ONCE)]
    # one number for many of them, unless there is something to find
    if all(bool(mx.nd.multi_all_finite(*part, num_arrays=len(part)).asscalar()) for part in parts):
        arrays = {name: array for name, array in arrays.items() if name not in single}
    return [name for name, array in arrays.items() if not np.isfinite(array.asnumpy()).all()]


def check_parameters(net: Block, advice: str = ADVICE, error: Type[QuantizeError] = DataError) -> None:
    """Raise `error` with the structural names of all parameters that are not finite; `advice` ends its message."""
    parameters = net._collect_params_with_prefix()
    for found, what in ((not_finite(parameters), "NaN or infinity"), (_negative(parameters), "variances below 0")):
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise error(f"{found[0]}{more}: {what} among the values of the parameter; {advice}")


def _negative(parameters: Dict[str, Parameter]) -> List[str]:
    """Names of BatchNorm's variances below 0, of which roots are NaN and a ReLU makes zeros."""
    return [name for name, parameter in parameters.items() if name.endswith("running_var")
            and parameter._data is not None and (parameter.list_data()[0].asnumpy() < 0).any()]


def check_types(net: Block) -> None:
    """ConversionError for weights in another type than float32, in which quantization computes."""
    for name, parameter in net._collect_params_with_prefix().items():
        if np.dtype(parameter.dtype).kind == "f" and np.dtype(parameter.dtype) != np.float32:
            raise ConversionError(f"{name}: the parameter is {np.dtype(parameter.dtype).name}; quantization computes "
                                  "in float32: call net.cast('float32') first, and give float32 images")


def as_ndarrays(batch: Optional[Inputs], what: str = "batch") -> Optional[Inputs]:
    """A batch (or its parts) with NumPy arrays as NDArrays; DataError for anything else than the two."""
    if batch is None or isinstance(batch, mx.nd.NDArray):
        return batch
    if isinstance(batch, np.ndarray) and batch.dtype != object:
        return mx.nd.array(batch, dtype=np.float32)
    if isinstance(batch, (list, tuple)) and batch:
        return tuple(as_ndarrays(part, what) for part in batch)
    raise DataError(f"{what}: a {type(batch).__name__}; wanted is an NDArray or an array of images, or a tuple of them")


def check_inputs(batch: Optional[Inputs], what: str = "the network's input") -> None:
    """DataError for a batch (or the parts of one) with NaN or infinity."""
    for part in batch if isinstance(batch, (list, tuple)) else [batch]:
        if part is not None and not np.isfinite(part.asnumpy()).all():
            raise DataError(f"{what}: {int((~np.isfinite(part.asnumpy())).sum())} of {part.size} values are NaN or "
                            "infinite; look at how images are read and prepared")
