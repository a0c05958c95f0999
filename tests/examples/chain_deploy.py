# SPDX-License-Identifier: MIT
"""Run in a process of its own: evaluate and deploy every checkpoint that is named, and say what came of it."""

import json
import pathlib
import sys

from gluon_quantize.runs.deploy import DeployRequest, ImagesRequest, NetworkRequest, deploy
from gluon_quantize.runs.simulate import SimulateRequest, simulate
from quantize.errors import QuantizeError


def facts(folder):
    """What the checkpoint in a folder answers, and what its deployment proves."""
    network, images = NetworkRequest(checkpoint=str(folder)), ImagesRequest(count=100)
    found = {"top1": simulate(SimulateRequest(network, ImagesRequest())).quantized.top1_count}
    try:
        result = deploy(DeployRequest(network, images, output=str(folder / "deployed"), latency_runs=1,
                                      verify_images=30))
    except QuantizeError as error:
        return dict(found, error=str(error))
    sides = result.certificate["sides"]
    return dict(found, shares={name: side["codes"]["share"] for name, side in sides.items()},
                engine=result.accuracy["ncnn int8"].top1_count, simulated=result.accuracy["simulated"].top1_count,
                files=sorted(path.name for path in (folder / "deployed").iterdir()))


if __name__ == "__main__":
    folders = [pathlib.Path(name) for name in sys.argv[1:]]
    print(json.dumps({folder.name: facts(folder) for folder in folders}))
