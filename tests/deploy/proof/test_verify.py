# SPDX-License-Identifier: MIT
"""The comparison of computations with the integer engine, and the certificate, on a small model made by hand."""

import dataclasses
import json

import numpy as np
import pytest

from deploy import engine
from deploy.arithmetic import Arithmetic
from deploy.ir import Convolution, Function, Grid, InnerProduct, Model, Pooling, Quantization
from deploy.proof import machine, verify
from deploy.proof.certificate import (
    Circumstances,
    certificate,
    certificate_text,
    file_facts,
    share_text,
    write_certificate,
)
from deploy.proof.compare import Difference, Observed
from quantize.errors import DeployError


def quantization(random, shape, scale):
    codes = random.randint(-127, 128, shape).astype(np.int8)
    return Quantization(Grid(scale), codes, np.full(shape[0], 0.01, np.float32))


@pytest.fixture
def model():
    """conv, depthwise conv, pooling, dense; all three layers with weights quantized."""
    random = np.random.RandomState(1)
    relu = Function("relu")
    nodes = [
        Convolution("conv", ("data",), ("conv",), "features.0", weight=np.zeros((8, 3, 3, 3), np.float32),
                    pads=(1, 1, 1, 1), quantization=quantization(random, (8, 3, 3, 3), 0.02), activation=relu),
        Convolution("deep", ("conv",), ("deep",), "features.1", weight=np.zeros((8, 1, 3, 3), np.float32), groups=8,
                    quantization=quantization(random, (8, 1, 3, 3), 0.1), activation=relu),
        Pooling("pool", ("deep",), ("pool",), kind="avg", global_=True),
        InnerProduct("dense", ("pool",), ("dense",), "output", weight=np.zeros((5, 8), np.float32),
                     quantization=quantization(random, (5, 8), 0.5))]
    shapes = {"data": (3, 8, 8), "conv": (8, 8, 8), "deep": (8, 6, 6), "pool": (8, 1, 1), "dense": (5,)}
    return Model(("data",), ("dense",), tuple(nodes), shapes)


@pytest.fixture
def images():
    return np.random.RandomState(2).randn(10, 3, 8, 8).astype(np.float32)


def faithful(model):
    """A side that computes as the engine does."""
    def compute(images):
        result = engine.run(model, images, keep=engine.ALL, codes=True)
        return Observed(result.blobs, result.codes)
    return compute


def altered(model, change):
    """A side whose blobs and codes a function changes in place."""
    def compute(images):
        observed = faithful(model)(images)
        change(observed)
        return observed
    return compute


def compared(model, images, sides, **options):
    return verify.verify(model, Arithmetic(), sides, [images[:7], images[7:]], **options)


def test_a_faithful_side(model, images):
    found = compared(model, images, {"same": faithful(model)})
    assert found.images == 10 and found.agreement("same") == 10 and found.first_deviation("same") is None
    total = found.total("same")
    assert total.exact and total.elements == 10 * (3 * 64 + 8 * 64 + 8)
    assert set(found.reals) == set(model.shapes) and found.reals["dense"]["same"].exact
    scores = engine.run(model, images).outputs[0]
    assert found.top1["same"] == found.top1["engine"] == scores.argmax(axis=1).tolist()


def test_largest_sums_are_those_of_the_data(model, images):
    result = engine.run(model, images)
    assert compared(model, images, {}).accumulators == result.largest
    assert all(value > 0 for value in result.largest.values())


def test_codes_that_a_side_lacks_are_those_of_its_values(model, images):
    found = compared(model, images, {"values": lambda x: Observed(faithful(model)(x).blobs, {})})
    assert found.total("values").exact and found.total("values").elements > 0


def test_a_flattened_input_is_the_same_input(model, images):
    def flatten(observed):
        observed.codes["dense"] = observed.codes["dense"].reshape(-1, 8)
    assert compared(model, images, {"flat": altered(model, flatten)}).total("flat").exact


def test_deviations_are_counted_and_the_first_is_named(model, images):
    def change(observed):
        observed.codes["deep"][:, 0, 0, :2] += 3
        observed.codes["dense"][0] -= 1
    found = compared(model, images, {"off": altered(model, change), "same": faithful(model)})
    assert found.codes["conv"]["off"].exact and found.first_deviation("off") == "deep"
    deep = found.codes["deep"]["off"]
    assert (deep.elements - deep.identical, deep.largest) == (20, 3)
    assert found.codes["dense"]["off"].identical == found.codes["dense"]["off"].elements - 2 * 8  # in two batches
    assert found.total("off").largest == 3 and found.total("same").exact


def test_real_values_and_classes(model, images):
    def change(observed):
        observed.blobs["pool"][0, 0] *= 1 + 1e-3
        observed.blobs["dense"][:] = -observed.blobs["dense"]
    found = compared(model, images, {"off": altered(model, change)})
    assert found.agreement("off") < 10 and found.worst_real("off") == "dense"
    assert found.reals["dense"]["off"].relative == 2 and 0 < found.reals["pool"]["off"].relative <= 1.01e-3


def test_memory_is_bounded_by_parts(model, images, monkeypatch):
    sizes, done = [], []

    def side(images):
        sizes.append(len(images))
        return faithful(model)(images)
    values = sum(np.prod(shape) for shape in model.shapes.values())
    monkeypatch.setattr(verify, "MEMORY", 4 * values * 3)
    found = compared(model, images, {"same": side}, progress=done.append)
    assert sizes == done == [3, 3, 1, 3] and found.images == 10 and found.total("same").exact


