# SPDX-License-Identifier: MIT
"""Resize and Upsample: nearest and linear, in every coordinate mode of the standard that is the same for all images."""

from __future__ import annotations

from typing import Callable

import numpy as np

from quantize.importers.graph_block import Step
from quantize.importers.onnx.reshapes import shown
from quantize.importers.onnx.sizes import Size, is_open
from quantize.importers.refused import Refused

#: (coordinate mode, rounding) that mean plain repetition when the scale is an integer.
_REPEATING = {("asymmetric", "floor"), ("tf_half_pixel_for_nn", "floor")} | {
    (mode, rounding) for mode in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric")
    for rounding in ("round_prefer_floor", "round_prefer_ceil")}
_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric",
                "tf_half_pixel_for_nn")


def coordinates(mode: str, new: int, old: int, scale: float) -> np.ndarray:
    """Where the `new` places of an axis lie on the `old` ones, as the standard's operator Resize defines it."""
    place = np.arange(new, dtype=np.float64)
    if mode == "align_corners":
        return place * (old - 1) / (new - 1) if new > 1 else np.zeros(1)
    if mode == "asymmetric":
        return place / scale
    if mode == "pytorch_half_pixel" and new == 1:
        return np.zeros(1)
    if mode == "tf_half_pixel_for_nn":
        return (place + 0.5) / scale
    shift = 0.0
    if mode == "half_pixel_symmetric":
        shift = old / 2 * (1 - new / (scale * old))
    return shift + (place + 0.5) / scale - 0.5


def nearest(places: np.ndarray, rounding: str, old: int) -> np.ndarray:
    """The element that each place takes."""
    rules: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "floor": np.floor, "ceil": np.ceil, "round_prefer_floor": lambda x: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: np.floor(x + 0.5)}
    return np.clip(rules[rounding](places), 0, old - 1).astype(int)


