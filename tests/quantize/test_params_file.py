# SPDX-License-Identifier: MIT
"""Parameter files are looked at before MXNet sees them: sizes that the file does not hold never become memory."""

import struct

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantize.errors import ModelFileError
from quantize.limits import memory_limit
from quantize.params_file import check_params, read_params

ARRAYS = {"arg:weight": np.arange(6, dtype=np.float32).reshape(2, 3), "aux:b": np.arange(3, dtype=np.int8)}


@pytest.fixture
def path(tmp_path):
    mx.nd.save(str(tmp_path / "p.params"), {name: mx.nd.array(array, dtype=array.dtype)
                                            for name, array in ARRAYS.items()})
    return tmp_path / "p.params"


@pytest.mark.parametrize("kind", ["float16", "float32", "float64", "uint8", "int8", "int32", "int64", "bool"])
def test_every_element_type_comes_back(tmp_path, kind):
    mx.nd.save(str(tmp_path / "p"), {"a": mx.nd.ones((2, 3), dtype=kind)})
    assert (read_params(tmp_path / "p")["a"].asnumpy() == 1).all()


def test_lists_and_shapes_of_numpy_come_back(tmp_path):
    mx.nd.save(str(tmp_path / "p"), [mx.nd.ones((2,))])
    assert len(read_params(tmp_path / "p")) == 1
    with mx.util.np_shape(True):
        mx.nd.save(str(tmp_path / "p"), {"s": mx.np.array(3.0).as_nd_ndarray(), "z": mx.np.zeros((0, 3))
                                         .as_nd_ndarray()})
        assert set(read_params(tmp_path / "p")) == {"s", "z"}


def test_files_of_mxnet_before_1_0_are_read(tmp_path):
    old = struct.pack("<QQQ", 0x112, 0, 1) + struct.pack("<IIIiii", 2, 1, 2, 1, 0, 0) + struct.pack("<2f", 1, 2)
    (tmp_path / "p").write_bytes(old + struct.pack("<QQ", 1, 1) + b"a")
    assert read_params(tmp_path / "p")["a"].asnumpy().tolist() == [[1, 2]]


def test_a_file_cut_anywhere_is_refused(path):
    data = path.read_bytes()
    for length in range(len(data)):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match="not a complete MXNet parameter file"):
            check_params(path)
    path.write_bytes(data + b"\0")
    with pytest.raises(ModelFileError, match="1 bytes behind the end"):
        check_params(path)


@given(st.integers(0, 159), st.integers(0, 7))
@settings(max_examples=200, deadline=None)
def test_one_changed_bit_never_takes_memory(tmp_path_factory, place, bit):
    """What is accepted is small; mx.nd.load took all memory there was for 483 of 4146 such files."""
    path = tmp_path_factory.mktemp("p") / "p"
    mx.nd.save(str(path), {"a": mx.nd.ones((2, 3)), "b": mx.nd.ones((3,))})
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        found = read_params(path)
    except ModelFileError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert sum(array.size for array in found.values()) == 9


def test_a_file_larger_than_the_limit_is_refused(path):
    with memory_limit(100), pytest.raises(ModelFileError, match="more than the limit of 100 bytes.*--max-memory"):
        read_params(path)
