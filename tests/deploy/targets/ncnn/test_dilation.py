# SPDX-License-Identifier: MIT
"""Float convolutions that would end the engine with a segmentation fault run, and compute what they should."""

import numpy as np
import pytest

from deploy import engine
from deploy.targets.ncnn import writer
from deploy.targets.ncnn.dilation import crashes
from deploy.targets.ncnn.runner import DEFAULT, EXACT, Runner
from tests.deploy.targets.ncnn import models
from tests.deploy.targets.ncnn.models import conv, model


def case(image, kernel, dilation, pads, groups=1, **options):
    """A dilated convolution of `image` with 2 outputs for each group; input channels are those of the image."""
    shape = (2 * groups, image[0] // groups, kernel, kernel)
    return model(image, [conv("x", "data", shape, groups=groups, dilation=(dilation, dilation), pads=pads, **options)])


# each of them killed the engine with packing off (wheel 1.0.20261020)
DEADLY = {
    "pyramid": case((8, 14, 14), 3, 18, (18,) * 4),
    "narrow": case((4, 1, 8), 2, 2, (0, 6, 2, 4), groups=4),
    "one output": case((4, 11, 11), 3, 5, (0, 0, 0, 0)),
    "point": case((4, 2, 17), 1, 7, (2, 6, 1, 7), groups=2),
    "large kernel": case((2, 7, 7), 5, 4, (11, 9, 0, 1)),
    "padded with something": case((3, 9, 9), 3, 6, (4, 4, 4, 4), pad_value=0.7),
    "depthwise": model((8, 14, 14), [conv("x", "data", (8, 1, 3, 3), groups=8, dilation=(8, 8), pads=(9, 2, 1, 5))]),
}


@pytest.mark.parametrize("name", DEADLY)
def test_deadly_convolutions_compute(ncnn, tmp_path, name):
    deadly = DEADLY[name]
    assert crashes(deadly.nodes[0], deadly.shapes["x"][1:])
    want = engine.run(deadly, models.inputs(deadly)).outputs[0]
    for options in (EXACT, DEFAULT):
        found = Runner(*writer.write(deadly, tmp_path, integers=False), options).run(models.inputs(deadly), ["x"])["x"]
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("kernel, dilation, stride, size", [
    ((3, 3), (5, 5), (1, 1), (5, 5)), ((3, 3), (5, 5), (2, 2), (4, 4)), ((3, 2), (5, 5), (1, 1), (4, 4)),
    ((3, 3), (5, 4), (1, 1), (3, 3)), ((3, 3), (1, 1), (1, 1), (1, 1))])
def test_others_are_written_as_they_are(kernel, dilation, stride, size):
    height, width = ((count - 1) * step + gap * (length - 1) + 1
                     for count, step, gap, length in zip(size, stride, dilation, kernel))
    network = model((2, height, width), [conv("x", "data", (2, 2) + kernel, dilation=dilation, stride=stride)])
    assert network.shapes["x"][1:] == size and not crashes(network.nodes[0], size)
