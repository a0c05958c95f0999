# SPDX-License-Identifier: MIT
"""What a command shows of a run while it goes on."""

import contextlib
import sys
import time
from typing import Any, Callable, Iterable, Iterator, Optional, Sized

from gluon_quantize.progress import Silent
from quantize.escape import shown

try:
    from tqdm import tqdm
except ImportError:  # recheck needs nothing but NumPy and the engine
    tqdm = None

SECONDS = 10.0  # between lines of a log


def say(text: str) -> None:
    """Print a text; names in it come from files, and may not speak to the terminal."""
    print(shown(text, keep="\n"), flush=True)


class Lines:
    """How far something is, in lines of a log: none in the first seconds, then one every few, with an estimate.

    Parameters
    ----------
    total : int or None
        How many there are; None: nobody knows.
    description, unit : str
    clock : function
        Seconds.
    """

    def __init__(self, total: Optional[int], description: str, unit: str, clock: Callable[[], float] = time.monotonic):
        self._total, self._description, self._unit, self._clock = total, description, unit, clock
        self._done, self._start, self._spoke = 0, clock(), False
        self._said = self._start

    def add(self, more: int, **values: str) -> None:
        """So many more are done; says so when the last line is long ago."""
        self._done += more
        now = self._clock()
        if now - self._said >= SECONDS and self._done and self._done != self._total:
            self._said, self._spoke = now, True
            said = "".join(f", {name} {value}" for name, value in values.items())
            self._say(f"{self._so_far()}{self._left(now - self._start)}{said}")

    def end(self) -> None:
        """All is done; says how long it took, where anything was said before."""
        if self._spoke:
            self._say(f"{self._so_far()} in {tqdm.format_interval(self._clock() - self._start)}")

    def _so_far(self):
        return f"{self._done}/{self._total} {self._unit}" if self._total else f"{self._done} {self._unit}"

    def _left(self, spent):
        if not self._total:
            return ""
        left = tqdm.format_interval(spent * (self._total - self._done) / self._done)
        return f", {self._done / self._total:.0%}, about {left} left"

    def _say(self, text):
        print(f"{self._description}: {text}", file=sys.stderr, flush=True)


class Terminal(Silent):
    """Prints the text of each step, and how far work is: bars on a terminal, lines elsewhere (see `Lines`).

    Parameters
    ----------
    text_of : function
        From a step to its text; None: nothing is printed about it.
    """

    def __init__(self, text_of: Callable[[Any], Optional[str]] = lambda step: None):
        self._text_of = text_of

    def bar(self, items: Iterable, description: str, unit: str = "batch", total: Optional[int] = None) -> Iterable:
        """The items, with a bar."""
        if tqdm is not None and sys.stderr.isatty():
            return tqdm(items, desc=description, unit=unit, total=total)
        total = len(items) if total is None and isinstance(items, Sized) else total
        return self._lines(items, description, unit, total)

    @staticmethod
    def _lines(items, description, unit, total):
        lines = Lines(total, description, unit)
        for item in items:
            yield item
            lines.add(1)
        lines.end()

    @contextlib.contextmanager
    def counter(self, total: int, description: str, unit: str) -> Iterator[Callable[..., None]]:
        """Context of the function that moves a bar on, and shows the values it is given by name."""
        if tqdm is None or not sys.stderr.isatty():
            lines = Lines(total, description, unit)
            yield lines.add
            lines.end()
            return
        with tqdm(total=total, desc=description, unit=unit) as bar:
            def count(more: int, **shown) -> None:
                bar.update(more)
                bar.set_postfix(shown, refresh=False)
            yield count

    def tell(self, step: Any) -> None:
        """Print the step's text."""
        text = self._text_of(step)
        if text is not None:
            say(text)
