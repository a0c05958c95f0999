# SPDX-License-Identifier: MIT
"""Engines by name: the one table in which conversion, the commands and the proof look a target up.

The targets themselves live in `deploy`, above this package, and enter themselves here: this package says only what
conversion needs of one, and where the table is filled.
"""

import functools
from typing import Any, Callable, Iterable, List, Protocol, Tuple

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


def find(name: str, **options: Any) -> Any:
    """The target of this name, with its options (see `deploy.target.Target.options`).

    Raises ConfigError that lists the known names. The same name without options is the same object each time.
    """
    kind = TARGETS.get(name)
    return kind(**options) if options else _plain(kind)


# one object for a name: what was converted for it and what is deployed for it can be compared by `is`
@functools.lru_cache(maxsize=None)
def _plain(kind: Callable[..., Any]) -> Any:
    return kind()
