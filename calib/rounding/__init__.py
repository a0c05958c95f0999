# SPDX-License-Identifier: MIT
"""Weights rounded so that a layer's output changes least, instead of each weight by itself."""

from calib.rounding.adaround import AdaRound
from calib.rounding.brecq import BRECQ
from calib.rounding.gptq import GPTQ
from calib.rounding.problem import ROUNDINGS, Problem, Rounding, Solution

__all__ = ["BRECQ", "GPTQ", "AdaRound", "ROUNDINGS", "Problem", "Rounding", "Solution"]
