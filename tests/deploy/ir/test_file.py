# SPDX-License-Identifier: MIT
"""A model survives its file to the bit, and no other file is taken for one."""

import copy
import dataclasses
import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy import ir
from deploy.ir.file import load, save
from deploy.ir.model import NODE_TYPES
from quantize.errors import DataError, DeployError, ModelFileError
from tests.deploy.ir.models import every_node


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The bytes of a saved model."""
    path = tmp_path_factory.mktemp("saved") / "model.ir"
    save(every_node(), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "model.ir"


def rewritten(data, **contents):
    """The archive with other members; `json` is a function that changes the parsed model.json."""
    change = contents.pop("json", None)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if change:
        content = json.loads(members["model.json"])
        change(content)
        members["model.json"] = json.dumps(content, indent=1).encode()
    members.update(contents)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def refused(path, data):
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as error:
        load(path)
    assert str(path) in str(error.value)
    return str(error.value)


def same(a, b):
    """Whether two values of a model are equal to the bit."""
    if dataclasses.is_dataclass(a):
        return type(a) is type(b) and all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_a_model_survives(saved, scratch):
    scratch.write_bytes(saved)
    model, again = every_node(), load(scratch)
    assert {type(node).__name__ for node in model.nodes} == set(NODE_TYPES)
    assert same(model, again)
    save(again, scratch)
    assert scratch.read_bytes() == saved


def test_numbers_of_numpy_become_plain(scratch):
    model = every_node()
    pool = next(node for node in model.nodes if node.name == "pool")
    odd = dataclasses.replace(pool, stride=tuple(np.int64(step) for step in pool.stride))
    nodes = tuple(odd if node is pool else node for node in model.nodes)
    save(dataclasses.replace(model, nodes=nodes), scratch)
    assert same(load(scratch), model)


def test_numpy_reads_the_arrays(saved):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        first = np.load(io.BytesIO(archive.read("arrays/00000.npy")), allow_pickle=False)
    np.testing.assert_array_equal(first, every_node().nodes[0].weight)


def test_an_invalid_model_is_not_written(scratch):
    scratch.write_bytes(b"before")
    with pytest.raises(DeployError):
        save(dataclasses.replace(every_node(), outputs=("nowhere",)), scratch)
    assert scratch.read_bytes() == b"before"
    with pytest.raises(DataError):
        save(every_node(), scratch / "no" / "folder")


def test_missing_and_foreign_files(scratch, saved, tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        load(tmp_path / "absent")
    with pytest.raises(ModelFileError, match="director"):
        load(tmp_path)
    for data in (b"", b"PK", b"\x80\x04K\x01.", saved[:len(saved) // 2], saved[:-1]):
        assert "not a model file" in refused(scratch, data)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.json", b"{}")
    assert "compressed" in refused(scratch, stream.getvalue())


CHANGES = [
    ("version 2 of the format", lambda c: c.update(version=2)),
    ("not of the format", lambda c: c.update(format="onnx")),
    ("not of the format", lambda c: c.clear()),
    ("unknown node type 'Conv'", lambda c: c["nodes"][0].update(type="Conv")),
    ("unknown node type", lambda c: c["nodes"].append(3)),
    ("the fields of a Convolution", lambda c: c["nodes"][0].update(extra=1)),
    ("the fields of a Convolution", lambda c: c["nodes"][0].pop("stride")),
    ("the fields of a Grid", lambda c: c["nodes"][0]["quantization"].update(input=[1])),
    ("[1] should have 2 values", lambda c: c["nodes"][0].update(stride=[1])),
    ("groups is '1'", lambda c: c["nodes"][0].update(groups="1")),
    ("name is None", lambda c: c["nodes"][0].update(name=None)),
    ("outputs is 5", lambda c: c["nodes"][0].update(outputs=5)),
    ("weight is None", lambda c: c["nodes"][-2].update(weight=None, quantization=None)),
    ("should be array 0", lambda c: c["nodes"][0]["weight"].update(array=1)),
    ("is not of dtype", lambda c: c["nodes"][0]["weight"].update(shape=[8, 6, 9])),
    ("array 0 of dtype", lambda c: c["nodes"][0]["weight"].update(dtype="object")),
    ("array 0 of dtype", lambda c: c["nodes"][0]["weight"].update(shape=[-8, -54])),
    ("which no earlier node writes", lambda c: c["nodes"][0].update(inputs=["pool"])),
    ("which no earlier node writes", lambda c: c["nodes"].append(c["nodes"].pop(15))),
    ("which is written already", lambda c: c["nodes"][1].update(outputs=["conv"])),
    ("nodes have this name", lambda c: c["nodes"][1].update(name="conv")),
    ("does not fit 7 channels", lambda c: c["shapes"].update(data=[7, 9, 8])),
    ("is no shape", lambda c: c["shapes"].update(data=[6, 9.5, 8])),
    ("is incomplete", lambda c: c["shapes"].update(data=6)),
    ("is incomplete", lambda c: c.pop("nodes")),
    ("is incomplete", lambda c: c.update(inputs="data")),
    ("which float32 does not hold", lambda c: c["nodes"][0].update(pad_value=1e40)),
    ("NaN is no number that a document can hold", lambda c: c["nodes"][0].update(pad_value=float("nan"))),
    ("not in the form", lambda c: c["nodes"][0].update(pad_value=0)),
    ("not in the form", lambda c: c.update(comment="")),
    ("unknown activation function", lambda c: c["nodes"][0]["activation"].update(kind="rleu")),
    ("no positive float32", lambda c: c["nodes"][0]["quantization"]["input"].update(scale=0.1)),
    ("go beyond", lambda c: c["nodes"][0]["quantization"].update(weight_qmax=30)),
]


@pytest.mark.parametrize("message, change", CHANGES)
def test_wrong_contents_are_named(message, change, saved, scratch):
    assert message in refused(scratch, rewritten(saved, json=change))


def test_wrong_arrays_are_named(saved, scratch):
    assert "bytes" in refused(scratch, rewritten(saved, **{"arrays/00000.npy": npy(saved) + b"\0"}))
    assert "members" in refused(scratch, rewritten(saved, **{"arrays/99.npy": b""}))
    infinite = npy(saved)[:-4] + np.float32(np.inf).tobytes()
    assert "not finite" in refused(scratch, rewritten(saved, **{"arrays/00000.npy": infinite}))


def npy(saved):
    with zipfile.ZipFile(io.BytesIO(saved)) as archive:
        return archive.read("arrays/00000.npy")


def test_only_the_form_that_save_writes_is_read(saved, scratch):
    scratch.write_bytes(rewritten(saved, json=lambda c: None))
    assert same(load(scratch), every_node())
    content = json.loads(zipfile.ZipFile(io.BytesIO(saved)).read("model.json"))
    assert "not in the form" in refused(scratch, rewritten(saved, **{"model.json": json.dumps(content).encode()}))


def accepted_as_it_was(path, data, saved):
    """Whatever is loaded is what was saved; anything else is refused properly."""
    path.write_bytes(data)
    try:
        model = load(path)
    except ModelFileError:
        return
    save(model, path)
    assert path.read_bytes() == saved


@settings(max_examples=100)
@given(data=st.data())
def test_flipped_bytes(data, saved, scratch):
    damaged = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(saved) - 1))] = data.draw(st.integers(0, 255))
    accepted_as_it_was(scratch, bytes(damaged), saved)


@settings(max_examples=100)
@given(data=st.data())
def test_damaged_directories(data, saved, scratch):
    """The end of a zip file says where everything is."""
    damaged = bytearray(saved)
    start = saved.index(b"PK\1\2")
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(start, len(saved) - 1))] = data.draw(st.integers(0, 255))
    accepted_as_it_was(scratch, bytes(damaged), saved)


SCALARS = st.none() | st.booleans() | st.integers(-3, 300) | st.just(10 ** 400) | st.text(max_size=4) | st.floats()
VALUES = st.recursive(SCALARS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=4), v, max_size=2),
                      max_leaves=4)


def places(content, path=()):
    """Every place in a JSON value."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from places(value, path + (key,))


@settings(max_examples=150)
@given(data=st.data())
def test_mutated_json(data, saved, scratch):
    """A model that is loaded saves to a file that loads to the same model, whatever was changed."""
    content = json.loads(zipfile.ZipFile(io.BytesIO(saved)).read("model.json"))
    where = data.draw(st.sampled_from(list(places(content))))
    changed = copy.deepcopy(content)
    if not where:
        changed = data.draw(VALUES)
    else:
        parent = changed
        for key in where[:-1]:
            parent = parent[key]
        if data.draw(st.booleans()):
            parent[where[-1]] = data.draw(VALUES)
        else:
            del parent[where[-1]]
    scratch.write_bytes(rewritten(saved, **{"model.json": json.dumps(changed, indent=1).encode()}))
    try:
        model = load(scratch)
    except ModelFileError:
        return
    save(model, scratch)
    again = zipfile.ZipFile(io.BytesIO(scratch.read_bytes())).read("model.json")
    assert again == json.dumps(changed, indent=1).encode()
    assert isinstance(model, ir.Model)
