# SPDX-License-Identifier: MIT
"""What N2D2's command reads: INI files, and data sets as their authors distribute them."""

import gzip
import pathlib

import mxnet as mx
import numpy as np

from quantize.interfaces.n2d2.activation import Rectifier
from quantize.interfaces.n2d2.cells import Conv
from quantize.interfaces.n2d2.database import CIFAR10, DIR, MNIST
from quantize.interfaces.n2d2.ini.environment import database
from quantize.interfaces.n2d2.ini.model import read_model
from quantize.interfaces.n2d2.network import CellNetwork
from quantize.interfaces.n2d2.parameters import export_parameters, import_parameters
from quantize.interfaces.n2d2.quantizer import LSQAct, LSQCell
from tests.hostile import fuzzing, structures

INI = """; a network of every kind of value
DefaultModel=Frame
$LR=0.05
$RANGE=15
$TWICE=${RANGE * 2}

[database]
Type=MNIST_IDX_Database
Validation=0.5
RandomPartitioning=1

[sp]
SizeX=8
SizeY=8
BatchSize=16

[sp.Transformation-1]
Type=RescaleTransformation
Width=8
Height=8

[sp.OnTheFlyTransformation]
Type=PadCropTransformation
ApplyTo=LearnOnly
Width=8
Height=8

[Conv_def]
Type=Conv
NoBias=1
WeightsFiller=HeFiller
WeightsFiller.VarianceNorm=FanOut
QWeight=SAT
QWeight.ApplyScaling=0
QWeight.Range=${RANGE}
ConfigSection=common.config

[common.config]
Solvers.LearningRate=${LR}
Solvers.LearningRatePolicy=StepDecay
Solvers.LearningRateStepSize=10
Solvers.LearningRateDecay=0.1
Solvers.Momentum=0.9

[conv1] Conv_def
Input=sp
KernelWidth=3
KernelHeight=3
StrideX=1
Padding=1
NbOutputs=4
QWeight.Range=255

[bn1]
Input=conv1
Type=BatchNorm
NbOutputs=[conv1]NbOutputs
ActivationFunction=Linear
QAct=SAT
QAct.Alpha=6.0
QAct.Range=${(RANGE + 1) / 16 * 15}

[pool1]
Input=bn1
Type=Pool
PoolWidth=2
PoolHeight=2
NbOutputs=4
Stride=2
Pooling=Max
Mapping.Size=1

[fc1]
Input=pool1
Type=Fc
NbOutputs=3
ActivationFunction=Rectifier
BiasFiller=ConstantFiller
BiasFiller.Value=0.1

[softmax]
Input=fc1
Type=Softmax
NbOutputs=3
WithLoss=1

[softmax.Target]
"""
NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx(array):
    """An array as an IDX file."""
    return bytes((0, 0, 8, array.ndim)) + b"".join(size.to_bytes(4, "big") for size in array.shape) + array.tobytes()


def mnist():
    """Name -> bytes of a set of three and two images; labels are packed."""
    images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)
    parts = (images[:3], np.arange(3, dtype=np.uint8), images[3:], np.arange(2, dtype=np.uint8))
    return {name + ".gz" * ("label" in name): gzip.compress(idx(part), 1) if "label" in name else idx(part)
            for name, part in zip(NAMES, parts)}


def damaged_idx(rng):
    """One file with damage inside of its packing, to its packing, or missing."""
    files = mnist()
    name = rng.choice(sorted(files))
    packed, change = name.endswith(".gz"), rng.random()
    content = files.pop(name)
    if change < 0.7:
        plain = bytearray(gzip.decompress(content) if packed else content)
        if rng.random() < 0.5:  # a size
            place = 4 + 4 * rng.randrange(plain[3])
            plain[place:place + 4] = rng.choice((0, 1, 2, 5, 2 ** 16, 2 ** 31, 2 ** 32 - 1)).to_bytes(4, "big")
        else:
            plain = bytearray(fuzzing.data(bytes(plain), rng))
        content = bytes(plain)
        packed = packed if rng.random() < 0.9 else not packed
        name = name.replace(".gz", "") + ".gz" * packed
        files[name] = gzip.compress(content, 1) if packed else content
    elif change < 0.95:
        files[name] = fuzzing.data(content, rng)
    return files


def damaged_cifar(rng):
    """Rows of a label and 3072 values that are cut, more or none."""
    rows = bytes(3073) + bytes([3]) * 3073
    return {"data_batch_1.bin": rng.choice((rows, rows[:rng.randrange(6200)], fuzzing.data(rows, rng))),
            "test_batch.bin": rng.choice((rows, fuzzing.data(rows, rng), b"", rows[:3073]))}


def damaged_list(rng):
    """A list of images and classes."""
    return {"labels.txt": fuzzing.lines("a/b.png 0\nc.png 1\nd e.png 2\nf.png 1", rng)}


def read_ini(path):
    """The network that an INI file describes, made; and what it says of the images."""
    model = read_model(path)
    model.network.build()
    database(model.database_options(), str(path.parent / "mnist"), 1)


def read_images(kind):
    """A data set, and the first image that is an array."""
    def read(path):
        found = kind(validation=0.5, data_path=path)
        for part in ("Learn", "Validation", "Test"):
            if found.get_nb_stimuli(part) and isinstance(found.part(part)[0], np.ndarray):
                found.image(part, 0)
    return read


def trained_cells(folder):
    """(A network of one quantized cell, name -> bytes of the numbers in its folder)."""
    cell = Conv(1, 2, (1, 1), name="conv", quantizer=LSQCell(15), activation=Rectifier(quantizer=LSQAct(15)))
    network = CellNetwork([cell], (1, 2, 2))
    network.build()
    network.start(mx.nd.ones((1, 1, 2, 2)))
    export_parameters(network, folder)
    return network, {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def of_cells(folder):
    """Damage of a cell's numbers, and a reader that makes the network with them."""
    network, files = trained_cells(folder)
    damage, (cell,) = structures.npz(files["conv.npz"]), network.computed

    def read(path):
        network.net, cell.arrays = None, {}
        import_parameters(network, path)
        network.build()
    return lambda rng: {**files, "conv.npz": damage(rng)}, read


def of_n2d2(folder):
    """Name -> (name, damage, read), as `tests.hostile.seeds.Format` has them."""
    def read(path: pathlib.Path):
        folder = path.parent / "mnist"
        folder.mkdir(exist_ok=True)
        for name, content in mnist().items():
            if not (folder / name).exists():
                (folder / name).write_bytes(content)
        read_ini(path)
    return {"ini": ("n.ini", lambda rng: fuzzing.lines(INI, rng, marks="="), read),
            "cells": ("", *of_cells(folder / "cells")),
            "idx": ("", damaged_idx, read_images(MNIST)),
            "cifar": ("", damaged_cifar, read_images(CIFAR10)),
            "image list": ("", damaged_list, read_images(DIR))}
