# SPDX-License-Identifier: MIT
"""What every calibrator is."""

from dataclasses import dataclass
from typing import ClassVar

from calib.observers import OBSERVERS, Observer
from quantize.errors import CalibrationError
from quantize.registry import Registry
from quantize.spec import QParams, QuantSpec

CALIBRATORS = Registry("calibrator")


@dataclass(frozen=True)
class Calibrator:
    """A value with a call: ``Naive()(observer, spec) -> QParams``.

    Attributes
    ----------
    observer : str
        Name of the observer whose statistics it needs.
    """

    observer: ClassVar[str] = ""

    def new_observer(self) -> Observer:
        """A fresh observer of the kind this calibrator needs."""
        return OBSERVERS.get(self.observer)()

    def __call__(self, observer: Observer, spec: QuantSpec) -> QParams:
        """QParams of shape (1,) for what the observer has seen."""
        if observer.name != self.observer:
            raise CalibrationError("{} needs a {} observer, got {}".format(
                type(self).__name__, self.observer, observer.name))
        return self.decide(observer, spec)

    def decide(self, observer: Observer, spec: QuantSpec) -> QParams:
        """What subclasses define."""
        raise NotImplementedError
