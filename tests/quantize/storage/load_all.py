# SPDX-License-Identifier: MIT
"""Run in a process of its own: load every file of a folder, and say where outputs differ from those beside it."""

import json
import pathlib
import sys

import mxnet as mx
import numpy as np

from quantize import load_quantized


def found(path):
    expected = np.load(str(path.with_suffix(".npz")))
    net, x = load_quantized(path), mx.nd.array(expected["x"])
    values = {"eager": net(x).asnumpy()}
    if "hybridized" in expected:
        net.hybridize(static_alloc=True, static_shape=True)
        values["hybridized"] = net(x).asnumpy()
    return [name for name in values if values[name].tobytes() != expected[name].tobytes()]


if __name__ == "__main__":
    print(json.dumps({path.stem: found(path) for path in sorted(pathlib.Path(sys.argv[1]).glob("*.qnet"))}))
