# SPDX-License-Identifier: MIT
"""Which images to calibrate on."""

import logging
from typing import Sequence, Union

import numpy as np

from quantize.errors import ConfigError

logger = logging.getLogger(__name__)


def balanced_indices(labels: Union[Sequence[int], np.ndarray], num_sample: int, seed: int, warn: bool = True
                     ) -> np.ndarray:
    """Indices of `num_sample` images of each class, in rounds that hold each class once.

    A prefix of the result is therefore as balanced as its length allows. Equal arguments give equal results.

    Parameters
    ----------
    labels : sequence of int, (N,)
    num_sample : int
        Images per class; a class that has fewer gives all it has, with a warning.
    seed : int
        Of the numpy RandomState that chooses and shuffles.
    warn : bool
        Say that classes have fewer images.

    Returns
    -------
    numpy.ndarray, int64

    Examples
    --------
    >>> sorted(balanced_indices([5, 5, 5, 9, 9], 1, seed=0) // 3)
    [0, 1]
    """
    if num_sample < 1:
        raise ConfigError(f"{num_sample} samples per class; want at least 1")
    labels = np.asarray(labels)
    random = np.random.RandomState(seed)
    chosen = [random.permutation(np.flatnonzero(labels == label))[:num_sample] for label in np.unique(labels)]
    short = [len(members) for members in chosen if len(members) < num_sample]
    if short and warn:
        logger.warning("%d of %d classes have fewer than %d images (the fewest: %d); all of theirs are used",
                       len(short), len(chosen), num_sample, min(short))
    # Rounds stay balanced to the end: classes that run out early leave the later rounds.
    rounds = [random.permutation([members[turn] for members in chosen if turn < len(members)])
              for turn in range(max(map(len, chosen), default=0))]
    return np.concatenate(rounds).astype(np.int64) if rounds else np.zeros(0, np.int64)
