# SPDX-License-Identifier: MIT
"""Groups of parameters, each with an optimizer, a rate and an update of its own."""

from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from mxnet import gluon
from mxnet.ndarray import NDArray


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that move together.

    Parameters
    ----------
    parameters : dict of str to Parameter
    optimizer : str
        MXNet's name.
    lr : float
        The first learning rate.
    options : dict
        Of the optimizer, apart from the rate.
    share : callable, optional
        Images seen -> the rate as a share of the first one; None: what all such groups are told.
    every : int
        Batches whose gradients make one update.
    """

    parameters: Mapping[str, gluon.Parameter]
    optimizer: str
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    share: Optional[Callable[[int], float]] = None
    every: int = 1


class GradientSum:
    """Gradients summed over several backward passes (MXNet's own ``grad_req='add'`` is lost on extension operators)."""

    def __init__(self, parameters: Iterable[gluon.Parameter]) -> None:
        self._parameters = list(parameters)
        self._sums: Dict[Tuple[str, int], NDArray] = {}

    def add(self) -> None:
        """Add the gradients as they are."""
        for key, gradient in self._gradients():
            self._sums[key] = self._sums[key] + gradient if key in self._sums else gradient.copy()

    def put(self) -> None:
        """Let the sums be the gradients, and start anew."""
        for key, gradient in self._gradients():
            if key in self._sums:
                gradient[:] = self._sums[key]
        self.drop()

    def drop(self) -> None:
        """Start anew."""
        self._sums = {}

    def _gradients(self) -> Iterator[Tuple[Tuple[str, int], NDArray]]:
        for parameter in self._parameters:
            if parameter.grad_req != "null":
                for number, gradient in enumerate(parameter.list_grad()):
                    yield (parameter.name, number), gradient


class GroupedTrainers:
    """A Gluon Trainer for each group; they step together.

    Parameters
    ----------
    groups : dict of str to ParameterGroup
        Groups without parameters are left out.

    Attributes
    ----------
    images : int
        Seen so far; set it where a training goes on.
    """

    def __init__(self, groups: Mapping[str, ParameterGroup]) -> None:
        self.groups = {name: group for name, group in groups.items() if group.parameters}
        self.trainers: Dict[str, gluon.Trainer] = {
            name: gluon.Trainer(dict(group.parameters), group.optimizer, dict(group.options, learning_rate=group.lr),
                                kvstore=None) for name, group in self.groups.items()}
        self.images = 0
        self._batches = 0
        self._sums = {name: GradientSum(group.parameters.values()) for name, group in self.groups.items()
                      if group.every > 1}

    @property
    def parameters(self) -> List[gluon.Parameter]:
        """Those of all groups."""
        return [parameter for group in self.groups.values() for parameter in group.parameters.values()]

    def set_share(self, share: float = 1.0) -> None:
        """Rates of the next step: this share of the first, or what a group's own rule says."""
        for name, group in self.groups.items():
            own = share if group.share is None else group.share(self.images)
            self.trainers[name].set_learning_rate(group.lr * own)

    def step(self, images: int) -> None:
        """One batch is done; gradients are sums over so many images."""
        self.images += images
        self._batches += 1
        for name, trainer in self.trainers.items():
            sums, every = self._sums.get(name), self.groups[name].every
            if sums is not None:
                sums.add()
                if self._batches % every:
                    continue
                sums.put()
            trainer.step(images * every, ignore_stale_grad=True)

    def begin_epoch(self) -> None:
        """Gradients that made no whole update are left out, so that an epoch depends on nothing before it."""
        self._batches = 0
        for sums in self._sums.values():
            sums.drop()
