# SPDX-License-Identifier: MIT
"""Writes the golden files: `python -m tests.deploy.targets.caffe.golden.make`.

They last changed when they were first made. caffe2ncnn and OpenCV's Caffe importer read them.
"""

import pathlib

from deploy.targets.caffe.writer import write
from tests.deploy.targets.caffe.models import tiny

if __name__ == "__main__":
    write(tiny(), pathlib.Path(__file__).parent)
