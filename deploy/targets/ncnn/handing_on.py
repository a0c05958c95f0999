# SPDX-License-Identifier: MIT
"""What the arithmetics of ARM's kernels have in common: they must know where a layer hands on codes itself."""

from typing import Mapping, Optional

from deploy import ir
from deploy.arithmetic import Arithmetic
from deploy.targets.ncnn.arithmetic import NcnnArithmetic
from deploy.targets.ncnn.network import integer_grids


class HandingOnArithmetic(NcnnArithmetic):
    """An arithmetic that is bound to a model.

    Parameters
    ----------
    handed_on : dict
        Node -> Grid of the codes that it hands on itself; `bound` fills it in.
    """

    def __init__(self, handed_on: Optional[Mapping[str, ir.Grid]] = None):
        self.handed_on = dict(handed_on or {})

    def bound(self, model: ir.Model) -> Arithmetic:
        """The arithmetic of this model, which knows where codes are handed on."""
        return type(self)(integer_grids(model))
