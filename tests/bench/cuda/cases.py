# SPDX-License-Identifier: MIT
"""The cases of the CUDA harness: inputs, random and adversarial, and what the NumPy reference makes of them."""

import itertools
from typing import Dict, List, NamedTuple

import numpy as np

from quantize import reference, reference_trained
from quantize.spec import PerChannel, PerGroup, PerTensor, QParams, QuantSpec

EXACT = (0.0, 0.0)
SUM = (1e-6, 0.0)
TANH = (1e-6, 1e-12)  # the device's tanh in double may differ from the host's in its last bit

# shape, granularity; lengths around 4, a warp's and a block's tile (512 and 4096), rows of 1, 3, 9 and more than a tile
LAYOUTS = (
    ((1,), PerTensor()), ((7,), PerTensor()), ((4096,), PerTensor()), ((4097,), PerTensor()),
    ((3, 5, 7, 7), PerTensor()), ((30001,), PerTensor()),
    ((70, 1, 3, 3), PerChannel(0)), ((8, 64, 3, 3), PerChannel(0)), ((5, 512), PerChannel(0)),
    ((3, 513), PerChannel(0)), ((2, 5000), PerChannel(0)), ((6, 4, 11), PerGroup(3, 0)), ((16, 9), PerGroup(2, 0)),
    ((4, 8), PerChannel(1)), ((300, 130), PerChannel(1)), ((9, 6, 3, 1), PerChannel(1)),
    ((3, 4, 14, 14), PerChannel(1)), ((2, 3, 65, 65), PerChannel(1)), ((3, 2, 64, 64), PerChannel(1)),
    ((4, 8, 5, 5), PerGroup(2, 1)), ((5, 1, 30, 30), PerChannel(1)), ((2, 3, 7), PerChannel(2)),
)

SPECS = (
    QuantSpec(8), QuantSpec(8, signed=False), QuantSpec(4, rounding="half_even"), QuantSpec(4, narrow=False),
    QuantSpec(8, signed=False, symmetric=False), QuantSpec(8, symmetric=False, narrow=False, rounding="half_even"),
    QuantSpec(2, grid="mid_rise"), QuantSpec(1, grid="mid_rise"), QuantSpec(16), QuantSpec(1, signed=False),
)


class Case(NamedTuple):
    """One call of one kernel. `outputs` maps a name to (expected array, (relative tolerance, absolute floor))."""

    kernel: str
    title: str
    numbers: Dict[str, float]
    inputs: Dict[str, np.ndarray]
    outputs: Dict[str, tuple]

    def write(self, file):
        """Append the case to a binary file, as cases.h reads it."""
        file.write(f"case {self.kernel} {self.title}\n".encode())
        for name, value in self.numbers.items():
            file.write(f"number {name} {float(value)!r}\n".encode())
        for name, array in self.inputs.items():
            _write_array(file, f"in {name} {array.size} 0 0", array)
        for name, (array, (relative, floor)) in self.outputs.items():
            _write_array(file, f"out {name} {array.size} {relative!r} {floor!r}", array)
        file.write(b"end\n")


def _write_array(file, line, array):
    file.write(line.encode() + b"\n" + np.ascontiguousarray(array, np.float32).tobytes())


def make_cases(seed: int) -> List[Case]:
    """All cases; another seed draws other numbers."""
    rng = np.random.RandomState(seed)
    cases = []
    for turn, ((shape, granularity), spec) in enumerate(itertools.product(LAYOUTS, SPECS)):
        if np.prod(shape) > 8192 and turn % 3:
            continue  # each large layout meets a third of the formats
        spec = spec.with_(granularity=granularity)
        base = numbers_of(shape, spec, turn)
        for multiply in (False, True):
            cases += fixed_cases(rng, shape, spec, base, multiply)
        cases += found_cases(rng, shape, spec, base)
        if spec.symmetric and spec.grid == "mid_tread":
            cases.append(lsq_case(rng, shape, spec, base))
    for turn, (shape, _) in enumerate(LAYOUTS):
        cases += plain_cases(rng, shape, numbers_of(shape, QuantSpec(8), turn))
    return cases


def numbers_of(shape, spec, turn) -> Dict[str, float]:
    """Attributes of a case: the grid, the view, how far the tensors lie off an aligned address."""
    axis = getattr(spec.granularity, "axis", 0)
    parts = int(np.prod(spec.scale_shape(shape)))
    outer = 1 if isinstance(spec.granularity, PerTensor) else int(np.prod(shape[:axis]))
    rounding = 2 if spec.grid == "mid_rise" else ("half_away", "half_even").index(spec.rounding)
    return {"qmin": spec.qmin, "qmax": spec.qmax, "rounding": rounding, "asymmetric": int(not spec.symmetric),
            "outer": outer, "parts": parts, "inner": int(np.prod(shape)) // (outer * parts), "images": shape[0],
            "shift": turn % 4, "in_place": turn % 3 == 0, "momentum": 0.9}


