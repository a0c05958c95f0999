# SPDX-License-Identifier: MIT
"""Files for a fixed batch: what mixes images once the batch is open takes no other batch, all others take any."""

import mxnet as mx
import numpy as np
import pytest

from quantize.errors import DataError
from tests.quantize.importers.onnx.judge import arr, as_arrays, close, import_model, ints, judged, make_model, node

CONV = node("Conv", "x w", "c", pads=[1] * 4)
ROWS = [CONV, node("Reshape", "c s", "r")]  # (4, 64)
BACK = node("Reshape", "t q")
SHAPES = dict(w=arr(4, 3, 3, 3), s=ints(4, 64), q=ints(1, 256), zero=ints(0), one=ints(1), k=arr(4, 1))
MIXING = {
    "turned": (ROWS + [node("Transpose", "r", "t"), BACK], 13),
    "turned_and_softmax": (ROWS + [node("Softmax", "r", "t", axis=0), BACK], 13),
    "taken_off": ([CONV, node("Squeeze", "c zero", "r"), node("Softmax", "r", "t", axis=0),
                   node("Unsqueeze", "t zero")], 13),
    "scaled_row_by_row": (ROWS + [node("Mul", "r k", "t"), BACK], 13),
    "mean_of_all": ([CONV, node("ReduceMean", "c", "m"), node("Sub", "c m")], 13),
    "flat_softmax": ([CONV, node("Softmax", "c", axis=0)], 11),
    "first_image": ([CONV, node("Slice", "c zero one zero", "y")], 13),
    "another_axis": ([CONV, node("ReduceMean", "c", "m", axes=[1], keepdims=0), node("Mul", "c m")], 13),
}


def an_import(nodes, opset, tmp_path, batch=1, **constants):
    model = make_model(nodes, [batch, 3, 8, 8], dict(SHAPES, **constants), opset)
    return model, import_model(model, tmp_path)


@pytest.mark.parametrize("kind", MIXING)
def test_what_mixes_images_takes_the_batch_of_its_file(kind, tmp_path):
    model, net = an_import(*MIXING[kind], tmp_path)
    x = arr(4, 3, 8, 8, seed=1)  # as many images as channels, which lets a wrong axis fit
    close(net(mx.nd.array(x[:1])), judged(model, x[:1]))
    for _ in range(2):
        with pytest.raises(DataError, match="batches of 1 and mixes the images.*given 4.*--batch-size 1"):
            net(mx.nd.array(x))
        net.hybridize()


@pytest.mark.parametrize("halves", [(2, -1, 2, 8, 8), (2, 1, 2, 8, 8)])
def test_a_shuffle_that_counts_images_and_halves_together_takes_any_batch(halves, tmp_path):
    """ShuffleNet v2 as its authors wrote it: (N C/2, 2, H W), turned, (2, N, C/2, H, W)."""
    nodes = [CONV, node("Reshape", "c pairs", "r"), node("Transpose", "r", "t", perm=[1, 0, 2]),
             node("Reshape", "t halves", "u"), node("Gather", "u first", "a", axis=0),
             node("Gather", "u second", "b", axis=0), node("Concat", "a b", axis=1)]
    model, net = an_import(nodes, 13, tmp_path, pairs=ints(2, 2, 64), halves=ints(*halves), first=np.int64(0),
                           second=np.int64(1))
    x = arr(3, 3, 8, 8, seed=1)
    assert net.batch is None
    want = np.concatenate([judged(model, image[None])[0] for image in x])
    np.testing.assert_allclose(as_arrays(net(mx.nd.array(x)))[0], want, rtol=1e-5, atol=1e-6)
