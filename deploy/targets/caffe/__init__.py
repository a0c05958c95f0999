# SPDX-License-Identifier: MIT
"""Caffe's files: a .prototxt and a .caffemodel, from which ncnn's own tools make an int8 network."""

from deploy.target import find
from deploy.targets.caffe.target import CaffeTarget

TARGET = find("caffe")

__all__ = ["CaffeTarget", "TARGET"]
