# SPDX-License-Identifier: MIT
"""A Python and a C++ program that run the written files on an image, with the preprocessing that the network wants."""

import pathlib
import string
from typing import Dict, Sequence, Tuple

import numpy as np

from deploy.target import ImageSteps
from quantize.files import read_text

TEMPLATES = pathlib.Path(__file__).resolve().parent / "templates"
CHANNELS = {"RGB": 3, "BGR": 3, "L": 1}


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
    common = {"name": title, "steps": _steps(steps), "param": files[0], "bin": files[1], "input": blobs[0],
              "output": blobs[1]}
    found = {}
    for suffix, values in (("py", _python(steps)), ("cpp", _cpp(steps))):
        template = string.Template(read_text(TEMPLATES / f"run_ncnn.{suffix}.txt"))
        found[f"run_ncnn.{suffix}"] = template.substitute(common, **values)
    return found


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
    return p.crop if isinstance(p.crop, tuple) else (p.crop, p.crop)


def _python(p):
    lines = []
    if p.resize:
        lines += ["short = min(image.size)",
                  f"image = image.resize(tuple(max(side * {p.resize} // short, {p.resize}) for side in image.size), "
                  "Image.BILINEAR)"
                  ]
    if p.crop:
        height, width = _crop(p)
        lines += [f"left, top = (image.width - {width}) // 2, (image.height - {height}) // 2",
                  f"image = image.crop((left, top, left + {width}, top + {height}))"]
    grey = p.colour_order == "L"
    return {"mode": "L" if grey else "RGB", "geometry": "\n".join("    " + line for line in lines),
            "reverse": "[:, :, ::-1]" if p.colour_order == "BGR" else "", "scale": repr(float(p.scale)),
            "mean": repr(list(p.mean)), "std": repr(list(p.std))}


def _cpp(p):
    grey = p.colour_order == "L"
    conversion = {"L": "PIXEL_GRAY", "RGB": "PIXEL_RGB", "BGR": "PIXEL_RGB2BGR"}[p.colour_order]
    if p.resize:
        lines = ["// ncnn's resize looks at 2x2 pixels only, Pillow's averages: shrink large images by area first",
                 "const int side = std::min(width, height);",
                 f"ncnn::Mat in = ncnn::Mat::from_pixels_resize(pixels, ncnn::Mat::{conversion}, width, height,\n"
                 f"        std::max(width * {p.resize} / side, {p.resize}), std::max(height * {p.resize} / side, "
                 f"{p.resize}));"]
    else:
        lines = [f"ncnn::Mat in = ncnn::Mat::from_pixels(pixels, ncnn::Mat::{conversion}, width, height);"]
    if p.crop:
        height, width = _crop(p)
        lines += [f"const int left = (in.w - {width}) / 2, top = (in.h - {height}) / 2;", "ncnn::Mat cropped;",
                  f"ncnn::copy_cut_border(in, cropped, top, in.h - {height} - top, left, in.w - {width} - left);",
                  "in = cropped;"]
    mean, std = np.float64(p.mean), np.float64(p.std)
    return {"geometry": "\n".join("    " + line for line in lines), "channels": CHANNELS[p.colour_order],
            "mean": _floats(mean / p.scale), "norm": _floats(p.scale / std),
            "suffix": "pgm" if grey else "ppm", "kind": "PGM" if grey else "PPM", "magic": "P5" if grey else "P6",
            "pixels": "grey" if grey else "RGB"}


def _floats(values):
    """C++ constants."""
    return ", ".join(f"{value:#.9g}f" for value in values)
