# SPDX-License-Identifier: MIT
"""How a run prepares its images, and who said so: options, the network's file, or a preset that is usual."""

import dataclasses
from typing import Any, Dict, List, Optional, Sequence, Tuple

from gluon_quantize.data.preprocess import CHANNELS, PRESETS, Preprocessing
from gluon_quantize.data.request import COLOURS, DATASET, ImagesRequest
from quantize.errors import ConfigError, DataError

FILE, OPTION = "the network's file", "option"
GREY = "mnist"  # bytes to 0..1
ORDERS = dict(zip(COLOURS, ("RGB", "BGR", "L")))
NORMALISED = {"scale": 1 / 255, "mean": (0.0,), "std": (1.0,)}


def with_origin(steps: Preprocessing, origin: str, names: Optional[Sequence[str]] = None) -> Preprocessing:
    """The same steps; the values of those names (None: all) are said to come from `origin`."""
    known = dict(steps.origins)
    known.update(dict.fromkeys(names or steps.values(), origin))
    return dataclasses.replace(steps, origins=tuple(known.items()))


def steps_for(request: ImagesRequest, dataset: str, stated: Optional[Preprocessing] = None,
              channels: Optional[int] = None) -> Preprocessing:
    """What is asked for, else what the network's file states, else what is usual for the data set.

    Parameters
    ----------
    stated : Preprocessing, optional
        What belongs to the network; without origins it counts as stated by its file.
    channels : int, optional
        Of the network's input, where known: a network of one channel without preprocessing of its own takes grey
        images.

    Raises
    ------
    ConfigError
        For values that do not go together.
    """
    if stated is None:
        dataset = dataset if dataset in PRESETS else DATASET
        usual = GREY if channels == 1 and CHANNELS[PRESETS[dataset]().colour_order] != 1 else dataset
        note = "1 channel: grey" if usual != dataset else f"usual for {dataset}"
        steps = with_origin(PRESETS[usual](), f"assumed, {note}")
    else:
        steps = stated if stated.origins else with_origin(stated, FILE)
    return _sized(request, _normalised(request, _coloured(request, steps)))


def _coloured(request, steps):
    """With the channels that are asked for; means and deviations go with them."""
    order = ORDERS[request.colour] if request.colour else steps.colour_order
    if request.colour is None or order == steps.colour_order:
        return steps if request.colour is None else with_origin(steps, OPTION, ["colour"])
    changed = {name: _moved(getattr(steps, name), order) for name in ("mean", "std")}
    return with_origin(dataclasses.replace(steps, colour_order=order, **changed), OPTION, ["colour"])


def _moved(values, order):
    """Values for the channels of another order."""
    if CHANNELS[order] == len(values):
        return values[::-1]
    return (sum(values) / len(values),) * CHANNELS[order]


def _normalised(request, steps):
    """With the numbers that are asked for."""
    channels = CHANNELS[steps.colour_order]
    given = {name: getattr(request, name) for name in NORMALISED if getattr(request, name) is not None}
    if not given:
        return steps
    if dict(steps.origins).get("scale") != FILE:
        # numbers of a preset belong together: what is left open beside those of an option changes nothing
        _check_units(given)
        steps = dataclasses.replace(steps, scale=NORMALISED["scale"], mean=(0.0,) * channels, std=(1.0,) * channels)
        steps = with_origin(steps, f"none, beside --{next(iter(given))}", list(NORMALISED))
    values = {name: value if name == "scale" else _for_each(name, value, channels) for name, value in given.items()}
    return with_origin(dataclasses.replace(steps, **values), OPTION, list(given))


def _for_each(name, values, channels):
    if len(values) not in (1, channels):
        raise ConfigError(f"--{name}: {len(values)} values for {channels} channels; give one, or one for each")
    return tuple(values) * (channels if len(values) == 1 else 1)


def _check_units(given):
    """Means of bytes beside the usual scale would make every image black."""
    large = [name for name in ("mean", "std") if max(given.get(name, (0,))) > 2]
    if large and "scale" not in given:
        values = " ".join(f"{value:g}" for value in given[large[0]])
        raise ConfigError(f"--{large[0]} {values}: in units of bytes? Mean and standard deviation are those of the "
                          "scaled bytes: give --scale 1 as well")


def _sized(request, steps):
    given = {name: getattr(request, name) for name in ("resize", "crop") if getattr(request, name) is not None}
    return with_origin(steps.override(**given), OPTION, list(given)) if given else steps


def check_size(steps: Preprocessing, image: Tuple[int, ...], declared: Optional[Sequence[Any]], origin: str) -> None:
    """DataError where a preprocessed image does not have the size that the network's file declares.

    Parameters
    ----------
    image : (channels, height, width)
        Of a preprocessed image.
    declared : (channels, height, width) or None
        With None (or text, or 0) for what is open.
    origin : str
        What to call the image.
    """
    declared = tuple(declared or ())
    if len(declared) != 3 or all(not isinstance(want, int) or want in (0, have)
                                 for want, have in zip(declared, image)):
        return
    if isinstance(declared[0], int) and declared[0] not in (0, image[0]):
        colour = {1: "grey", 3: "rgb"}.get(declared[0])
        advice = f"--colour {colour} makes {declared[0]}" if colour else "images have 1 or 3: --data reads others"
        raise DataError(f"the network takes images of shape {_open(declared)}, {origin} has the shape {image} after "
                        f"preprocessing ({steps.colour_order}); {advice}, or check --dataset")
    raise DataError(f"the network takes images of shape {_open(declared)}, {origin} has the shape {image} after "
                    f"preprocessing; --resize {min(declared[1:])} --crop {_size(declared)} brings images there")


def _open(shape):
    """The shape, with a word for what is open."""
    return f"({', '.join(str(size) if isinstance(size, int) and size else 'any' for size in shape)})"


def _size(shape):
    return f"{shape[1]}" if shape[1] == shape[2] else f"{shape[1]}x{shape[2]}"


def origins(steps: Preprocessing) -> Dict[str, str]:
    """Where each value came from, by the options' names."""
    known = dict(steps.origins)
    return {name: known.get(name, FILE) for name in steps.values()}


def steps_text(steps: Preprocessing, decoded: bool = True) -> str:
    """The steps and who said so, one line each under a title; that there are none for what is not `decoded` images."""
    if not decoded:
        return "Preprocessing: none, the arrays are taken as they are"
    rows: List[Tuple[str, str, str]] = []
    for name, origin in origins(steps).items():
        value = steps.values()[name]
        values = value if isinstance(value, list) else [value]
        text = " ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values)
        rows.append((name, "none" if name in ("resize", "crop") and text == "0" else text, origin))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    lines = [f"  {name.ljust(widths[0])}  {text.ljust(widths[1])}  {origin}" for name, text, origin in rows]
    return "\n".join(["Preprocessing: (bytes * scale - mean) / std", *lines])
