# SPDX-License-Identifier: MIT
"""The settings of a run."""

from typing import Any, Mapping


def settings_text(settings: Mapping[str, Any]) -> str:
    """The settings as an aligned block, under their title."""
    width = max(len(name) for name in settings)
    return "\n".join(["Settings"] + [f"  {name.ljust(width)}  {value}" for name, value in settings.items()])
