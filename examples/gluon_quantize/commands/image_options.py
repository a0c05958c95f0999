# SPDX-License-Identifier: MIT
"""The options that say how images are prepared for a network."""

import argparse
import math
from typing import Any, Dict, Tuple, Union

from gluon_quantize.commands.parser import whole
from gluon_quantize.data.request import AUTO, COLOURS, METRICS

STATED = "(default: as the network's file says, else as usual for the data set)"


def add_preprocessing(group: argparse._ArgumentGroup) -> None:
    """What is done with an image before the network sees it."""
    group.add_argument("--resize", type=whole(0), metavar="N",
                       help=f"short side in pixels before the crop, 0: do not resize {STATED}")
    group.add_argument("--crop", type=size, metavar="N",
                       help=f"side of the centre crop in pixels, or HEIGHTxWIDTH; 0: no crop {STATED}")
    group.add_argument("--colour", "--color", choices=COLOURS, help=f"channels that the network takes {STATED}")
    group.add_argument("--scale", type=real, metavar="X",
                       help=f"factor on the bytes, 1 for networks that take 0..255 {STATED}")
    group.add_argument("--mean", type=real, nargs="+", metavar="X",
                       help=f"what is subtracted from the scaled bytes, one value or one for each channel {STATED}")
    group.add_argument("--std", type=real, nargs="+", metavar="X",
                       help=f"what divides the rest, one value or one for each channel {STATED}")


def add_loader(group: argparse._ArgumentGroup) -> None:
    """Where images come from that are no data set, and what is said about the answers."""
    group.add_argument("--data", metavar="MODULE:FUNCTION",
                       help="images from a function of your own, of a module or a FILE.py, called with train or test; "
                            "gluon_quantize.data.loader says what it gives. It may bring a metric of its own")
    group.add_argument("--metric", choices=METRICS, default=AUTO,
                       help="top1: how often the answer is the label; agreement: how close the outputs are to the "
                            "float network's, which needs no labels; auto: agreement for networks that do not classify "
                            "(default: %(default)s)")


def preprocessing_fields(args: argparse.Namespace) -> Dict[str, Any]:
    """The fields of `ImagesRequest` that the options stand for."""
    return {"loader": args.data, "metric": args.metric, "resize": args.resize,
            "crop": args.crop, "colour": args.colour, "scale": args.scale,
            "mean": tuple(args.mean) if args.mean else None, "std": tuple(args.std) if args.std else None}


def size(text: str) -> Union[int, Tuple[int, int]]:
    """Argument type: N or HEIGHTxWIDTH in pixels."""
    parts = [whole(0)(part) for part in text.lower().split("x")]
    if len(parts) > 2 or (len(parts) == 2 and 0 in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write N or HEIGHTxWIDTH")
    return parts[0] if len(parts) == 1 else (parts[0], parts[1])


def real(text: str) -> float:
    """Argument type: a finite number, or a quotient such as 1/255."""
    above, _, below = text.partition("/")
    try:
        value = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value
