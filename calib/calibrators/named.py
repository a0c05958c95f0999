# SPDX-License-Identifier: MIT
"""Calibrators by what people write: `mse`, `percentile:99.9`, `naive:momentum=0.95`."""

import dataclasses
import typing
from typing import Any, Dict

from calib.calibrators.base import CALIBRATORS, Calibrator
from quantize.errors import CalibrationError, ConfigError
from quantize.registry import closest


def named_calibrator(text: str) -> Calibrator:
    """The calibrator that NAME, NAME:VALUE or NAME:VALUE,KEY=VALUE stands for.

    A VALUE without a key is that of the next field in the order of the calibrator's class; the fields say which keys
    there are and of which type they are, so that a new calibrator needs nothing here.

    Raises
    ------
    ConfigError
        For an unknown name or key and for values that cannot be; the message lists the fields.

    Examples
    --------
    >>> named_calibrator("percentile:99.9")
    Percentile(percent=99.9)
    >>> named_calibrator("percentile:99.9").full_name
    'percentile:99.9'
    """
    name, colon, values = text.partition(":")
    kind = CALIBRATORS.get(name)
    known = _fields(kind)
    if colon and not known:
        raise ConfigError(f"{text!r}: calibrator {name!r} has no parameters; leave out {colon + values!r}")
    given: Dict[str, Any] = {}
    for part in values.split(",") if colon else ():
        key, equals, value = part.rpartition("=")
        key = key.strip() if equals else next((field for field in known if field not in given), "")
        if key not in known or key in given:
            what = "more values than parameters" if not equals else f"{key!r} is given twice" if key in given else \
                f"unknown parameter {key!r}{closest(key, known)}"
            raise ConfigError(f"{text!r}: {what}; {_described(name, kind, known)}")
        try:
            given[key] = known[key](value)
        except ValueError:
            raise ConfigError(f"{text!r}: {key} {value!r} is no {_words(known[key])}; "
                              f"{_described(name, kind, known)}") from None
    try:
        return kind(**given)
    except CalibrationError as error:
        raise ConfigError(f"{text!r}: {error}") from None


def _fields(kind) -> Dict[str, type]:
    """Parameter -> its type."""
    types = typing.get_type_hints(kind)
    return {field.name: types[field.name] for field in dataclasses.fields(kind)}


def _described(name, kind, known) -> str:
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    fields = ", ".join(f"{field} ({_words(of_type)}, default {defaults[field]})" for field, of_type in known.items())
    return f"parameters of {name}: {fields}"


def _words(of_type) -> str:
    return {int: "whole number", float: "number"}.get(of_type, of_type.__name__)
