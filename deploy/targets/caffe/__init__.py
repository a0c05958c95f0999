# SPDX-License-Identifier: MIT
"""Caffe's files: a .prototxt and a .caffemodel, from which ncnn's own tools make an int8 network."""

from deploy.targets.caffe.target import CaffeTarget

TARGET = CaffeTarget()

__all__ = ["CaffeTarget", "TARGET"]
