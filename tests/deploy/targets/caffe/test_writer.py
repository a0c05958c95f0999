# SPDX-License-Identifier: MIT
import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import engine, ir
from deploy.targets.caffe import writer
from quantize.errors import DataError, DeployError
from tests.deploy.targets.caffe import caffe_naive
from tests.deploy.targets.caffe.models import inputs, model, one, tiny

GOLDEN = pathlib.Path(__file__).parent / "golden"
ROOT = pathlib.Path(__file__).parents[4]


def test_the_files_are_the_golden_ones(tmp_path):
    paths = writer.write(tiny(), tmp_path)
    assert [path.name for path in paths] == ["model.prototxt", "model.caffemodel"]
    for path in paths:
        assert path.read_bytes() == (GOLDEN / path.name).read_bytes()


def test_the_golden_files_compute_the_tiny_network():
    batch = inputs(tiny())
    found = caffe_naive.run(GOLDEN, batch)["prob"]
    np.testing.assert_allclose(found, engine.run(tiny(), batch).outputs[0], atol=1e-6)


def test_another_process_writes_the_same_bytes():
    script = ("import sys; sys.path.insert(0, '.'); from deploy.targets.caffe.writer import serialize; from "
              "tests.deploy.targets.caffe.models import tiny; text, binary = serialize(tiny()); "
              "sys.stdout.buffer.write(text.encode() + binary)")
    done = subprocess.run([sys.executable, "-c", script], cwd=str(ROOT), stdout=subprocess.PIPE, check=True)
    text, binary = writer.serialize(tiny())
    assert done.stdout == text.encode() + binary


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_numbers_in_the_text_are_the_float32(value):
    nodes = [dataclasses.replace(node, epsilon=value) if node.name == "bn" else node for node in tiny().nodes]
    text, _ = writer.serialize(dataclasses.replace(tiny(), nodes=tuple(nodes)))
    printed, = [layer["batch_norm_param"][0]["eps"][0] for layer in caffe_naive.read_text(text)["layer"]
                if layer["name"] == ["bn"]]
    assert np.float32(printed) == np.float32(value)  # as strtof reads it
    assert np.float32(float(printed)) == np.float32(value)  # as strtod and a cast do


@given(st.text(min_size=1, max_size=8))
def test_names_with_any_characters_come_back(name):
    net = writer.NetParameter()
    layer = ir.Activation(name, ("data",), (name + "!",), function=ir.Function("relu"))
    text, binary = writer.serialize(model((3, 2, 2), [layer]))
    writer.text_format.Parse(text, net)
    assert net.layer[1].name == name and list(net.layer[1].top) == [name + "!"]
    assert list(caffe_naive.read_blobs(binary)) == ["data", name]


def test_weights_of_any_layout_are_written_in_their_order(tmp_path):
    weight = np.arange(24, dtype=np.float64).reshape(4, 6).T
    case = model((4,), [ir.InnerProduct("fc", ("data",), ("fc",), weight=weight)])
    blobs = caffe_naive.read_blobs(writer.serialize(case)[1])
    np.testing.assert_array_equal(blobs["fc"][0], weight)


def test_a_refused_network_leaves_nothing_behind(tmp_path):
    case = one(ir.Padding, (3, 4, 4), pads=(1, 1, 1, 1))
    with pytest.raises(DeployError, match="Caffe cannot hold this network:\nx: .* no layer for Padding"):
        writer.write(case, tmp_path)
    assert not list(tmp_path.iterdir())


def test_both_files_or_none(tmp_path):
    (tmp_path / writer.PROTOTXT).mkdir()  # cannot be replaced by a file
    with pytest.raises(DataError, match="cannot be written"):
        writer.write(tiny(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [writer.PROTOTXT]
    with pytest.raises(DataError, match="cannot be written"):
        writer.write(tiny(), tmp_path / "absent")


def test_outputs_are_found_in_the_text(tmp_path):
    assert writer.output_blobs(GOLDEN / writer.PROTOTXT) == ["prob"]
    (tmp_path / "x").write_text("layer { name: 3 }")
    with pytest.raises(DeployError, match="no .prototxt"):
        writer.output_blobs(tmp_path / "x")
