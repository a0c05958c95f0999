# SPDX-License-Identifier: MIT
"""Programs that are written beside an engine's files, from templates.

Names come from files that somebody else wrote. Templates see values, never code: whatever stands between ``{{ }}`` is
encoded as a literal of the program's language by the template engine itself, so that no place can be forgotten; in
comments it is said once more (``| comment``), and texts without either do not get through.
"""

import functools
import pathlib
from typing import Any, Callable, Dict, Mapping, Sequence, Tuple

import numpy as np

from deploy.image_steps import ImageSteps, Prepared
from quantize.escape import comment, cpp_text, python_text
from quantize.files import read_text

CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


class Encoded(str):
    """Text that is encoded already."""


def values_of(title: str, steps: ImageSteps, blobs: Tuple[str, str],
              shape: Sequence[int] = ()) -> Dict[str, Any]:
    """What templates know of a network and its images.

    Parameters
    ----------
    title : str
        The network's name.
    steps : ImageSteps
    blobs : (str, str)
        Names of the input and output blobs.
    shape : (int, int, int), optional
        Channels, height and width of the input: images that are not of it are refused.
    """
    mean, std = np.asarray(steps.mean, np.float64), np.asarray(steps.std, np.float64)
    return {"name": title, "steps": _steps(steps), "input": blobs[0], "output": blobs[1],
            "resize": int(steps.resize or 0), "crop": _crop(steps), "size": tuple(shape[1:]),
            "order": steps.colour_order,
            "channels": CHANNELS[steps.colour_order], "scale": float(steps.scale), "mean": mean.tolist(),
            "std": std.tolist(), "scaled_mean": mean / steps.scale, "norm": steps.scale / std,
            "instead_of": ", ".join(steps.instead_of if isinstance(steps, Prepared) else ())}


def rendered(template: pathlib.Path, values: Mapping[str, Any]) -> str:
    """The program of a template called NAME.py.txt or NAME.cpp.txt."""
    language = template.name.split(".")[1]
    return str(_environment(language).from_string(read_text(template)).render(values))


@functools.lru_cache(maxsize=None)
def _environment(language: str) -> Any:
    """The template engine for a language."""
    import jinja2
    environment = jinja2.Environment(finalize=LITERALS[language], undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["comment"] = lambda text: Encoded(comment(text))
    return environment


def _python(value):
    """A literal of Python."""
    if isinstance(value, Encoded):
        return value
    if isinstance(value, str):
        return python_text(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_python, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    raise TypeError(f"{value!r} has no place in a program")


def _cpp(value):
    """A literal of C++; arrays without their braces."""
    if isinstance(value, Encoded):
        return value
    if isinstance(value, str):
        return cpp_text(value)
    if isinstance(value, np.ndarray):
        return ", ".join(f"{item:#.9g}f" for item in value)
    if isinstance(value, list):
        return ", ".join(map(_cpp, value))
    if isinstance(value, int):
        return str(value)
    raise TypeError(f"{value!r} has no place in a program")


LITERALS: Dict[str, Callable] = {"py": _python, "cpp": _cpp}


def _steps(p):
    """The preprocessing in words."""
    geometry = []
    if p.resize:
        geometry.append(f"short side resized to {p.resize} (bilinear, antialiased)")
    if p.crop:
        height, width = _crop(p)
        geometry.append(f"centre crop {width}x{height}")
    order = "grey" if p.colour_order == "L" else p.colour_order
    return ", ".join(geometry + [f"(byte * {p.scale:.7g} - mean) / std in {order} order"])


def _crop(p):
    """(height, width), or None."""
    if not p.crop:
        return None
    return tuple(map(int, p.crop if isinstance(p.crop, tuple) else (p.crop, p.crop)))
