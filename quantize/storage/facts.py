# SPDX-License-Identifier: MIT
"""What a file says beside the network: target, preprocessing, class names, where everything came from."""

import json
import platform
from dataclasses import dataclass, field, replace
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np

from quantize import __version__
from quantize.documents import checked
from quantize.errors import ConfigError, ModelFileError
from quantize.files import PathLike
from quantize.storage import container
from quantize.storage.schema import Known

Step = Dict[str, Any]


@dataclass(frozen=True)
class Facts:
    """What a file says beside the network.

    Parameters
    ----------
    target : str or None
        The engine that the network was converted for.
    target_options : dict
        Keywords of that target.
    preprocessing : dict or None
        How images are prepared, as JSON can hold it.
    class_names : tuple of str or None
    provenance : tuple of dict
        What was run, one step after the other: each as its writer called it, with the versions it ran with.
    extra : dict
        What else the writer wants to read again.
    digest : str
        Of the file that this was read from; "" for what was not.
    """

    target: Optional[str] = None
    target_options: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Optional[Mapping[str, Any]] = None
    class_names: Optional[Tuple[str, ...]] = None
    provenance: Tuple[Step, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    digest: str = ""

    def then(self, step: Optional[Mapping[str, Any]]) -> "Facts":
        """With one more step of provenance, which says what file it started from and the versions of now."""
        stated = {**(step or {}), "versions": versions(), **({"started_from": self.digest} if self.digest else {})}
        return replace(self, provenance=(*self.provenance, stated), digest="")

    def document(self) -> Dict[str, Any]:
        """As JSON can hold it; ConfigError where it cannot."""
        found = {"target": self.target, "target_options": dict(self.target_options),
                 "preprocessing": self.preprocessing and dict(self.preprocessing),
                 "class_names": None if self.class_names is None else list(self.class_names),
                 "provenance": list(self.provenance), "extra": dict(self.extra)}
        try:
            return json.loads(json.dumps(found, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError("preprocessing, class names, provenance and extra must be what JSON can hold: "
                              f"{error}") from None


def versions() -> Dict[str, str]:
    """Of what computes here."""
    import mxnet  # so that facts can be read without it
    return {"gluon-quantize": __version__, "mxnet": mxnet.__version__, "numpy": np.__version__,
            "python": platform.python_version()}


def facts_of(document: Any, digest: str) -> Facts:
    """Facts of ``facts.json``; ModelFileError where it holds something else."""
    known = checked(document, Known, container.FACTS, ModelFileError)
    names = None if known.class_names is None else tuple(known.class_names)
    return Facts(known.target, known.target_options, known.preprocessing, names, tuple(known.provenance), known.extra,
                 digest)


def read_facts(path: PathLike) -> Facts:
    """What a file of `save_quantized` says beside the network, which is not made; MXNet is not needed.

    Raises ModelFileError as `load_quantized` does.
    """
    stored = container.read(path, only=container.FACTS)
    try:
        return facts_of(stored.documents.get(container.FACTS), stored.digest)
    except ModelFileError as error:
        raise ModelFileError(f"{path}: {error}") from None


