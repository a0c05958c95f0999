# SPDX-License-Identifier: MIT
"""Blobs of random shapes: representation, engine and ncnn agree with NumPy on what fits, and on the values."""

import numpy as np
import pytest

from deploy import engine, ir
from deploy.ir.validate import problems
from deploy.targets.caffe import constraints as caffe
from deploy.targets.ncnn import writer
from deploy.targets.ncnn.runner import DEFAULT, EXACT, Runner

RNG = np.random.RandomState(5)


def shapes():
    """Random shapes with axes of length 1 here and there: most of them fit together, with ranks that differ."""
    full = tuple(int(size) for size in RNG.randint(1, 9, RNG.randint(1, 4)))
    found = []
    for _ in range(RNG.randint(2, 4)):
        part = full[RNG.randint(len(full)):] if RNG.rand() < 0.4 else full
        found.append(tuple(1 if RNG.rand() < 0.3 else size for size in part))
    if RNG.rand() < 0.2:
        found[-1] = tuple(int(size) for size in RNG.randint(1, 4, RNG.randint(1, 4)))
    return found


CASES = [shapes() for _ in range(60)]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_blobs_meet_as_in_numpy(ncnn, tmp_path, number):
    given = CASES[number]
    names, op = [f"in{k}" for k in range(len(given))], ("add", "mul", "max", "sub")[number % 3 if len(given) > 2 else 3]
    batches = {name: np.random.RandomState(number + k).randn(2, *shape).astype(np.float32)
               for k, (name, shape) in enumerate(zip(names, given))}
    try:
        out = np.broadcast_shapes(*given)
    except ValueError:
        out = given[0]
        node = ir.Elementwise("x", tuple(names), ("x",), op=op)
        assert problems(ir.Model(tuple(names), ("x",), (node,), dict(zip(names, given), x=out)))
        return
    node = ir.Elementwise("x", tuple(names), ("x",), op=op)
    model = ir.Model(tuple(names), ("x",), (node,), dict(zip(names, given), x=out))
    assert problems(model) == []
    function = {"add": np.add, "mul": np.multiply, "max": np.maximum, "sub": np.subtract}[op]
    want = []
    for image in zip(*batches.values()):
        value = image[0]
        for other in image[1:]:
            value = function(value, other)
        want.append(value)
    np.testing.assert_array_equal(engine.run(model, batches).outputs[0], want)
    for options in (EXACT, DEFAULT):
        found = Runner(*writer.write(model, tmp_path), options).run(batches, ["x"], model.shapes)["x"]
        np.testing.assert_array_equal(found, want)
    assert bool([problem for problem in caffe.check(model) if problem.fatal]) >= (len(set(given)) > 1)
