# SPDX-License-Identifier: MIT
"""What is said about each step of a run when it is done."""

import functools
from typing import Any

from calib.sensitivity import Sensitivities
from gluon_quantize.data.steps import steps_text
from gluon_quantize.report.accuracy import accuracy_text, chance_text
from gluon_quantize.report.calibration import (
    absorption_text,
    comparison_text,
    equalization_text,
    quantized_text,
    split_text,
    trust_text,
)
from gluon_quantize.report.sensitivity import sensitivity_text
from gluon_quantize.report.simulation import nearness_text
from gluon_quantize.runs.backend import Nearness
from gluon_quantize.runs.calibration import Comparison, PassEvaluated, Quantized, StateWritten, TableWritten, Trust
from gluon_quantize.runs.task import NearChance, Task
from quantize.convert.rules import Plan
from quantize.repair.absorb import Absorption
from quantize.repair.equalize import Equalization
from quantize.repair.split import Split


@functools.singledispatch
def step_text(step: Any, networks: bool = False) -> str:
    """The text of a step; a new kind of step registers its own here.

    Parameters
    ----------
    networks : bool
        Networks are printed too, layer by layer.
    """
    raise TypeError(f"nothing is known to say about a {type(step).__name__}")


@step_text.register
def _task(step: Task, networks: bool = False) -> str:
    text = f"\n{step.model.name} on {step.dataset} ({step.evaluated} images)\n\n"
    text += steps_text(step.preprocessing, step.images.decoded)
    return f"{text}\n{step.net}" if networks else text


@step_text.register
def _near_chance(step: NearChance, networks: bool = False) -> str:
    return "\n" + chance_text(step.predictions)


@step_text.register
def _plan(step: Plan, networks: bool = False) -> str:
    return f"\nPlan\n{step}"


@step_text.register
def _quantized(step: Quantized, networks: bool = False) -> str:
    text = "\n" + quantized_text(step)
    return f"{step.net}\n{text}" if networks else text


@step_text.register
def _equalization(step: Equalization, networks: bool = False) -> str:
    return "\n" + equalization_text(step)


@step_text.register
def _absorption(step: Absorption, networks: bool = False) -> str:
    return "\n" + absorption_text(step)


@step_text.register
def _split(step: Split, networks: bool = False) -> str:
    return "\n" + split_text(step)


@step_text.register
def _sensitivities(step: Sensitivities, networks: bool = False) -> str:
    return "\n" + sensitivity_text(step)


@step_text.register
def _nearness(step: Nearness, networks: bool = False) -> str:
    return "\n" + nearness_text(step)


@step_text.register
def _pass(step: PassEvaluated, networks: bool = False) -> str:
    return f"after calibration {step.number}: {accuracy_text('quantized', step.predictions)}"


@step_text.register
def _trust(step: Trust, networks: bool = False) -> str:
    return "\n" + trust_text(step)


@step_text.register
def _comparison(step: Comparison, networks: bool = False) -> str:
    return "\n" + comparison_text(step)


@step_text.register
def _state(step: StateWritten, networks: bool = False) -> str:
    return f"\nstate of {step.samples} images (data {step.data}) written to {step.path}"


@step_text.register
def _table(step: TableWritten, networks: bool = False) -> str:
    return f"table written to {step.path}"