@pytest.mark.parametrize("side, says", [
    (lambda x: Observed({"dense": np.zeros((len(x), 5))}, {}), "conv: bad gives neither"),
    (lambda x: Observed({"dense": np.zeros((len(x), 5))}, {"conv": np.zeros((len(x), 3, 8, 7), int)}), "bad, conv: "),
])
def test_sides_that_cannot_be_compared(model, images, side, says):
    with pytest.raises(DeployError, match=says):
        compared(model, images, {"bad": side})


def test_nothing_to_verify(model, images):
    with pytest.raises(DeployError, match="no images"):
        verify.verify(model, Arithmetic(), {}, [])
    floating = Model(model.inputs, ("pool",), model.nodes[2:3], model.shapes)
    with pytest.raises(DeployError, match="no layer"):
        verify.verify(floating, Arithmetic(), {}, [images])


# --- certificate --------------------------------------------------------------------------------------------------

@pytest.fixture
def stated(tmp_path):
    path = tmp_path / "net.bin"
    path.write_bytes(b"abc")
    return Circumstances("net", {"ncnn": "1.0", "cpu": "Some", "flags": ["avx2", "pae"]}, file_facts([path]), "00ff",
                         {"same": {"threads": 1}, "off": {"packing": True}}, {"conv": (1000, "F(4,3)")},
                         {"off": {"conv": "approximate reciprocal"}})


def change(observed):
    observed.codes["deep"][:, 0, 0, 0] += 1
    observed.codes["dense"][:, 0] += 1


def test_certificate(model, images, stated, tmp_path):
    found = compared(model, images, {"same": faithful(model), "off": altered(model, change)})
    export = Difference(10, 9, 1e-6, 2.0)
    contents = certificate(model, found, stated, export)
    write_certificate(tmp_path, contents)
    assert json.loads((tmp_path / "certificate.json").read_text()) == contents
    assert contents["files"]["net.bin"] == {
        "bytes": 3, "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"}
    assert contents["images"] == 10 and contents["sides"]["same"]["codes"]["share"] == 1
    off = contents["sides"]["off"]
    assert off["first_deviation"] == "deep" and off["options"] == {"packing": True}
    conv, deep, dense = contents["layers"]
    assert conv["reasons"] == {} and deep["reasons"] == {
        "off": {"from": "conv", "why": "approximate reciprocal"}}
    assert dense["reasons"] == {"off": {"from": "deep", "why": "handed on from layers before"}}
    assert deep["codes"]["off"]["largest"] == 1
    assert conv["headroom"]["limit"] == 1000 and conv["headroom"]["used"] == found.accumulators["conv"] / 1000
    assert deep["headroom"]["limit"] == 2 ** 31 and deep["headroom"]["exact_in_float32"]
    assert [layer["kind"] for layer in contents["layers"]] == ["3x3 stride 1", "depthwise 3x3 stride 1", "InnerProduct"]
    assert contents["float_export"]["relative"] == 5e-7


def test_text(model, images, stated):
    found = compared(model, images, {"same": faithful(model), "off": altered(model, change)})
    text = certificate_text(certificate(model, found, stated))
    for words in ("# Certificate for net", "10 images (data 00ff)", "ncnn 1.0, cpu Some", "sets: avx2 pae\n",
                  "threads=1", "packing=True", "ba7816",
                  "* off, approximate reciprocal: conv to deep", "* off, handed on from layers before: dense",
                  "of F(4,3)"):
        assert words in text
    rows = [line for line in text.splitlines() if line.startswith("| deep")]
    assert len(rows) == 1 and "100 % " in rows[0] and "99.8047 % (!)" in rows[0]
    assert "(!)" not in certificate_text(certificate(model, compared(model, images, {"same": faithful(model)}), stated))


def test_an_unexplained_deviation_is_called_so(model, images, stated):
    found = compared(model, images, {"same": altered(model, change), "off": faithful(model)})
    layers = certificate(model, found, stated)["layers"]
    assert [layer["reasons"].get("same", {}).get("why") for layer in layers] == [
        None, "unexplained", "handed on from layers before"]


def test_a_float_operation_is_the_reason_only_where_nothing_deviates_before_it(model, images, stated):
    stated = dataclasses.replace(stated, reasons={"off": {"conv": "approximate reciprocal", "pool": "another order"}})

    def change_the_last(observed):
        observed.codes["dense"][0, 0] += 1
    for changed, reason in ((change, {"from": "deep", "why": "handed on from layers before"}),
                            (change_the_last, {"from": "pool", "why": "another order"})):
        found = compared(model, images, {"same": faithful(model), "off": altered(model, changed)})
        assert certificate(model, found, stated)["layers"][2]["reasons"] == {"off": reason}


def test_a_share_is_never_rounded_up():
    assert share_text({"elements": 10 ** 9, "identical": 10 ** 9 - 1, "share": 1 - 1e-9}) == "99.9999 %"
    assert share_text({"elements": 7, "identical": 7, "share": 1.0}) == "100 %"


def test_infinite_differences_are_text(model, images, stated):
    def break_it(observed):
        observed.blobs["pool"][0, 0] = np.nan
    found = compared(model, images, {"same": faithful(model), "off": altered(model, break_it)})
    contents = certificate(model, found, stated)
    assert contents["reals"]["pool"]["off"]["largest"] == "inf"
    assert "inf relative in pool" in certificate_text(contents)


def test_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "CPU_FACTS", tmp_path / "cpuinfo")
    assert machine.machine()["flags"] == [] and machine.machine()["cpu"]
    (tmp_path / "cpuinfo").write_text("model name : Some CPU\nflags : fma avx2 pae\n\nmodel name : Other\n")
    assert machine.machine()["cpu"] == "Some CPU" and machine.machine()["flags"] == ["avx2", "fma"]