def linear(places: np.ndarray, old: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(lower element, upper element, weight of the upper) for each place."""
    places = np.clip(places, 0, old - 1)
    low = np.minimum(np.floor(places).astype(int), old - 1)
    return low, np.minimum(low + 1, old - 1), (places - low).astype("float32")


def _resize(node) -> list:
    mode = _mode(node)
    for key in ("cubic_coeff_a", "extrapolation_value", "exclude_outside"):
        node.take(key)
    rule = ("asymmetric", "floor")
    if node.op == "Resize" and node.opset >= 11:
        rule = (node.take("coordinate_transformation_mode", "half_pixel"),
                node.take("nearest_mode", "round_prefer_floor"))
        node.only("antialias", 0)
    if rule[0] not in _COORDINATES:
        raise Refused(f"coordinate_transformation_mode={rule[0]}, nearest_mode={rule[1]}")
    before, after, scales = _sizes_and_scales(node)
    moved = [axis for axis in range(len(before)) if scales[axis] != 1 or before[axis] != after[axis]]
    if not moved:
        return node.alias()
    if len(before) != 4 or min(moved) < 2:
        raise Refused(f"scales={scales} from {shown(before)} to {shown(after)} (supported: [1, 1, height, width])")
    integral = all(scale >= 1 and scale % 1 == 0 for scale in scales)
    if mode == "nearest" and rule in _REPEATING and integral:
        return _repeat(node, int(scales[2]), int(scales[3]))
    if any(is_open(length) for length in (*before[2:], *after[2:])):
        raise Refused(f"mode={mode!r}, coordinate_transformation_mode={rule[0]}, nearest_mode={rule[1]} with "
                      f"scales={scales} on an input of open size (supported: nearest by an integer)")
    return _resample(node, mode, rule, [(axis, before[axis], after[axis], scales[axis]) for axis in moved])


def _mode(node) -> str:
    mode = node.take("mode", "nearest")
    mode = "linear" if mode == "bilinear" else mode
    if mode not in ("nearest", "linear"):
        raise Refused(f"mode={mode!r} (supported: 'nearest', 'linear')")
    return mode


def _sizes_and_scales(node):
    """Old shape, new shape and scales of all axes."""
    if node.sizes() is None:
        raise Refused("of an input of unknown shape")
    before = node.sizes()
    axes = node.take("axes")
    axes = list(range(len(before))) if axes is None else [node.axis(axis) for axis in axes]
    policy = node.take("keep_aspect_ratio_policy", "stretch")
    old_form = node.op == "Upsample" or node.opset < 11
    scales = node.take("scales") if old_form and "scales" in node.attributes else node.constant(1 if old_form else 2)
    sizes = None if old_form else node.known(3)
    all_scales, after = [1.0] * len(before), list(before)
    if scales is not None and np.size(scales):
        _demand(len(scales) == len(axes) and min(scales) > 0, f"scales={list(scales)}")
        for axis, scale in zip(axes, scales):
            all_scales[axis] = float(scale)
            after[axis] = _scaled(before[axis], float(scale))
    elif sizes is not None and sizes.size:
        _demand(len(sizes) == len(axes), f"sizes={list(sizes)}")
        for axis, size, scale in zip(axes, sizes, _scales_of(before, axes, list(sizes), policy)):
            all_scales[axis], after[axis] = scale, size
            if policy != "stretch":
                after[axis] = int(np.floor(before[axis] * scale + 0.5))
    else:
        raise Refused("scales=[] (supported: [1, 1, height, width])")
    if is_open(before[0]) and not is_open(after[0]):  # the batch that was traced
        after[0], all_scales[0] = before[0], 1.0
    return before, tuple(after), all_scales


def _demand(holds, text) -> None:
    if not holds:
        raise Refused(text)


def _scaled(length, scale):
    if is_open(length):
        return length * int(scale) if scale % 1 == 0 else Size(1, (f"{length} times {scale}",))
    return int(np.floor(length * scale))


def _scales_of(before, axes, sizes, policy):
    """Scales from the wanted sizes; one for all axes where the aspect ratio is kept."""
    scales = []
    for axis, size in zip(axes, sizes):
        old = before[axis]
        if axis == 0 and is_open(old) or old == size:
            scales.append(1.0)
        elif is_open(old) or is_open(size):
            if not (is_open(old) and is_open(size) and old.symbols == size.symbols):
                raise Refused("sizes on an input of open size")
            scales.append(size.factor / old.factor)
        else:
            scales.append(size / old)
    if policy == "not_larger":
        return [min(scales)] * len(scales)
    return [max(scales)] * len(scales) if policy == "not_smaller" else scales


def _repeat(node, high: int, wide: int) -> list:
    if high == wide:
        return node.chain(("UpSampling", dict(scale=high, sample_type="nearest")))
    stages = [("repeat", dict(repeats=count, axis=axis)) for axis, count in ((2, high), (3, wide)) if count > 1]
    return node.chain(*stages)


def _resample(node, mode, rule, moves) -> list:
    """Axis by axis: elements taken, and for linear a mean of two."""
    if mode == "linear" and _is_bilinear(rule[0], moves):
        size = {axis: new for axis, _, new, _ in moves}
        old = node.shape()
        return node.chain(("_contrib_BilinearResize2D", dict(
            height=int(size.get(2, old[2])), width=int(size.get(3, old[3])), mode="size",
            align_corners=rule[0] == "align_corners")))
    steps: list[Step] = []
    result = node.value()
    for axis, old, new, scale in moves:
        places = coordinates(rule[0], new, old, scale)
        if mode == "nearest":
            taken = _take(node, result, axis, nearest(places, rule[1], old), "picked")
            steps, result = [*steps, taken], taken.outputs[0]
            continue
        low, high, weight = linear(places, old)
        shape = tuple(-1 if number == axis else 1 for number in range(4))
        lower, upper = _take(node, result, axis, low, "lower"), _take(node, result, axis, high, "upper")
        share = node.stored(node.part("share"), weight.reshape(shape))
        rest = node.stored(node.part("rest"), (1 - weight).reshape(shape))
        one = node.helper("broadcast_mul", lower.outputs[0], rest)
        two = node.helper("broadcast_mul", upper.outputs[0], share)
        total = node.helper("elemwise_add", one.outputs[0], two.outputs[0])
        steps, result = [*steps, lower, upper, one, two, total], total.outputs[0]
    return steps + node.alias(result)


def _is_bilinear(mode, moves) -> bool:
    """Whether MXNet's own operator has these coordinates; its scale is always the ratio of the sizes."""
    if any(new == 1 for _, _, new, _ in moves):
        return False  # MXNet takes the first element
    if mode == "align_corners":
        return True
    exact = all(new == old * scale for _, old, new, scale in moves)
    return exact and mode in ("half_pixel", "pytorch_half_pixel")


def _take(node, source, axis, places, what):
    return node.helper("take", source, node.stored(node.part(what), places.astype("float32")), axis=axis, mode="clip")


OPERATORS = {"Resize": _resize, "Upsample": _resize}