def values(rng, shape, scale, special) -> np.ndarray:
    """Normal values, a third replaced by exact halves, grid points, their neighbours, zeros, denormals, `special`."""
    x = (rng.standard_normal(shape) * rng.choice([1, 30, 300]) * scale).astype(np.float32)
    whole = rng.randint(-140, 140, 64).astype(np.float32)
    halves = ((whole + np.float32(0.5)) * np.float32(scale)).astype(np.float32)
    awkward = np.concatenate([halves, np.nextafter(halves, np.float32(0)), np.nextafter(halves, np.float32(1e9)),
                              whole * np.float32(scale), np.float32([0, -0.0, 1e-40, -1e-40, 1.1754944e-38]),
                              np.float32(special)])
    chosen = rng.rand(*shape) < 0.33
    x[chosen] = rng.choice(awkward, int(chosen.sum()))
    return x


def fixed_cases(rng, shape, spec, base, multiply) -> List[Case]:
    """Given scales: forward and the mask."""
    size = spec.scale_shape(shape)
    # every third scale is a power of two, on which the halves of `values` are exact
    scale = np.where(rng.rand(*size) < 0.33, 0.125, rng.uniform(0.01, 2, size)).astype(np.float32)
    zero_point = rng.randint(spec.qmin, spec.qmax + 1, size) * (not spec.symmetric)
    qparams = QParams(scale, zero_point.astype(np.int32))
    multiplier = (np.float32(1) / scale).astype(np.float32) if multiply else None
    x = values(rng, shape, float(scale.ravel()[0]), [3e38, -3e38, np.inf, -np.inf, np.nan])
    dy = rng.standard_normal(shape).astype(np.float32)
    inputs = {"x": x, "dy": dy, "scale": scale}
    if not spec.symmetric:
        inputs["zero_point"] = zero_point
    if multiply:
        inputs["multiplier"] = multiplier
    finite = np.nan_to_num(x, nan=0, posinf=3e38, neginf=-3e38)  # the reference has no integer code for the others
    y = np.where(np.isnan(x), x, reference.fake_quantize(finite, qparams, spec, multiplier))
    title = title_of(shape, spec) + ("/times" if multiply else "")
    return [Case("fake", title, base, inputs, {"y": (y, EXACT)}),
            Case("mask", title, base, inputs, {"dx": (gradient(x, dy, qparams, spec, multiplier), EXACT)})]


def gradient(x, dy, qparams, spec, multiplier):
    """`reference.ste_gradient`, also for the multiplying form, which the reference leaves out."""
    if multiplier is None:
        return reference.ste_gradient(x, dy, qparams, spec)
    steps = reference.split_groups(x, spec) * reference.expand_scale(multiplier, spec)
    if spec.grid == "mid_rise":
        inside = (steps >= spec.qmin) & (steps <= spec.qmax + 1)
    else:
        zero_point = reference.expand_scale(qparams.zero_point, spec).astype(np.float32)
        codes = reference.ROUND[spec.rounding](steps) + zero_point
        inside = (codes >= spec.qmin) & (codes <= spec.qmax)
    return dy * inside.reshape(x.shape)


def found_cases(rng, shape, spec, base) -> List[Case]:
    """Ranges found by the kernel: online and observed, and both on a tensor with one value that is not finite."""
    x = values(rng, shape, 0.25, [0.0, 50.0])
    parts = reference.split_groups(x, spec)
    if base["parts"] > 1:
        np.moveaxis(parts, spec.granularity.axis, 0)[1] *= 0  # an empty range; parts is a view of x
    title = title_of(shape, spec)
    cases = [online_case(x, spec, base, title, None), observed_case(rng, x, spec, base, title)]
    bad = rng.randint(x.size), rng.choice(np.float32([np.nan, -np.nan, np.inf, -np.inf]))
    return cases + [online_case(x, spec, base, title + "/bad", bad), bad_observed_case(x, spec, base, title, bad)]


