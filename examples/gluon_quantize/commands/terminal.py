# SPDX-License-Identifier: MIT
"""What a command shows of a run while it goes on."""

import contextlib
from typing import Any, Callable, Iterable, Iterator, Optional

from tqdm import tqdm

from gluon_quantize.progress import Silent
from quantize.escape import shown


def say(text: str) -> None:
    """Print a text; names in it come from files, and may not speak to the terminal."""
    print(shown(text, keep="\n"), flush=True)


class Terminal(Silent):
    """Prints the text of each step, and progress bars (none off a terminal: in a log they would be noise).

    Parameters
    ----------
    text_of : function
        From a step to its text; None: nothing is printed about it.
    """

    def __init__(self, text_of: Callable[[Any], Optional[str]] = lambda step: None):
        self._text_of = text_of

    def bar(self, items: Iterable, description: str, unit: str = "batch", total: Optional[int] = None) -> Iterable:
        """The items, with a bar."""
        return tqdm(items, desc=description, unit=unit, total=total, disable=None)

    @contextlib.contextmanager
    def counter(self, total: int, description: str, unit: str) -> Iterator[Callable[..., None]]:
        """Context of the function that moves a bar on, and shows the values it is given by name."""
        with tqdm(total=total, desc=description, unit=unit, disable=None) as bar:
            def count(more: int, **shown) -> None:
                bar.update(more)
                bar.set_postfix(shown, refresh=False)
            yield count

    def tell(self, step: Any) -> None:
        """Print the step's text."""
        text = self._text_of(step)
        if text is not None:
            say(text)
