# SPDX-License-Identifier: MIT
"""Programs compute a network's own (x - mean) / std with their image's, where every byte keeps its code."""

import runpy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from deploy import ir
from deploy.target import find
from deploy.targets.ncnn import TARGET, front, writer
from tests.deploy.targets.ncnn.models import conv, model

Image = pytest.importorskip("PIL.Image")
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


@dataclass
class Steps:
    resize: Any = None
    crop: Any = None
    colour_order: str = "RGB"
    scale: float = 1 / 255
    mean: Any = (0.0, 0.0, 0.0)
    std: Any = (1.0, 1.0, 1.0)


def own(*layers, largest=2.64, **options):
    """The layers in front of a convolution in integers, and one more."""
    first = conv("first", layers[-1].outputs[0] if layers else "data", (6, 3, 3, 3), largest=largest, **options)
    return model((3, 8, 8), [*layers, first, conv("second", "first", (5, 6, 8, 8) if options else (5, 6, 6, 6))])


def normalize(source="data", name="own"):
    return ir.Affine(name, (source,), (name,), scale=1 / STD, shift=-MEAN / STD)


def number(op, value, source="data"):
    return ir.ScalarOp(op, (source,), (op,), op=op, scalar=value)


@pytest.mark.parametrize("layers, steps, mean, std", [
    ([normalize()], Steps(), MEAN, STD),
    ([number("div", 255.0), normalize("div")], Steps(scale=1.0), 255 * MEAN, 255 * STD),
    ([number("mul", 2.0), number("sub", 1.0, "mul")], Steps(), [0.5] * 3, [0.5] * 3),
    ([number("rsub", 1.0)], Steps(), [1.0] * 3, [-1.0] * 3),
    ([number("mul", 0.5)], Steps(mean=MEAN, std=STD), MEAN, 2 * STD)])
def test_it_begins_behind_the_networks_own_steps(layers, steps, mean, std):
    blob, found = TARGET.front(own(*layers), steps)
    assert blob == layers[-1].outputs[0] and found.instead_of == tuple(layer.name for layer in layers)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, std, rtol=1e-6)
    assert (found.resize, found.crop, found.colour_order, found.scale) == (None, None, "RGB", steps.scale)


def _branches():
    case = own(normalize())
    return replace(case, nodes=case.nodes + (ir.Activation("side", ("own",), ("side",), function=ir.Function("relu")),),
                   outputs=case.outputs + ("side",), shapes=dict(case.shapes, side=(3, 8, 8)))


def _input_read_twice():
    case = own(normalize())
    return replace(case, nodes=case.nodes + (ir.Activation("side", ("data",), ("side",),
                                                           function=ir.Function("relu")),),
                   outputs=case.outputs + ("side",), shapes=dict(case.shapes, side=(3, 8, 8)))


@pytest.mark.parametrize("case", [
    own(), own(normalize(), largest=None), _branches(), _input_read_twice(),
    replace(own(normalize()), outputs=("own", "second")),
    own(ir.Activation("own", ("data",), ("own",), function=ir.Function("relu"))),
    own(ir.Affine("own", ("data",), ("own",), scale=np.float32([1, 0, 1]), shift=MEAN))])
def test_it_begins_at_the_input_where_nothing_or_more_stands_there(case):
    steps = Steps()
    assert TARGET.front(case, steps) == ("data", steps)


def test_the_mean_moves_by_last_bits_where_a_code_would_change(monkeypatch):
    """The blue value of byte 255 becomes 63.5, as nearly as float32 can say."""
    case, steps = own(number("mul", 0.5)), Steps(mean=MEAN, std=STD)
    blob, found = TARGET.front(case, steps)
    assert blob == "mul" and list(found.mean[:2]) == list(np.float64(MEAN[:2]))
    assert 0 < abs(found.mean[2] - np.float64(MEAN[2])) < 1e-6
    monkeypatch.setattr(front, "MOVES", [0])
    assert TARGET.front(case, steps) == ("data", steps)


def test_a_byte_with_two_codes_keeps_the_layer():
    """0.49999997, of which ncnn makes 1 in most elements of a plane, and 0 in its last ones."""
    below = float(np.nextafter(np.float32(0.5), np.float32(0)))
    case = own(number("mul", below / 32), largest=127.0)
    assert TARGET.front(case, Steps(scale=1.0)) == ("data", Steps(scale=1.0))


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_the_program_computes_what_the_whole_file_does(tmp_path, pads):
    pytest.importorskip("ncnn")
    case = own(number("div", 255.0), normalize("div"), **({"pads": pads} if any(pads) else {}))
    files, steps = writer.write(case, tmp_path, "net"), Steps(scale=1.0)
    blob, found = TARGET.front(case, steps)
    assert blob == "own"
    for name, text in find("ncnn").programs("net", found, [path.name for path in files], (blob, "second")).items():
        (tmp_path / name).write_text(text)
        assert "its own layers div, own, which are not computed" in text
    pixels = np.random.RandomState(1).randint(0, 256, (8, 8, 3)).astype(np.uint8)
    program = runpy.run_path(str(tmp_path / "run_ncnn.py"))
    scores = program["scores"](program["load"](), program["preprocess"](Image.fromarray(pixels)))
    session = TARGET.engine.open(files, TARGET.engine.ways[0])
    images = pixels.transpose(2, 0, 1)[None].astype(np.float32)
    np.testing.assert_array_equal(scores, session.run(images, ["second"])["second"].ravel())
