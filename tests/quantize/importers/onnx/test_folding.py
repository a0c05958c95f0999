# SPDX-License-Identifier: MIT
"""What depends on constants and shapes alone is evaluated before anything is built, and batches stay open."""

import mxnet as mx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from quantize.errors import ModelFileError
from tests.quantize.importers.onnx.judge import arr, as_arrays, check, import_model, ints, judged, make_model, node

W = arr(4, 3, 3, 3, seed=1)
CONV = node("Conv", "x w")
CODES = np.clip(np.round(W / 0.01), -127, 127).astype("int8")
WEIGHTS = {
    "transpose": ([node("Transpose", "v", "w", perm=[3, 2, 0, 1])], dict(v=W.transpose(2, 3, 1, 0).copy())),
    "reshape": ([node("Reshape", "v s", "w")], dict(v=W.reshape(4, 27), s=ints(4, 3, 3, 3))),
    "unsqueeze": ([node("Unsqueeze", "v a", "w")], dict(v=W[:, :, 0, 0].copy(), a=ints(2, 3))),
    "weight_norm": ([node("ReduceL2", "v", "n", axes=[1, 2, 3]), node("Div", "v n", "u"), node("Mul", "u g", "w")],
                    dict(v=W, g=arr(4, 1, 1, 1))),
    "half": ([node("Cast", "v", "w", to=1)], dict(v=W.astype("float16"))),
    "double": ([node("Cast", "v", "w", to=1)], dict(v=W.astype("float64"))),
    "identity": ([node("Identity", "v", "u"), node("Identity", "u", "w")], dict(v=W)),
    "constant": ([helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(W))], {}),
    "constant_of_shape": ([node("ConstantOfShape", "s", "w", value=numpy_helper.from_array(np.float32([0.5])))],
                          dict(s=ints(4, 3, 3, 3))),
    "codes": ([node("DequantizeLinear", "q s z", "w", axis=0)],
              dict(q=CODES, s=arr(4) ** 2, z=np.zeros(4, "int8"))),
    "codes_of_a_tensor": ([node("DequantizeLinear", "q s", "w")], dict(q=CODES, s=np.float32(0.01))),
    "chosen": ([helper.make_node(
        "If", ["yes"], ["w"], then_branch=helper.make_graph([node("Mul", "v v", "i")], "t", [], [
            helper.make_tensor_value_info("i", 1, None)]),
        else_branch=helper.make_graph([node("Neg", "v", "e")], "e", [], [
            helper.make_tensor_value_info("e", 1, None)]))], dict(v=W, yes=np.array(True))),
}


@pytest.mark.parametrize("case", sorted(WEIGHTS))
def test_weights_that_constants_decide(case, tmp_path):
    nodes, constants = WEIGHTS[case]
    net = check(make_model(nodes + [CONV], ["N", 3, 8, 8], constants), tmp_path, arr(2, 3, 8, 8))
    assert list(net._children) == ["the_Conv"] and list(net.collect_params()) == ["the_Conv_weight"]


def test_codes_in_the_oldest_operator_set_that_has_them(tmp_path):
    check(make_model([node("DequantizeLinear", "q s z", "w"), CONV], ["N", 3, 8, 8], dict(
        q=CODES, s=np.float32(0.02), z=np.int8(3)), opset=10), tmp_path, arr(1, 3, 8, 8))


