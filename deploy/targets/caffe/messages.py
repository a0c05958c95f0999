# SPDX-License-Identifier: MIT
"""Caffe's protobuf messages, declared at run time: those fields that this project writes.

Numbers and types are those of Caffe's public caffe.proto (Permute: of its SSD branch). A pool of our own keeps them
apart from any other `caffe` package in the process.
"""

from typing import Any, Dict, List, Tuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

REPEATED, PACKED = "repeated", "packed"

# message -> its fields: name, number, type (a message or enum of this table, or a scalar), repeated or packed
MESSAGES: Dict[str, List[Tuple[Any, ...]]] = {
    "BlobShape": [("dim", 1, "int64", PACKED)],
    # caffe.proto has packed floats: in the file they are their bytes, and so no float passes through Python
    "BlobProto": [("data", 5, "bytes"), ("shape", 7, "BlobShape")],
    "NetParameter": [("name", 1, "string"), ("layer", 100, "LayerParameter", REPEATED)],
    "LayerParameter": [
        ("name", 1, "string"), ("type", 2, "string"), ("bottom", 3, "string", REPEATED), ("top", 4, "string", REPEATED),
        ("blobs", 7, "BlobProto", REPEATED), ("concat_param", 104, "ConcatParameter"),
        ("convolution_param", 106, "ConvolutionParameter"), ("eltwise_param", 110, "EltwiseParameter"),
        ("inner_product_param", 117, "InnerProductParameter"), ("pooling_param", 121, "PoolingParameter"),
        ("power_param", 122, "PowerParameter"), ("relu_param", 123, "ReLUParameter"),
        ("softmax_param", 125, "SoftmaxParameter"), ("slice_param", 126, "SliceParameter"),
        ("reshape_param", 133, "ReshapeParameter"), ("batch_norm_param", 139, "BatchNormParameter"),
        ("elu_param", 140, "ELUParameter"), ("scale_param", 142, "ScaleParameter"),
        ("input_param", 143, "InputParameter"), ("permute_param", 202, "PermuteParameter")],
    "BatchNormParameter": [("use_global_stats", 1, "bool"), ("eps", 3, "float")],
    "ConcatParameter": [("axis", 2, "int32")],
    "ConvolutionParameter": [
        ("num_output", 1, "uint32"), ("bias_term", 2, "bool"), ("pad", 3, "uint32", REPEATED),
        ("kernel_size", 4, "uint32", REPEATED), ("group", 5, "uint32"), ("stride", 6, "uint32", REPEATED),
        ("pad_h", 9, "uint32"), ("pad_w", 10, "uint32"), ("kernel_h", 11, "uint32"), ("kernel_w", 12, "uint32"),
        ("stride_h", 13, "uint32"), ("stride_w", 14, "uint32"), ("dilation", 18, "uint32", REPEATED)],
    "ELUParameter": [("alpha", 1, "float")],
    "EltwiseParameter": [("operation", 1, "EltwiseOp"), ("coeff", 2, "float", REPEATED)],
    "InnerProductParameter": [("num_output", 1, "uint32"), ("bias_term", 2, "bool")],
    "InputParameter": [("shape", 1, "BlobShape", REPEATED)],
    "PermuteParameter": [("order", 1, "uint32", REPEATED)],
    "PoolingParameter": [
        ("pool", 1, "PoolMethod"), ("kernel_size", 2, "uint32"), ("stride", 3, "uint32"), ("pad", 4, "uint32"),
        ("kernel_h", 5, "uint32"), ("kernel_w", 6, "uint32"), ("stride_h", 7, "uint32"), ("stride_w", 8, "uint32"),
        ("pad_h", 9, "uint32"), ("pad_w", 10, "uint32"), ("global_pooling", 12, "bool")],
    "PowerParameter": [("power", 1, "float"), ("scale", 2, "float"), ("shift", 3, "float")],
    "ReLUParameter": [("negative_slope", 1, "float")],
    "ReshapeParameter": [("shape", 1, "BlobShape")],
    "ScaleParameter": [("axis", 1, "int32"), ("bias_term", 4, "bool")],
    "SliceParameter": [("slice_point", 2, "uint32", REPEATED), ("axis", 3, "int32")],
    "SoftmaxParameter": [("axis", 2, "int32")],
}

# enum -> its names, numbered from 0
ENUMS = {"PoolMethod": ["MAX", "AVE", "STOCHASTIC"], "EltwiseOp": ["PROD", "SUM", "MAX"]}
HOLDER = {"PoolMethod": "PoolingParameter", "EltwiseOp": "EltwiseParameter"}


def _add_field(message, name, number, kind, label=""):
    types = descriptor_pb2.FieldDescriptorProto
    field = message.field.add(name=name, number=number,
                              label=types.LABEL_REPEATED if label else types.LABEL_OPTIONAL)
    if kind in MESSAGES:
        field.type, field.type_name = types.TYPE_MESSAGE, ".caffe." + kind
    elif kind in ENUMS:
        field.type, field.type_name = types.TYPE_ENUM, f".caffe.{HOLDER[kind]}.{kind}"
    else:
        field.type = getattr(types, "TYPE_" + kind.upper())
    if label == PACKED:
        field.options.packed = True


def _classes():
    """Message name -> class."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe_messages.proto", package="caffe", syntax="proto2")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, *field)
        for kind, values in ENUMS.items():
            if HOLDER[kind] == name:
                enum = message.enum_type.add(name=kind)
                for number, value in enumerate(values):
                    enum.value.add(name=value, number=number)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    # protobuf 4.22 brought the function, 5 dropped the method that it replaces
    new = getattr(message_factory, "GetMessageClass", None) or message_factory.MessageFactory(pool).GetPrototype
    return {name: new(pool.FindMessageTypeByName("caffe." + name)) for name in MESSAGES}


_CLASSES = _classes()
NetParameter = _CLASSES["NetParameter"]
LayerParameter = _CLASSES["LayerParameter"]