def online_case(x, spec, base, title, bad) -> Case:
    """`bad`: (index, value) of one element that makes its whole part NaN."""
    qparams = reference.find_qparams(x, spec)
    y = reference.fake_quantize(x, qparams, spec)
    scale, zero_point = qparams.scale.ravel().copy(), qparams.zero_point.ravel().astype(np.float32)
    if bad is not None:
        part = bad[0] // base["inner"] % base["parts"]
        x = put(x, bad)
        y = np.where(np.arange(x.size) // base["inner"] % base["parts"] == part, np.float32(np.nan), y.ravel())
        scale[part] = np.nan
        zero_point[part] = 0 if spec.symmetric else np.nan
    return Case("online", title, base, {"x": x}, {"y": (y, EXACT), "stats": (np.r_[scale, zero_point], EXACT)})


def observed_case(rng, x, spec, base, title) -> Case:
    """The moving average of calib.observers.EMAObserver; one scale, whatever the spec says."""
    spec, base = whole_tensor(spec, base)
    state = np.float32([-rng.rand(), rng.rand(), 0.5]) * rng.choice([0, 1])
    images = x.reshape(len(x), -1)
    extremes = [np.minimum(images.min(1), 0), np.maximum(images.max(1), 0), np.ones(len(x), np.float32)]
    after = []
    for old, seen in zip(state, extremes):
        mean = 0.0
        for value in seen:
            mean += float(value) / len(x)
        after.append(np.float32(0.9 * float(old) + (1 - 0.9) * (1.0 if seen is extremes[2] else mean)))
    qparams = reference.qparams_of_range(after[0] / after[2], after[1] / after[2], spec)
    stats = np.r_[qparams.scale, qparams.zero_point].astype(np.float32)
    return Case("observed", title, base, {"x": x, "state": state},
                {"y": (reference.fake_quantize(x, qparams, spec), EXACT), "stats": (stats, EXACT),
                 "state": (np.float32(after), EXACT)})


def bad_observed_case(x, spec, base, title, bad) -> Case:
    """A value that is not finite: the state stays, the output is NaN."""
    spec, base = whole_tensor(spec, base)
    state = np.float32([-1, 2, 0.5])
    stats = np.float32([np.nan, 0 if spec.symmetric else np.nan])
    return Case("observed", title + "/bad", base, {"x": put(x, bad), "state": state},
                {"y": (np.full(x.shape, np.nan), EXACT), "state": (state, EXACT), "stats": (stats, EXACT)})


def put(x, bad):
    """A copy of x with element bad[0] set to bad[1]."""
    x = x.copy()
    x.ravel()[bad[0]] = bad[1]
    return x


def whole_tensor(spec, base):
    """The same grid with one scale for the tensor."""
    size = base["outer"] * base["parts"] * base["inner"]
    return spec.with_(granularity=PerTensor()), dict(base, outer=1, parts=1, inner=size)


def lsq_case(rng, shape, spec, base) -> Case:
    """Gradients of x and of the step."""
    step = rng.uniform(0.05, 0.5, spec.scale_shape(shape)).astype(np.float32)
    x = values(rng, shape, float(step.ravel()[0]), [3e38, -3e38, np.inf, -np.inf])
    dy = rng.standard_normal(shape).astype(np.float32)
    dx, dstep = reference_trained.lsq_gradient(x, dy, step, spec)
    factor = 1 / np.sqrt(base["outer"] * base["inner"] * spec.qmax)
    return Case("lsq_backward", title_of(shape, spec), dict(base, factor=factor), {"x": x, "dy": dy, "step": step},
                {"dx": (dx, EXACT), "dstep": (dstep, SUM)})


def plain_cases(rng, shape, base) -> List[Case]:
    """PACT, DoReFa, sign and zero: one scale or none."""
    title = "x".join(map(str, shape))
    dy = rng.standard_normal(shape).astype(np.float32)
    cases = []
    for levels in (1, 3, 15, 255):
        alpha = np.float32(rng.choice([1.5, 4, 0.7]))
        below = np.nextafter(alpha, np.float32(0))
        x = values(rng, shape, alpha / levels, [alpha, below, np.inf, -np.inf, 3e38, np.nan])
        inputs = {"x": x, "dy": dy, "alpha": np.float32([alpha])}
        y = reference_trained.pact(x, alpha, levels)
        cases.append(Case("pact", title, dict(base, levels=levels), inputs, {"y": (y, EXACT)}))
        for calibrated in (False, True):
            dx, dalpha = reference_trained.pact_gradient(x, dy, alpha, levels, calibrated)
            cases.append(Case("pact_backward", title, dict(base, levels=levels, calibrated=calibrated), inputs,
                              {"dx": (dx, EXACT), "dalpha": (dalpha, SUM)}))
    for levels in (0, 1, 7, 255):
        w = untied(rng.standard_normal(shape).astype(np.float32) * np.float32(rng.choice([0, 0.1, 1, 4])), levels)
        y = reference_trained.dorefa(w, levels)
        cases.append(Case("dorefa", title, dict(base, levels=levels), {"x": w}, {"y": (y, EXACT if levels else TANH)}))
        cases.append(Case("dorefa_backward", title, base, {"x": w, "dy": dy},
                          {"dx": (reference_trained.dorefa_gradient(w, dy), TANH)}))
    x = values(rng, shape, 0.5, [1, -1, np.nextafter(np.float32(1), np.float32(2)), np.inf, -np.inf, np.nan])
    y = np.where(np.isnan(x), x, reference_trained.sign(x))
    cases.append(Case("sign", title, base, {"x": x}, {"y": (y, EXACT)}))
    dx = reference_trained.sign_gradient(x, dy)
    cases.append(Case("sign_backward", title, base, {"x": x, "dy": dy}, {"dx": (dx, EXACT)}))
    return cases + [Case("zero", title, base, {}, {"y": (np.zeros(shape), EXACT)})]


def untied(w, levels):
    """`w` without values so near a half that the last bit of tanh decides; they become the largest one."""
    steps = (reference_trained.dorefa(w, 0).astype(np.float64) + 1) / 2 * levels
    near = np.abs(steps - np.floor(steps) - 0.5) < 1e-4
    return np.where(near & (w != 0), np.abs(w).max(), w)


def title_of(shape, spec) -> str:
    """Shape and format in one word."""
    return f"{'x'.join(map(str, shape))}/{spec}/{spec.rounding}".replace(" ", "-")
