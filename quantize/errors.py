# SPDX-License-Identifier: MIT
"""The errors a user can meet. Each message says what was given, what is allowed, where, and what to do."""


class QuantizeError(Exception):
    """Anything wrong with what the user gave us; command lines print it as one line and exit with 2."""


def last_line(error: BaseException) -> str:
    """What an exception says, on one line: of MXNet's stack traces the end, which names the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


class SpecError(QuantizeError):
    """A number format that cannot exist (bit width out of range, group count that does not divide, ...)."""


class ConfigError(QuantizeError):
    """An option, rule or registered name that is wrong or matches nothing."""


class ConversionError(QuantizeError):
    """A network that cannot be converted, traced or switched as asked."""


class ModelFileError(QuantizeError):
    """A model file that is missing, truncated, of another network, or holds an unknown operator."""


class DataError(QuantizeError):
    """Images, labels, arrays or batches that cannot be used (undecodable, out of range, NaN or infinity)."""


class TrainingError(QuantizeError):
    """Training that cannot go on: a trained number that is no longer finite or positive."""


class CalibrationError(QuantizeError):
    """Calibration without data, with unusable statistics, or a range that was never calibrated."""


class DeployError(QuantizeError):
    """A network that a target cannot hold, files that cannot be written, or an engine that is missing."""
