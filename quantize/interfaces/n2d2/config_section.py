# SPDX-License-Identifier: MIT
"""N2D2's ConfigSection: arguments that several cells share."""

from typing import Any


class ConfigSection(dict):
    """Named values, to be handed on as ``**section``; also read and set as attributes."""

    def __init__(self, **values: Any) -> None:
        super().__init__(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value
