# SPDX-License-Identifier: MIT
"""What operator functions raise, and the ranges that options of windows must lie in; for both importers."""

import contextlib
from typing import Any, Iterator, Sequence

from quantize.errors import ModelFileError, QuantizeError
from quantize.escape import one_line


class Refused(Exception):
    """A node that cannot be imported; the text says why."""


def check_windows(kernel: Sequence[Any], strides: Sequence[Any], dilations: Sequence[Any] = (1, 1),
                  groups: Any = 1) -> None:
    """Refuse kernels, strides, dilations or groups below 1: they make MXNet divide by zero."""
    for name, values in (("kernel", kernel), ("stride", strides), ("dilation", dilations), ("group", (groups,))):
        if any(isinstance(value, str) or value < 1 for value in values):
            raise Refused(f"{name}={list(values) if name != 'group' else groups} (supported: at least 1)")


@contextlib.contextmanager
def damage_named(path: str) -> Iterator[None]:
    """Context for the import of a file: whatever its contents make fail is one ModelFileError that names it.

    What files get wrong is checked where it is read; this is the net below, for options that only MXNet, Gluon or onnx
    know the meaning of. The error that was met stays its cause.
    """
    try:
        yield
    except (QuantizeError, OSError):
        raise
    except Refused as error:
        raise ModelFileError(f"{path}: cannot be imported: {error}") from None
    except Exception as error:  # MXNetError, AssertionError, ValueError, TypeError, KeyError, RecursionError, ...
        raise ModelFileError(f"{path}: cannot be imported, it is damaged or has options that are not known: "
                             f"{one_line(error)}") from error
