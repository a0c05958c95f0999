# SPDX-License-Identifier: MIT
"""What operators and layers compute with, for annotations; beside it they take ``F``, the module mx.nd or mx.sym."""

from typing import Union

import mxnet as mx

# eager or in a graph: the same code runs on both
Tensor = Union[mx.nd.NDArray, mx.sym.Symbol]
