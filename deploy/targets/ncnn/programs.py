# SPDX-License-Identifier: MIT
"""A Python and a C++ program that run the written files on an image, with the preprocessing that the network wants."""

import pathlib
from typing import Dict, Sequence, Tuple

from deploy.image_steps import ImageSteps
from deploy.programs import rendered, values_of

TEMPLATES = pathlib.Path(__file__).resolve().parent / "templates"


def programs(title: str, steps: ImageSteps, files: Sequence[str], blobs: Tuple[str, str],
             class_names: Sequence[str] = (), shape: Sequence[int] = ()) -> Dict[str, str]:
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
    class_names : sequence of str
        One for each score, or none.
    shape : (int, int, int), optional
        Channels, height and width of the input.
    """
    values = dict(values_of(title, steps, blobs, shape), param=files[0], bin=files[1],
                  names=[str(name) for name in class_names])
    return {name: rendered(TEMPLATES / f"{name}.txt", values) for name in ("run_ncnn.py", "run_ncnn.cpp")}
