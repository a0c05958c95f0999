# SPDX-License-Identifier: MIT
"""Inputs stored with a deployment: what is written is read, and what was changed is noticed."""

import json
import zipfile

import numpy as np
import pytest

from deploy.proof import samples
from deploy.targets.ncnn import TARGET
from quantize.errors import DataError, DeployError
from tests.deploy.targets.ncnn import models

CASE = models.quantized_cases()["chain"]
INPUTS = models.inputs(CASE, 6)["data"]


@pytest.fixture
def path(tmp_path):
    samples.write_samples(tmp_path, TARGET, CASE, INPUTS)
    return tmp_path / samples.FILE


def changed(path, **arrays):
    with np.load(str(path)) as stored:
        found = dict({name: stored[name] for name in stored.files}, **arrays)
    np.savez(str(path), **found)
    return samples.read_samples(path, CASE)


def test_each_processors_arithmetic_is_stored(path):
    found = samples.read_samples(path, CASE)
    np.testing.assert_array_equal(found.inputs, INPUTS[:samples.COUNT])
    assert set(found.digests) == set(found.outputs) == {"ncnn", "ncnn avx2", "ncnn aarch64", "ncnn armv7"}
    assert set(found.digests["ncnn"]) == {"c1", "c2", "c3", "x"}
    # the first layer reads the same codes everywhere, the last one those of another average
    assert found.digests["ncnn"]["c1"] == found.digests["ncnn aarch64"]["c1"]
    for arithmetic in TARGET.arithmetics():
        assert samples.check_samples(found, CASE, arithmetic)


def test_the_same_file_every_time(path, tmp_path):
    first = path.read_bytes()
    samples.write_samples(tmp_path, TARGET, CASE, INPUTS)
    assert path.read_bytes() == first


def test_an_engine_that_computes_otherwise_is_noticed(path):
    digests = {"ncnn": dict(samples.read_samples(path, CASE).digests["ncnn"], c3="0")}
    with pytest.raises(DeployError, match="other codes in c3"):
        samples.check_samples(changed(path, digests=np.array(json.dumps(digests))), CASE, TARGET.arithmetic)
    with pytest.raises(DeployError, match="other inputs|other codes in c1"):
        samples.check_samples(changed(path, inputs=INPUTS[1:3]), CASE, TARGET.arithmetic)


def test_an_arithmetic_that_is_not_stored(path):
    digests = {"ncnn": samples.read_samples(path, CASE).digests["ncnn"]}
    found = changed(path, digests=np.array(json.dumps(digests)))
    assert not samples.check_samples(found, CASE, TARGET.arithmetic_on({"architecture": "aarch64", "flags": ()}))


@pytest.mark.parametrize("arrays", [{"inputs": INPUTS[:, :, 1:]}, {"inputs": INPUTS.astype(np.float64)},
                                    {"inputs": INPUTS[:0]}, {"digests": np.array("{")}, {"digests": np.array("[]")},
                                    {"inputs": np.array([{}], object)}])
def test_other_contents_are_refused(path, arrays):
    with pytest.raises(DataError, match=samples.FILE):
        changed(path, **arrays)


def test_what_unpacks_to_more_than_it_may_is_refused(path, monkeypatch):
    monkeypatch.setattr(samples, "LIMIT", 1000)
    with pytest.raises(DataError, match="unpacks to more than"):
        samples.read_samples(path, CASE)


def test_no_archive(tmp_path):
    for content in (b"", b"PK\x03\x04", b"nothing"):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(DataError, match="a.npz"):
            samples.read_samples(tmp_path / "a.npz", CASE)
    with zipfile.ZipFile(str(tmp_path / "b.npz"), "w") as archive:
        archive.writestr("inputs.npy", b"x")
    with pytest.raises(DataError, match="b.npz"):
        samples.read_samples(tmp_path / "b.npz", CASE)