BATCH = [node("Shape", "x", "s"), node("Gather", "s k", "g", axis=0), node("Unsqueeze", "g a", "u")]
SHAPES = {
    "view_of_the_batch": (BATCH + [node("Concat", "u e", "t", axis=0), node("Reshape", "x t")],
                          dict(k=ints(0)[0], a=ints(0), e=ints(-1))),
    "slice_of_the_shape": ([node("Shape", "x", "s"), node("Slice", "s b e", "g"), node("Concat", "g r", "t", axis=0),
                            node("Reshape", "x t")], dict(b=ints(0), e=ints(1), r=ints(-1))),
    "shuffle": (BATCH + [node("Concat", "u r", "t", axis=0), node("Reshape", "x t", "v"),
                         node("Transpose", "v", "z", perm=[0, 2, 1, 3, 4]), node("Concat", "u q", "o", axis=0),
                         node("Reshape", "z o")], dict(k=ints(0)[0], a=ints(0), r=ints(2, 2, 8, 6), q=ints(4, 8, 6))),
    "open_height_and_width": ([node("Shape", "x", "s"), node("Gather", "s k", "g", axis=0), node(
        "Concat", "g e", "t", axis=0), node("Reshape", "x t")], dict(k=ints(0, 1), e=ints(-1))),
    "product_of_sizes": ([node("Shape", "x", "s"), node("Gather", "s i", "h"), node("Gather", "s j", "w"),
                          node("Mul", "h w", "hw"), node("Unsqueeze", "hw a", "hwu"), node("Concat", "b c hwu", "t",
                                                                                       axis=0),
                          node("Reshape", "x t")],
                         dict(i=ints(2)[0], j=ints(3)[0], a=ints(0), b=ints(0), c=ints(4))),
    "split_channels_of_open_images": ([node("Shape", "x", "s"), node("Slice", "s b e", "hw"), node(
        "Concat", "c hw", "t", axis=0), node("Reshape", "x t")], dict(b=ints(2), e=ints(4), c=ints(0, 2, 2))),
    "shape_with_an_end": ([node("Shape", "x", "s", start=0, end=1), node("Concat", "s e", "t", axis=0),
                           node("Reshape", "x t")], dict(e=ints(-1))),
    "through_float": (BATCH + [node("Cast", "u", "f", to=1), node("Mul", "f two", "d"), node("Cast", "d", "i", to=7),
                               node("Div", "i h", "n"), node("Concat", "n e", "t", axis=0), node("Reshape", "x t")],
                      dict(k=ints(0)[0], a=ints(0), two=np.float32(2), h=ints(2), e=ints(-1))),
}


@pytest.mark.parametrize("case", sorted(SHAPES))
@pytest.mark.parametrize("shape", [["N", 4, 8, 6], ["N", 4, "H", "W"]])
def test_shapes_computed_from_shapes(case, shape, tmp_path):
    nodes, constants = SHAPES[case]
    opset = 15 if case == "shape_with_an_end" else 13
    net = import_model(make_model(nodes, shape, constants, opset), tmp_path)
    for x in (arr(2, 4, 8, 6), arr(5, 4, 8, 6)):
        want = judged(make_model(nodes, shape, constants, opset), x)[0]
        np.testing.assert_array_equal(net(mx.nd.array(x)).asnumpy(), want)


def test_an_unread_node_is_left_out(tmp_path):
    nodes = [node("Relu"), node("Shape", "x", "unused"), node("Einsum", "x x", "odd", equation="abcd,abcd->a")]
    assert list(check(make_model(nodes, ["N", 3, 2, 2]), tmp_path, arr(1, 3, 2, 2))._children) == ["the_Relu"]


# targets that hold the batch of the traced image, and the batch they were traced with
BAKED = [(1, [1, 16]), (1, [1, -1]), (1, [1, 4, 4]), (1, [-1, 16]), (1, [16]), (2, [2, 16]), (2, [2, 4, -1]),
         (2, [4, 8]), (1, [4, 4])]


@pytest.mark.parametrize("batch, target", BAKED)
def test_a_batch_that_was_traced_is_opened(batch, target, tmp_path):
    nodes = [node("Conv", "x w", "c"), node("GlobalAveragePool", "c", "p"), node("Reshape", "p s"), ]
    model = make_model(nodes, [batch, 3, 6, 6], dict(w=arr(16, 3, 3, 3), s=ints(*target)))
    x = arr(3 * batch, 3, 6, 6)
    want = np.concatenate([judged(model, x[i:i + batch])[0] for i in range(0, len(x), batch)])
    net = import_model(model, tmp_path)
    for _ in range(2):
        np.testing.assert_allclose(as_arrays(net(mx.nd.array(x)))[0], want, rtol=1e-5, atol=1e-6)
        net.hybridize()


@pytest.mark.parametrize("shape", [["N", 10], [1, 10]])
@pytest.mark.parametrize("target", [[0, 12], [0, 1000], [0, 7], [1, 12], [3, -1], [0, 4, -1], [0, 0, 0], [5, 3]])
def test_a_reshape_of_another_size_is_refused(target, shape, tmp_path):
    with pytest.raises(ModelFileError, match="Reshape: shape="):
        import_model(make_model([node("Reshape", "x s")], shape, dict(s=ints(*target))), tmp_path)


def test_nan_is_named_only_where_it_is_read(tmp_path):
    junk = dict(junk=np.float32([np.nan]), v=W)
    check(make_model([CONV], ["N", 3, 8, 8], dict(junk, w=W)), tmp_path, arr(1, 3, 8, 8))
    with pytest.raises(ModelFileError, match="'w'.*NaN"):
        import_model(make_model([node("Mul", "v junk", "w"), CONV], ["N", 3, 8, 8], junk), tmp_path)
    with pytest.raises(ModelFileError, match="'c'.*NaN"):
        import_model(make_model([node("Add", "x c")], ["N", 3, 2, 2], dict(c=np.full((3, 1, 1), np.nan, "float32"))),
                     tmp_path)


