# SPDX-License-Identifier: MIT
"""Engines by name: the one table in which conversion, the commands and the proof look a target up.

The targets themselves live in `deploy`, above this package, and enter themselves here: this package says only what
conversion needs of one, and where the table is filled.
"""

import functools
from typing import Any, Callable, Iterable, List, Protocol, Tuple

from quantize.errors import ConfigError
from quantize.registry import Registry


class PlanProblem(Protocol):
    """Something that a target cannot follow in a plan; its text says which layer, what is wrong and what to do."""

    @property
    def fatal(self) -> bool:
        """False: a warning."""


class PlanTarget(Protocol):
    """What conversion asks of a target; `deploy.target.Target` offers more."""

    name: str

    def config_list(self, net: object) -> List[dict]:
        """Rules that make `convert_model` simulate what the engine can do with a float network."""

    def check_plan(self, layers: Iterable[Tuple[object, object]]) -> List[PlanProblem]:
        """What the engine cannot follow in a Plan: `layers` yields (PlanEntry, float Block)."""


def _fill() -> None:
    """Let `deploy` enter its targets; where this package is used alone, there are none."""
    try:
        # the one arrow upwards: a name must find its target although nothing of `deploy` has been imported yet
        from deploy import targets
    except ModuleNotFoundError as error:
        if error.name != "deploy":
            raise
        return
    targets.load()


TARGETS: "Registry[Callable[..., Any]]" = Registry("target", fill=_fill)


def find(name: str, /, **options: Any) -> Any:
    """The target of this name, with its options (see `deploy.target.Target.options`).

    Raises ConfigError that lists the known names, and for options that the target has not, or not of that kind: they
    may come from a file. The same name without options is the same object each time.
    """
    kind: Any = TARGETS.get(name)
    known = {option.name: option for option in getattr(kind, "options", ())}
    for word, value in options.items():
        if word not in known:
            raise ConfigError(f"target {name!r} has no option {word[:40]!r}; known: {', '.join(known) or 'none'}")
        words = isinstance(value, (list, tuple)) and all(isinstance(part, str) for part in value)
        if not (words if known[word].words else isinstance(value, bool)):
            raise ConfigError(f"target {name!r}: {word}={str(value)[:40]!r}; it is "
                              f"{'a list of names' if known[word].words else 'true or false'}")
    return kind(**options) if options else _plain(kind)


# one object for a name: what was converted for it and what is deployed for it can be compared by `is`
@functools.lru_cache(maxsize=None)
def _plain(kind: Callable[..., Any]) -> Any:
    return kind()
