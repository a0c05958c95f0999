# SPDX-License-Identifier: MIT
"""Runs on the emulated machine: what ncnn computes there from the cases, or from a folder, as digests or arrays.

    emulated.py cases [NAME ...]                      JSON: case -> output -> digest; of all cases
    emulated.py forbidden                             JSON: see `forbidden`
    emulated.py masked NAME ...                       JSON: see `masked`
    emulated.py blobs PARAM IMAGES.npy OUT.npz WAY    arrays of all blobs, by the way `exact` or `default`
"""

import hashlib
import json
import pathlib
import sys
import tempfile

import numpy as np

from deploy.targets.ncnn import TARGET, writer
from deploy.targets.ncnn.runner import Runner
from tests.deploy.targets.ncnn.aarch64 import cases


def digest(values):
    """Of float32 numbers, -0 as 0, all that are no numbers alike."""
    values = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0)).astype("<f4")
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def outputs(name, case):
    """Output -> its digest."""
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(*writer.write(case, pathlib.Path(folder)), TARGET.engine.ways[0].options)
        found = runner.run(cases.images(name, case), list(case.outputs), case.shapes)
    return {blob: digest(values) for blob, values in found.items()}


def forbidden():
    """Whether, with ncnn's default options, files that forbid 16-bit floats give what they give with exact ones."""
    case = cases.networks()["network residual"]
    images, found = cases.images("", case, 4), []
    for fp32, way in ((False, 0), (True, 1), (False, 1)):
        with tempfile.TemporaryDirectory() as folder:
            paths = writer.write(case, pathlib.Path(folder), fp32=fp32)
            found.append(digest(Runner(*paths, TARGET.engine.ways[way].options).run(images, ["x"])["x"]))
    return {"as exact": found[0] == found[1], "without": found[0] == found[2]}


def masked(names):
    """Case -> [its outputs' digests with ncnn's default options and files that forbid its layers 16 bits, and without].

    Of the network `residual` what `c1` and `c3` read is kept from them alone (the one reads the image, and `c3` what
    comes of it); instead of outputs there are r, which `c3` reads, and x.
    """
    everything, found = cases.everything(), {}
    for name in names:
        case = everything[name]
        layers, wanted = [node.name for node in case.nodes], list(case.outputs)
        if name == "network residual":
            layers, wanted = ["c1", "c3"], ["r", "x"]
        found[name] = []
        for fp32_layers in (layers, ()):
            with tempfile.TemporaryDirectory() as folder:
                paths = writer.write(case, pathlib.Path(folder), fp32_layers=fp32_layers)
                computed = Runner(*paths, TARGET.engine.ways[1].options).run(
                    cases.images(name, case), wanted, case.shapes)
            found[name].append({blob: digest(values) for blob, values in computed.items()})
    return found


def blobs(param, images, target, way):
    """All blobs of a network's files, whole numbers where it holds codes."""
    options = next(item.options for item in TARGET.engine.ways if item.name == way)
    runner = Runner(param, param.with_suffix(".bin"), options)
    np.savez(target, **runner.run(np.load(images), [name for name in runner.blobs if name not in runner.inputs]))


if __name__ == "__main__":
    if sys.argv[1] == "cases":
        everything = cases.networks() if sys.argv[2:3] == ["network chain"] else cases.everything()
        print(json.dumps({name: outputs(name, everything[name]) for name in sys.argv[2:] or everything}))
    elif sys.argv[1] == "masked":
        print(json.dumps(masked(sys.argv[2:])))
    elif sys.argv[1] == "forbidden":
        print(json.dumps(forbidden()))
    else:
        blobs(pathlib.Path(sys.argv[2]), *sys.argv[3:])
