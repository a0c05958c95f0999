# SPDX-License-Identifier: MIT
"""Tensors in other files: in the ONNX file's own folder alone, and whole."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from quantize.errors import ModelFileError
from quantize.importers.onnx import import_onnx
from quantize.limits import memory_limit
from tests.hostile.seeds import onnx_model


@pytest.fixture
def write(tmp_path):
    """function(**stated) -> path of a file whose weight `w` lies in weights.bin, as `stated` says."""
    folder = tmp_path / "net"
    folder.mkdir()

    def write(**stated):
        model = onnx_model()
        tensor = next(item for item in model.graph.initializer if item.name == "w")
        data = numpy_helper.to_array(tensor).tobytes()
        (folder / "weights.bin").write_bytes(b"\0" * 16 + data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in dict({"location": "weights.bin", "offset": 16, "length": len(data)}, **stated).items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        (folder / "m.onnx").write_bytes(model.SerializeToString())
        return folder / "m.onnx"
    return write


def test_external_data_is_read(write):
    expected = numpy_helper.to_array(next(item for item in onnx_model().graph.initializer if item.name == "w"))
    found = dict(import_onnx(write()).collect_params().items())
    weight = next(value for name, value in found.items() if "conv" in name and name.endswith("weight"))
    np.testing.assert_array_equal(weight.data().asnumpy(), expected)


@pytest.mark.parametrize("stated, says", [
    ({"location": "../secret"}, "not in the file's own folder"), ({"location": "/etc/passwd"}, "own folder"),
    ({"location": "."}, "own folder"), ({"location": "link"}, "own folder"), ({"location": "none"}, "no such file"),
    ({"offset": 17}, "ends before byte"), ({"offset": -1}, "no number of bytes"), ({"offset": "9" * 30}, "no number"),
    ({"length": 8}, "its shape .* needs 144"), ({"length": 10 ** 15}, "needs 144")])
def test_other_places_and_lengths_are_refused(write, tmp_path, stated, says):
    (tmp_path / "secret").write_bytes(bytes(400))
    (tmp_path / "net" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFileError, match=says):
        import_onnx(write(**stated))


def test_tensors_larger_than_the_limit_are_refused():
    model = onnx_model()
    tensor = model.graph.initializer[0]
    tensor.dims[:] = [2 ** 40, 1, 3, 3]
    with memory_limit(2 ** 20), pytest.raises(ModelFileError, match="would take 36 TB"):
        from quantize.importers.onnx.file import read_array
        read_array("m.onnx", tensor)


def test_a_network_that_would_take_too_much_memory_does_not_run(tmp_path):
    import mxnet as mx

    from quantize.errors import DataError
    (tmp_path / "m.onnx").write_bytes(onnx_model().SerializeToString())
    net = import_onnx(tmp_path / "m.onnx")
    with memory_limit(4 * 4 * 8 * 8 - 1), pytest.raises(DataError, match="would take 1 kB of memory"):
        net(mx.nd.zeros((1, 1, 8, 8)))
