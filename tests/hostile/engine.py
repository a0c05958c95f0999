# SPDX-License-Identifier: MIT
"""Damaged ncnn files that the strict readers let pass, given to the engine: it computes, or ends in one line.

    PYTHONPATH=.:examples python -m tests.hostile.engine FIRST COUNT
"""

import pathlib
import sys
import tempfile
from collections import Counter

import numpy as np

from deploy.targets.ncnn import writer
from deploy.targets.ncnn.runner import Runner
from quantize.errors import QuantizeError
from quantize.limits import memory_limit
from tests.deploy.targets.caffe.models import quantized_model
from tests.hostile import fuzzing
from tests.hostile.test_fuzz import LIMIT, MEMORY

SECONDS = 20.0


def main(first, count):
    """Try so many damaged files; says what came of those that the readers accepted. Raises what is no own error."""
    text, binary = writer.render(quantized_model())
    image, found = np.ones((1, 3, 12, 12), np.float32), Counter()
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, memory_limit(LIMIT):
        param, weights = pathlib.Path(folder) / "m.param", pathlib.Path(folder) / "m.bin"
        for number in range(first, first + count):
            rng = fuzzing.generator(number)
            param.write_bytes(fuzzing.lines(text, rng) if number % 2 else text.encode())
            weights.write_bytes(binary if number % 2 else fuzzing.data(binary, rng))
            try:
                runner = Runner(param, weights, seconds=SECONDS)
            except QuantizeError as error:
                assert len(str(error).splitlines()) == 1, error
                found["refused"] += 1
                continue
            try:
                runner.run(image, [runner.blobs[-1]])
                found["computed"] += 1
            except QuantizeError as error:
                assert len(str(error).splitlines()) == 1, error
                found[f"ended in one line: {type(error).__name__}"] += 1
    print(f"{count} tried from {first} on: " + ", ".join(f"{name} {times}" for name, times in sorted(found.items())))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
