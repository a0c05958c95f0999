# SPDX-License-Identifier: MIT
"""How a run tells what it is doing: not at all, unless its caller hands it something that listens."""

import contextlib
from typing import Any, Callable, ContextManager, Iterable, Optional


class Silent:
    """Listens to a run and shows nothing: the default of everything in `gluon_quantize.runs`.

    A command hands down a subclass that prints. The three methods are all that a run may call.
    """

    def bar(self, items: Iterable, description: str, unit: str = "batch", total: Optional[int] = None) -> Iterable:
        """`items`, to be iterated over once; a subclass shows how far that is.

        Parameters
        ----------
        total : int, optional
            How many there are, where `len` does not say.
        """
        return items

    def counter(self, total: int, description: str, unit: str) -> ContextManager[Callable[..., Any]]:
        """Context of a function that is told how many more are done, and by name what to show beside that."""
        return contextlib.nullcontext(_ignored)

    def tell(self, step: Any) -> None:
        """A step of the run is finished; `step` is that part of its result."""


def _ignored(count: int, **shown: str) -> None:
    pass


SILENT = Silent()
