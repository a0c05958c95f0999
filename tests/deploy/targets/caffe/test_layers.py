# SPDX-License-Identifier: MIT
import numpy as np
import pytest

from deploy import engine, ir
from deploy.targets.caffe import writer
from deploy.targets.caffe.constraints import check
from deploy.targets.caffe.layers import LAYERS
from tests.deploy.targets.caffe import caffe_naive
from tests.deploy.targets.caffe.models import accepted, conv, inputs, model, real


def written(case, folder, batch):
    """Every blob that the slow Caffe computes from the files of a model."""
    writer.write(case, folder)
    return caffe_naive.run(folder, batch)


CASES = accepted()


@pytest.mark.parametrize("name", CASES)
def test_caffe_computes_what_the_engine_computes(name, tmp_path):
    case, batch = CASES[name], inputs(CASES[name])
    blobs = written(case, tmp_path, batch)
    reference = engine.run(case, batch, keep=engine.ALL).blobs
    for blob in case.shapes:  # all of them have the model's names
        assert blobs[blob].shape[1:] == case.shapes[blob] or blobs[blob].shape[1:] == case.shapes[blob] + (1, 1)
        np.testing.assert_allclose(blobs[blob].reshape(reference[blob].shape), reference[blob], rtol=0,
                                   atol=1e-5 * np.abs(reference[blob]).max())


def test_every_layer_has_a_case():
    assert {type(node) for case in CASES.values() for node in case.nodes} == set(LAYERS)


def layers_of(case):
    """(type, name, bottoms, tops) of each layer that a model is written as."""
    net = caffe_naive.read_text(writer.serialize(case)[0])
    return [(layer["type"][0], layer["name"][0], layer.get("bottom", []), layer["top"]) for layer in net["layer"]]


def test_the_layer_with_the_weights_has_the_name_of_the_node():
    norm = ir.BatchNorm("bn", ("c",), ("bn",), gamma=real(4), beta=real(4), mean=real(4), variance=abs(real(4)))
    rows = ir.Reshape("r", ("bn",), ("r",), shape=(4, 9))
    dense = ir.InnerProduct("fc", ("r",), ("fc",), weight=real(2, 36))
    case = model((3, 5, 5), [conv("c", "data", (4, 3, 3, 3), activation=ir.Function("relu")), norm, rows, dense])
    assert layers_of(case) == [
        ("Input", "data", [], ["data"]),
        ("Convolution", "c", ["data"], ["c_convolution"]), ("ReLU", "c_relu", ["c_convolution"], ["c"]),
        ("BatchNorm", "bn", ["c"], ["bn_batchnorm"]), ("Scale", "bn_scale", ["bn_batchnorm"], ["bn"]),
        ("Reshape", "r", ["bn"], ["r"]),
        ("Flatten", "fc_flatten", ["r"], ["fc_flatten"]), ("InnerProduct", "fc", ["fc_flatten"], ["fc"])]


def test_made_up_names_avoid_those_that_are_there():
    case = model((3, 5, 5), [conv("c", "data", (4, 3, 3, 3), activation=ir.Function("relu")),
                             conv("c_relu", "c", (4, 4, 1, 1)), conv("c_convolution", "c_relu", (4, 4, 1, 1))])
    names = [name for _, name, _, _ in layers_of(case)]
    tops = [top for _, _, _, tops in layers_of(case) for top in tops]
    assert len(set(names)) == len(names) == len(set(tops)) == len(tops) == 5


def test_nothing_is_written_in_place():
    for case in CASES.values():
        assert all(not set(bottoms) & set(tops) for _, _, bottoms, tops in layers_of(case))


def test_a_slope_that_six_decimals_lose_becomes_a_prelu():
    for slope, kind in ((0.1, "ReLU"), (0.123456789, "PReLU")):
        case = model((3, 5, 5), [ir.Activation("a", ("data",), ("a",), function=ir.Function("leaky_relu", (slope,)))])
        assert layers_of(case)[1][0] == kind and not check(case)


def test_global_pooling_is_reshaped_only_where_ncnn_would_see_another_shape():
    pool = ir.Pooling("p", ("data",), ("p",), kind="avg", global_=True)
    flat, other = ir.Reshape("f", ("p",), ("f",), shape=(6,)), conv("c", "p", (2, 6, 1, 1))
    assert [kind for kind, _, _, _ in layers_of(model((6, 3, 3), [pool, flat]))] == ["Input", "Pooling", "Flatten"]
    for more in ([other], [flat, other], []):
        assert [kind for kind, _, _, _ in layers_of(model((6, 3, 3), [pool] + more))][1:3] == ["Pooling", "Reshape"]
