# SPDX-License-Identifier: MIT
"""The integer engine: a plain interpreter of `deploy.ir`, the judge that targets and simulation are compared with."""

from deploy.engine import activation, convolution, elementwise, pooling, reductions, shapes  # noqa: F401 (fill the table)
from deploy.engine.interpreter import ALL, Result, Watch, run

__all__ = ["ALL", "Result", "Watch", "run"]