def test_constants_of_hostile_size_are_not_made(tmp_path):
    nodes = [node("ConstantOfShape", "s", "c"), node("Add", "x c")]
    with pytest.raises(ModelFileError, match="ConstantOfShape"):
        import_model(make_model(nodes, ["N", 3, 2, 2], dict(s=ints(2 ** 20, 2 ** 20))), tmp_path)


def test_half_precision_files_compute_in_float32(tmp_path):
    x = arr(2, 3, 8, 8).astype("float16")
    model = make_model([CONV], ["N", 3, 8, 8], dict(w=W.astype("float16")), kind=TensorProto.FLOAT16)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    got = import_model(model, tmp_path)(mx.nd.array(x, dtype="float16"))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.asnumpy(), judged(model, x)[0], atol=2e-2)


UPPER = (W.view(np.uint32) >> 16).astype("uint16")  # what bfloat16 keeps of a float32


@pytest.mark.parametrize("stored", ["as bytes", "as numbers", "as a constant", "sparse", "and all else"])
def test_bfloat16_is_the_upper_half_of_a_float32(stored, tmp_path):
    """Not the integer of its bits, as which the onnx library hands it out, nor whatever lay in memory before."""
    weight = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=W.shape, raw_data=UPPER.tobytes())
    if stored == "as numbers":
        weight = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=W.shape, int32_data=UPPER.ravel().tolist())
    nodes = [node("Cast", "w", "w1", to=TensorProto.FLOAT), node("Conv", "x w1")]
    if stored == "as a constant":
        nodes = [helper.make_node("Constant", [], ["w"], value=weight), *nodes]
    if stored == "and all else":
        nodes = [node("Cast", "x", "h", to=TensorProto.BFLOAT16), node("Conv", "h w", "c"),
                 node("Cast", "c", to=TensorProto.FLOAT)]
    model = make_model(nodes, ["N", 3, 8, 8])
    if stored == "sparse":
        weight.dims[:] = [W.size]
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(
            weight, numpy_helper.from_array(np.arange(W.size), "places"), W.shape))
    elif stored != "as a constant":
        model.graph.initializer.append(weight)
    x = arr(2, 3, 8, 8)
    want = judged(make_model([CONV], ["N", 3, 8, 8], dict(w=(UPPER.astype("uint32") << 16).view("float32"))), x)[0]
    np.testing.assert_allclose(import_model(model, tmp_path)(mx.nd.array(x)).asnumpy(), want, atol=1e-5)


def test_floats_of_eight_bits_are_refused_by_name(tmp_path):
    weight = helper.make_tensor("q", TensorProto.FLOAT8E4M3FN, W.shape, W.ravel().tolist())
    model = make_model([node("DequantizeLinear", "q s", "w"), CONV], ["N", 3, 8, 8], dict(s=np.float32(1)), 19)
    model.graph.initializer.append(weight)
    with pytest.raises(ModelFileError, match="'q' holds floats of 8 bits.*float32"):
        import_model(model, tmp_path)


def test_functions_of_the_file_are_put_in_place(tmp_path):
    function = helper.make_function("pkg", "twice", ["a"], ["b"], [node("Relu", "a", "r"), node("Add", "r r", "b")],
                                    [helper.make_opsetid("", 18)])
    nodes = [node("Conv", "x w", "c"), helper.make_node("twice", ["c"], ["y"], domain="pkg")]
    check(make_model(nodes, ["N", 3, 8, 8], dict(w=W), 18, functions=[function], domains=[("pkg", 1)]), tmp_path,
          arr(1, 3, 8, 8))


@pytest.mark.parametrize("opset", [5, 27, 99])
def test_operator_sets_that_are_too_old_or_too_new(opset, tmp_path):
    with pytest.raises(ModelFileError, match=f"operator set {opset} cannot be read"):
        import_model(make_model([node("Relu")], [1, 3], opset=opset), tmp_path)


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32])
def test_whole_numbers_as_images(kind, tmp_path):
    x = np.random.RandomState(0).randint(0, 100, (2, 3, 8, 8)).astype(helper.tensor_dtype_to_np_dtype(kind))
    nodes = [node("Cast", "x", "f", to=1), node("Conv", "f w")]
    check(make_model(nodes, ["N", 3, 8, 8], dict(w=W), kind=kind), tmp_path, x)
