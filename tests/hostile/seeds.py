# SPDX-License-Identifier: MIT
"""Every format that is read: a real file, how it is damaged, and who reads it."""

import io
import json
import pathlib
from typing import Any, Callable, NamedTuple

import mxnet as mx
import numpy as np
import onnx
from mxnet.gluon import nn
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from calib.observers import OBSERVERS
from calib.state import CalibrationState, read_state, write_state
from calib.table import read_table
from deploy.ir import file as ir_file
from deploy.targets.caffe.writer import output_blobs, serialize
from deploy.targets.ncnn import writer
from deploy.targets.ncnn.binary import read_binary
from deploy.targets.ncnn.param import parse_param
from deploy.targets.ncnn.table import read_ncnn_table
from gluon_quantize.data.arrays import read_npz
from gluon_quantize.data.folder import open_image_folder
from gluon_quantize.data.image_set import FORMATS, FileSet
from gluon_quantize.data.preprocess import Preprocessing
from quantize.config import load_config
from quantize.convert import convert_model
from quantize.documents import read_json
from quantize.errors import ConfigError
from quantize.files import read_text
from quantize.importers.onnx import import_onnx
from quantize.importers.symbol import import_symbol
from quantize.interfaces.nni.config import check_config_list
from quantize.interfaces.nni.export import load_calibration
from quantize.interfaces.simqat import SimQAT
from quantize.params_file import read_params
from tests.deploy.targets.caffe.models import quantized_model, tiny
from tests.hostile import fuzzing, structures
from tests.hostile.bundles import bundles
from tests.hostile.n2d2 import of_n2d2


class Format(NamedTuple):
    """A format.

    Parameters
    ----------
    name : str
        Of the file; "" where it is a folder of several.
    damage : callable
        rng -> the file's bytes, or {name: bytes} of a folder's files.
    read : callable
        Takes the path.
    """

    name: str
    damage: Callable[[Any], Any]
    read: Callable[[pathlib.Path], Any]


def network():
    """A small network of layers that files often hold."""
    net = nn.HybridSequential(prefix="net_")
    with net.name_scope():
        net.add(nn.Conv2D(4, 3, padding=1, in_channels=1), nn.BatchNorm(in_channels=4), nn.Activation("relu"),
                nn.MaxPool2D(2), nn.Flatten(), nn.Dense(3, in_units=64))
    net.initialize()
    return net


def onnx_model():
    """A convolution, a shape computed from constants, a dense layer."""
    rng = np.random.RandomState(0)
    arrays = {"w": rng.randn(4, 1, 3, 3), "b": rng.randn(4), "v": rng.randn(64, 3), "c": rng.randn(3)}
    inits = [numpy_helper.from_array(np.float32(array), name) for name, array in arrays.items()]
    inits.append(numpy_helper.from_array(np.int64([0, 64]), "shape"))
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["h"], "conv0", pads=[1, 1, 1, 1], strides=[1, 1], group=1),
             helper.make_node("Relu", ["h"], ["r"], "relu0"),
             helper.make_node("MaxPool", ["r"], ["p"], "pool0", kernel_shape=[2, 2], strides=[2, 2]),
             helper.make_node("Reshape", ["p", "shape"], ["f"], "reshape0"),
             helper.make_node("Gemm", ["f", "v", "c"], ["y"], "gemm0", alpha=1.0)]
    model = helper.make_model(helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])], inits),
        opset_imports=[helper.make_opsetid("", 13)])
    entry = model.metadata_props.add()
    entry.key, entry.value = "preprocessing", json.dumps(PREPROCESSING)
    onnx.checker.check_model(model)
    return model


PREPROCESSING = {"colour_order": "L", "scale": 1.0, "mean": [0.0], "std": [1.0], "resize_short_side": 8, "crop": [8, 8],
                 "layout": "NCHW", "crop_position": "centre", "resize_filter": "bilinear"}
RULES = [{"op_types": ["Conv2D"], "weight": "int4/channel", "input": "auto4", "method": "lsq", "options": {"a": 1.0}},
         {"op_names": ["features.*"], "exclude": True, "fold_bn": False, "winograd": "F43/position/inputs"}]
TABLE = ("calibration-table 1\n# layer tensor method\nconv input kl-ncnn 8 signed 200 5be1f0c2a91d77e0 - 2.64\n"
         "#fc weight kl-ncnn 8 unsigned 200 5be1f0c2a91d77e0 1,2 5.3 1.0\nend 2\n")
