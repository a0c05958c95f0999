# SPDX-License-Identifier: MIT
"""Calibration methods by name: the calibrators with their parameters, and EasyQuant, which searches on from one."""

from dataclasses import dataclass
from typing import List

from calib.calibrators import CALIBRATORS, Calibrator, named_calibrator

EASYQUANT = "easyquant"
EASYQUANT_START = "kl"


@dataclass(frozen=True)
class Method:
    """A way to decide ranges.

    Attributes
    ----------
    name : str
        The full one, with the parameters that are not as usual: `kl-ncnn` for `kl`, `percentile:99.9`.
    calibrator : Calibrator
    searches : bool
        Whether EasyQuant's search goes on from the calibrator's ranges.
    """

    name: str
    calibrator: Calibrator
    searches: bool = False


def named_method(text: str) -> Method:
    """The method that `text` stands for (see `calib.calibrators.named`); ConfigError where there is none."""
    if text == EASYQUANT:
        return Method(EASYQUANT, named_calibrator(EASYQUANT_START), True)
    calibrator = named_calibrator(text)
    return Method(calibrator.full_name, calibrator)


def method_names() -> List[str]:
    """Every method once, with its usual parameters, by its full name."""
    return sorted({named_calibrator(name).full_name for name in CALIBRATORS.names()}) + [EASYQUANT]


def compared_methods(chosen: Method) -> List[Method]:
    """The methods that a comparison shows: all with their usual parameters, and the chosen one.

    One pass serves them all. So a method is left out that needs an observer of the kind of the chosen one's with other
    parameters: the moving average of `naive` beside that of `naive:0.5`.
    """
    plain = [named_method(name) for name in method_names()]
    kept = [method for method in plain if _observes_alike(method.calibrator, chosen.calibrator)]
    return kept if chosen in kept else kept + [chosen]


def _observes_alike(one, other):
    return one.observer != other.observer or one.new_observer().state() == other.new_observer().state()
