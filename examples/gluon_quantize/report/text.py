# SPDX-License-Identifier: MIT
"""The settings of a training."""

from gluon_quantize.runs.outputs import check_folder as check_writable

__all__ = ["check_writable", "settings_text"]


def settings_text(settings) -> str:
    """The settings as an aligned block."""
    width = max(len(name) for name in settings)
    return "\n".join(f"  {name.ljust(width)}  {value}" for name, value in settings.items())
