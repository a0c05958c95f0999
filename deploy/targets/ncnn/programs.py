# SPDX-License-Identifier: MIT
"""A Python and a C++ program that run the written files on an image, with the preprocessing that the network wants.

Names come from files that somebody else wrote. Templates see values, never code: whatever stands between ``{{ }}`` is
encoded as a literal of the program's language by the template engine itself, so that no place can be forgotten; in
comments it is said once more (``| comment``), and texts without either do not get through.
"""

import functools
import pathlib
from typing import Any, Callable, Dict, Sequence, Tuple

import numpy as np

from deploy.target import ImageSteps
from quantize.escape import comment, cpp_text, python_text
from quantize.files import read_text

TEMPLATES = pathlib.Path(__file__).resolve().parent / "templates"
CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


class Encoded(str):
    """Text that is encoded already."""


def programs(title: str, steps: ImageSteps, files: Sequence[str], blobs: Tuple[str, str]) -> Dict[str, str]:
    """Texts of `run_ncnn.py` and `run_ncnn.cpp`, by name.

    Parameters
    ----------
    title : str
        The network's name.
    steps : ImageSteps
    files : (str, str)
        Names of the .param and .bin files.
    blobs : (str, str)
        Names of the input and output blobs.
    """
    mean, std = np.asarray(steps.mean, np.float64), np.asarray(steps.std, np.float64)
    values = {"name": title, "steps": _steps(steps), "param": files[0], "bin": files[1], "input": blobs[0],
              "output": blobs[1], "resize": int(steps.resize or 0), "crop": _crop(steps), "order": steps.colour_order,
              "channels": CHANNELS[steps.colour_order], "scale": float(steps.scale), "mean": mean.tolist(),
              "std": std.tolist(), "scaled_mean": mean / steps.scale, "norm": steps.scale / std}
    return {f"run_ncnn.{suffix}": _environment(suffix).from_string(read_text(TEMPLATES / f"run_ncnn.{suffix}.txt"))
            .render(values) for suffix in LITERALS}


@functools.lru_cache(maxsize=None)
def _environment(suffix: str) -> Any:
    """The template engine for a language."""
    import jinja2
    environment = jinja2.Environment(finalize=LITERALS[suffix], undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["comment"] = lambda text: Encoded(comment(text))
    return environment


def _python(value):
    """A literal of Python."""
    if isinstance(value, Encoded):
        return value
    if isinstance(value, str):
        return python_text(value)
    if isinstance(value, (int, float, list)):
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