NCNN_TABLE = "conv1_param_0 127.5 63.0 \nfc_param_0 20.25\nconv1 48.5\nfc 12.0\n"
NNI_CONFIG = [{"quant_types": ["weight", "input"], "quant_bits": {"weight": 8, "input": 8}, "op_types": ["Conv2D"],
               "quant_dtype": "int", "quant_scheme": "per_tensor_symmetric", "quant_start_step": 5},
              {"op_names": ["0"], "exclude": True}]
SIMQAT = {"quant_delay": [1, 2], "quant_dtype": ["INT8", "INT4"], "per_channel": [False, True], "symmetric": True,
          "narrow_range": False, "bn_fold": True, "freeze_bn": 10, "ema_decay": 0.9}
NNI = {"0": {"weight_bits": 8, "weight_scale": 0.1, "weight_zero_point": 0.0, "tracked_min_weight": -1.0,
             "tracked_max_weight": 1.0, "input_bits": 8, "input_scale": 0.1, "input_zero_point": 0.0,
             "tracked_min_input": -1.0, "tracked_max_input": 1.0}}


def image_bytes(kind, **options):
    """A picture as a file."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(16 * 12 * 3, dtype=np.uint8).reshape(12, 16, 3)).save(stream, kind, **options)
    return stream.getvalue()


def read_ncnn(param):
    """Both files of ncnn by the strict readers; the .bin lies beside the .param."""
    return read_binary(parse_param(read_text(param), "p"), (param.parent / "m.bin").read_bytes())


def images_of(*names):
    """A reader of an image folder by its list, which holds these images."""
    def read(path):
        for name in names:
            (path.parent / name).touch()
        return open_image_folder(path.parent, "test")
    return read


def state_of(folder):
    """A calibration state with every observer, as a document."""
    observers = {}
    for name in OBSERVERS.names():
        observers[name] = OBSERVERS.get(name)()
        observers[name].update(np.linspace(1, 1.001, 30, dtype=np.float32).reshape(3, 10))
    write_state(folder / "s", CalibrationState({"0.input_quantizer": observers}, "n", {"a": 1}, 3, "0" * 16, 2, (1,)))
    return json.loads((folder / "s").read_text())


def damaged_state(content):
    """The state with damage and the checksum that fits it."""
    from calib import state
    whole = fuzzing.Document(content)

    def damage(rng):
        changed = whole.damaged(rng)
        if isinstance(changed, dict) and "checksum" in changed and rng.random() < 0.9:
            changed.pop("checksum")
            changed["checksum"] = state._checksum(changed)
        return fuzzing.text_of(changed)
    return damage


def documents(content):
    """Damage of a JSON file."""
    whole = fuzzing.Document(content)
    return lambda rng: fuzzing.text_of(whole.damaged(rng))


def binaries(*contents):
    """Damage of bytes."""
    return lambda rng: fuzzing.data(rng.choice(contents), rng)


def texts(content):
    """Damage of lines."""
    return lambda rng: fuzzing.lines(content, rng)


def either(*damages):
    """One of several ways."""
    return lambda rng: rng.choice(damages)(rng)


def external(model):
    """(A model whose weights lie in a file beside it, that file)."""
    model, data = onnx.ModelProto.FromString(model.SerializeToString()), b""
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        for key, stated in (("location", "w.bin"), ("offset", str(len(data))), ("length", str(len(raw)))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, stated
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        data += raw
    return model, data


PLACES = ("../w.bin", "/etc/passwd", "w.bin/../../w.bin", "", ".", "a" * 300, "\x00", "no.bin", "w.bin", "link",
          "/dev/zero")


def damaged_external(model):
    """The file, or what it says of the other, or the other."""
    whole, data = external(model)

    def damage(rng):
        if rng.random() < 0.3:
            return {"m.onnx": fuzzing.message(whole, rng), "w.bin": data}
        if rng.random() < 0.2:
            return {"m.onnx": whole.SerializeToString(), "w.bin": fuzzing.data(data, rng)}
        changed = onnx.ModelProto.FromString(whole.SerializeToString())
        tensor = rng.choice(list(changed.graph.initializer))
        entry = rng.choice(list(tensor.external_data))
        entry.value = rng.choice(PLACES) if entry.key == "location" else str(fuzzing.value(rng))[:50].encode(
            "ascii", "replace").decode()
        return {"m.onnx": changed.SerializeToString(), "w.bin": data}
    return damage


def damaged_model(model):
    """Of fields mostly, of bytes now and then."""
    content = model.SerializeToString()
    return lambda rng: fuzzing.message(model, rng) if rng.random() < 0.8 else fuzzing.data(content, rng)


def pictures():
    """Damage of files of every format that is read."""
    return either(structures.png(image_bytes("PNG")), *(binaries(image_bytes(kind)) for kind in FORMATS))


def of_importers(folder, net):
    """Files that hold networks."""
    net.hybridize()
    net(mx.nd.zeros((1, 1, 8, 8)))
    net.export(str(folder / "net"))
    params, model = folder / "net-0000.params", onnx_model()
    return {
        "params": Format("p.params", binaries(params.read_bytes()), read_params),
        "symbol": Format("s-symbol.json", documents(json.loads((folder / "net-symbol.json").read_text())),
                         lambda path: import_symbol(path, params)),
        "onnx": Format("m.onnx", damaged_model(model), import_onnx),
        "onnx external": Format("", damaged_external(model), lambda path: import_onnx(path / "m.onnx")),
    }


def of_images():
    """What is read of images and how to prepare them."""
    stored = io.BytesIO()
    np.savez(stored, x=np.zeros((3, 8, 8), np.uint8), y=np.arange(3))
    return {
        "preprocessing": Format("p.json", documents(PREPROCESSING),
                                lambda path: Preprocessing.from_onnx_metadata(read_json(path)).apply(
                                    np.zeros((9, 11), np.uint8))),
        "npz": Format("d.npz", structures.npz(stored.getvalue()), lambda path: read_npz(path, "x", "y", (8, 8))),
        "image": Format("i.jpg", pictures(), lambda path: FileSet("x", [path], [0], 1).load(0)),
        "labels": Format("labels.txt", texts("a.jpg 1\nb.jpg 2\nc.jpg 3"),
                         images_of("a.jpg", "b.jpg", "c.jpg")),
        "synset": Format("synset.txt", texts("n01440764 tench\nn01443537 goldfish"),
                         images_of("n01440764_1.jpg", "n01443537_2.jpg")),
    }


def of_quantization(folder, quantized):
    """Rules, ranges, and what other tools write of them."""
    return {
        "state": Format("s.json", damaged_state(state_of(folder)), lambda path: read_state(path).missing),
        "table": Format("t.table", texts(TABLE), read_table),
        "rules": Format("r.json", documents(RULES), load_config),
        "nni": Format("n.json", documents(NNI), lambda path: load_calibration(quantized, path)),
        "nni config": Format("c.json", documents(NNI_CONFIG),
                             lambda path: check_config_list(read_json(path, ConfigError))),
        "simqat": Format("q.json", documents(SIMQAT), lambda path: SimQAT(read_json(path, ConfigError))),
    }


def of_engines(folder):
    """Files of engines, and what they are written from."""
    ir_file.save(quantized_model(), folder / "m.ir")
    text, binary = writer.render(quantized_model())
    model = (folder / "m.ir").read_bytes()
    inside = documents(json.loads(structures.entries(model)["model.json"]))

    def as_saved(rng):
        return json.dumps(json.loads(inside(rng)), indent=1).encode()

    def read_engine_files(path):
        (path.parent / "m.bin").write_bytes(binary)
        return read_ncnn(path)
    return {
        "ncnn table": Format("n.table", texts(NCNN_TABLE), read_ncnn_table),
        "ncnn param": Format("m.param", texts(text), read_engine_files),
        "ncnn bin": Format("m.bin", binaries(binary), lambda path: read_binary(parse_param(text), path.read_bytes())),
        "ir": Format("m.ir", structures.documents(model, {"model.json": as_saved}), ir_file.load),
        "prototxt": Format("m.prototxt", texts(serialize(tiny())[0]), output_blobs),
    }


def formats(folder):
    """Name -> Format; `folder` gets the undamaged files."""
    quantized = convert_model(network(), config_list=[{"op_types": ["Conv2D"], "weight": "int8", "input": "int8"}])
    others = {**bundles(folder), **of_n2d2(folder)}
    return {**of_importers(folder, network()), **of_images(), **of_quantization(folder, quantized),
            **of_engines(folder), **{name: Format(*parts) for name, parts in others.items()}}
