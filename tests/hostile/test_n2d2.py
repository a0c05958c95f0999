# SPDX-License-Identifier: MIT
"""INI files and data sets that want all memory: refused in one line before it is taken."""

import gzip
import re
import resource

import numpy as np
import pytest

from quantize.errors import ConfigError, DataError
from quantize.interfaces.n2d2 import transform
from quantize.interfaces.n2d2.database import DIR, MNIST
from quantize.interfaces.n2d2.ini.model import read_model
from quantize.interfaces.n2d2.provider import DataProvider
from quantize.limits import memory_limit
from tests.hostile.n2d2 import INI, NAMES, mnist


def used():
    """The most memory that this process had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("old, new, message", [
    ("KernelWidth=3\nKernelHeight=3", "KernelSize=nan", "n.ini:.*KernelSize: numbers are wanted, got 'nan'"),
    ("KernelWidth=3\nKernelHeight=3", "KernelDims=3 2.5", "KernelDims: whole numbers are wanted"),
    ("$LR=0.05", "$LR=inf", "LearningRate: a number is wanted"),
    ("SizeX=8", "SizeX=2000000000", "an image of"),
    ("NbOutputs=4", "NbOutputs=2000000000", "NbOutputs"),
    ("Type=Fc\nNbOutputs=3", "Type=Fc\nNbOutputs=100000000", "would take"),
    ("Padding=1", "Padding=100000", "would take"),
    ("NbOutputs=4", "NbOutputs=1e30", "a whole number from 1 is wanted"),
    ("Stride=2", "Stride=0", "Stride: one number or two are wanted, from 1"),
    ("KernelHeight=3", "KernelHeight=0", "KernelHeight: a whole number from 1 is wanted")])
def test_networks_that_nobody_has_memory_for_are_not_made(tmp_path, old, new, message):
    assert old in INI
    (tmp_path / "n.ini").write_text(INI.replace(old, new, 1))
    before = used()
    with memory_limit(2 ** 28), pytest.raises(ConfigError, match=message) as caught:
        read_model(tmp_path / "n.ini").network.build()
    assert len(str(caught.value).splitlines()) == 1
    assert used() - before < 2 ** 27


def test_no_more_of_a_packed_file_is_unpacked_than_is_allowed(tmp_path):
    for name, content in mnist().items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / NAMES[0]).unlink()
    (tmp_path / (NAMES[0] + ".gz")).write_bytes(gzip.compress(bytes(2 ** 26), 1))
    before = used()
    with memory_limit(2 ** 22), pytest.raises(DataError, match="unpacked: would take"):
        MNIST(data_path=tmp_path)
    assert used() - before < 2 ** 25


@pytest.mark.parametrize("content, message", [
    (b"not packed", "cannot be unpacked"), (gzip.compress(b"x", mtime=0)[:-4], "cannot be unpacked"),
    (gzip.compress(b"x" * 40, mtime=0), "is no IDX file"),
    (gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12, mtime=0), "says")],
    ids=["not packed", "cut off", "other content", "another count"])
def test_a_packed_file_that_is_none_is_one_line(tmp_path, content, message):
    for name, whole in mnist().items():
        (tmp_path / name).write_bytes(whole)
    (tmp_path / NAMES[2]).unlink()
    (tmp_path / (NAMES[2] + ".gz")).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        MNIST(data_path=tmp_path)
    assert re.match(r".*t10k-images-idx3-ubyte\.gz: ", str(caught.value))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("line", ["a.png " + "9" * 30, "a.png \u00b2", "a.png -1", "a.png", "a.png \u0663"])
def test_classes_in_lists_are_numbers(tmp_path, line):
    (tmp_path / "labels.txt").write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="lines 'file class' are wanted"):
        DIR(data_path=tmp_path)
    (tmp_path / "labels.txt").write_bytes(b"\xff\xfe 1\n")
    with pytest.raises(DataError, match="not a text file"):
        DIR(data_path=tmp_path)


@pytest.mark.parametrize("made", [
    transform.Rescale(10 ** 9, 10 ** 9), transform.Rescale(10 ** 9, 10, keep_aspect_ratio=True, resize_to_fit=False),
    transform.RandomResizeCrop(10 ** 6, 10 ** 6), transform.PadCrop(10 ** 6, 10 ** 6),
    transform.SliceExtraction(10 ** 6, 10 ** 6, allow_padding=True)])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_no_transformation_makes_an_image_that_nobody_has_memory_for(made, kind):
    before = used()
    with memory_limit(2 ** 28), pytest.raises(DataError, match="would take"):
        made(np.zeros((5, 6, 3), kind), np.random.RandomState(0))
    assert used() - before < 2 ** 26


def test_a_batch_larger_than_memory_is_none(tmp_path):
    for name, content in mnist().items():
        (tmp_path / name).write_bytes(content)
    with memory_limit(2 ** 28), pytest.raises(ConfigError, match="a batch of 2000000000 images of 4x4: would take"):
        DataProvider(MNIST(data_path=tmp_path), (4, 4, 1), 2_000_000_000)
