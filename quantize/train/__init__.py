# SPDX-License-Identifier: MIT
"""What a training loop needs beside Gluon: starts, schedules, stages, rates, statistics."""

from quantize.train.groups import GradientSum, GroupedTrainers, ParameterGroup
from quantize.train.hooks import (
    CheckNumbers,
    ClipWeights,
    FreezeBatchNorm,
    Hook,
    Hooks,
    StartQuantization,
    method_hooks,
)
from quantize.train.parameters import quantizer_parameters, set_rates, solver_groups, weight_parameters
from quantize.train.stages import freeze_bn, set_clamp_only
from quantize.train.start import start_training
from quantize.train.statistics import reestimate_bn

__all__ = ["CheckNumbers", "ClipWeights", "FreezeBatchNorm", "GradientSum", "GroupedTrainers", "Hook", "Hooks",
           "ParameterGroup", "StartQuantization", "freeze_bn", "method_hooks", "quantizer_parameters", "reestimate_bn",
           "set_clamp_only", "set_rates", "solver_groups", "start_training", "weight_parameters"]
