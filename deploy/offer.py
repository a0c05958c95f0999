# SPDX-License-Identifier: MIT
"""What the commands offer for a target: options that it takes, and questions that it answers."""

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, Tuple

import numpy as np

from deploy.ir import Model


@dataclass(frozen=True)
class Option:
    """A switch of a target, or a list of words: a keyword of its class, and an option of the commands.

    Parameters
    ----------
    name : str
        The keyword, False or () by default; the target keeps its value under the same name, so that files can say it.
    flag : str
        On the command line, for instance ``--keep-winograd``.
    help : str
    words : str
        What the words that it takes are called there; empty: it is a switch.
    """

    name: str
    flag: str
    help: str
    words: str = ""


@dataclass(frozen=True)
class Report:
    """A question that a target answers about a network and images, beside the proof.

    Parameters
    ----------
    name, flag, help : str
        `name` is what a progress bar says.
    file : str
        Takes the contents as JSON.
    make : function
        From (quantized model, the same in float, batches of (images, labels)) to (text for people, contents of the
        file).
    """

    name: str
    flag: str
    help: str
    file: str
    make: Callable[[Model, Model, Iterable[Tuple[np.ndarray, np.ndarray]]], Tuple[str, Dict[str, Any]]]
