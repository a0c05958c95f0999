# SPDX-License-Identifier: MIT
"""What every target offers, and how targets are found by name."""

from dataclasses import dataclass
from typing import List

from deploy.ir import Model
from quantize.errors import DeployError
from quantize.registry import Registry


@dataclass(frozen=True)
class Problem:
    """Something a target cannot do with a model.

    Parameters
    ----------
    path : str
        Structural path of the layer (or the node's name where there is none).
    text : str
        What is wrong, what is allowed, and what to do.
    fatal : bool
        False: a warning; the files can be written.
    """

    path: str
    text: str
    fatal: bool = True

    def __str__(self):
        return f"{self.path}: {self.text}"


def raise_problems(problems, engine: str):
    """DeployError with all fatal problems, one on a line; nothing where there are none."""
    fatal = [str(problem) for problem in problems if problem.fatal]
    if fatal:
        raise DeployError("{} cannot hold this network:\n{}".format(engine, "\n".join(fatal)))


class Target:
    """An engine that models can be written for; a subclass for each, registered in `TARGETS`.

    Attributes
    ----------
    arithmetic : deploy.arithmetic.Arithmetic
        How the engine rounds.
    """

    name = ""
    arithmetic = None

    def config_list(self, net) -> list:
        """Rules (`quantize.config`) that make `convert_model` simulate what the engine can do with a float network."""
        raise NotImplementedError

    def check_plan(self, layers) -> List[Problem]:
        """What the engine cannot follow in a Plan: `layers` yields (PlanEntry, float Block)."""
        raise NotImplementedError

    def check(self, model: Model) -> List[Problem]:
        """Everything that keeps the model from being written, or that its owner should know."""
        raise NotImplementedError

    def write(self, model: Model, folder):
        """Write the engine's files into an existing folder; the paths written."""
        raise NotImplementedError

    def run(self, folder, inputs, **options):
        """Outputs of the real engine for a batch of inputs, from the files that `write` left."""
        raise NotImplementedError


TARGETS: Registry = Registry("target")
