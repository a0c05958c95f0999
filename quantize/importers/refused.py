# SPDX-License-Identifier: MIT
"""What operator functions raise, and the ranges that options of windows must lie in; for both importers."""


class Refused(Exception):
    """A node that cannot be imported; the text says why."""


def check_windows(kernel, strides, dilations=(1, 1), groups=1) -> None:
    """Refuse kernels, strides, dilations or groups below 1: they make MXNet divide by zero."""
    for name, values in (("kernel", kernel), ("stride", strides), ("dilation", dilations), ("group", (groups,))):
        if any(isinstance(value, str) or value < 1 for value in values):
            raise Refused(f"{name}={list(values) if name != 'group' else groups} (supported: at least 1)")
