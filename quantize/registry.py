# SPDX-License-Identifier: MIT
"""Name -> object tables with a helpful miss."""

import difflib
from typing import Callable, Dict, Generic, Iterable, List, Optional, Tuple, TypeVar

from quantize.errors import ConfigError

T = TypeVar("T")


def closest(name: str, known: Iterable[object]) -> str:
    """``; did you mean 'x'?`` when a known name is near, else an empty string."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


class Registry(Generic[T]):
    """A table of named members of one kind.

    Parameters
    ----------
    kind : str
        What the members are, in the singular; used in error messages.
    fill : function, optional
        Called once, before a name is missed or the names are told: registers members that nobody has imported yet.
    """

    def __init__(self, kind: str, fill: Optional[Callable[[], None]] = None) -> None:
        self.kind = kind
        self._members: Dict[str, T] = {}
        self._fill = fill

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that stores a member; a name can be taken once."""
        def store(member: T) -> T:
            if name in self._members:
                raise ConfigError(f"{self.kind} {name!r} is registered twice")
            self._members[name] = member
            return member
        return store

    def get(self, name: str) -> T:
        """The member called `name`; ConfigError lists the known names when there is none."""
        if name not in self._members:
            self._fill_once()
        if name not in self._members:
            raise ConfigError(f"unknown {self.kind} {name!r}; known: {', '.join(self.names()) or 'none'}"
                              f"{closest(name, self._members)}")
        return self._members[name]

    def items(self) -> List[Tuple[str, T]]:
        """(name, member) in the order of registration."""
        self._fill_once()
        return list(self._members.items())

    def names(self) -> List[str]:
        """Registered names, sorted."""
        self._fill_once()
        return sorted(self._members)

    def _fill_once(self) -> None:
        # taken away first: what `fill` imports may ask this table itself
        fill, self._fill = self._fill, None
        if fill is not None:
            fill()
