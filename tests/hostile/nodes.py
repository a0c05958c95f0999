# SPDX-License-Identifier: MIT
"""ONNX files of one node, of any operator, with any attributes, on images and constants of any rank.

    PYTHONPATH=.:examples python -m tests.hostile.nodes FIRST COUNT

A node that ends the process ends this one, too: its number is the last that was printed. Address space is limited, so
that one that takes memory without end is an error here instead of the machine's.
"""

import collections
import logging
import pathlib
import random
import resource
import signal
import sys
import tempfile
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from quantize.errors import QuantizeError
from quantize.importers.onnx import import_onnx
from quantize.limits import memory_limit
from tests.hostile.test_fuzz import LIMIT, MEMORY

WHOLE = (0, 1, 2, -1, 3, 7, -3, 100, 2 ** 31, 2 ** 62, -2 ** 63)
TEXTS = ("", "SAME_UPPER", "VALID", "NOTSET", "linear", "x", "DCR", "CRD", "max", "constant", "ij,jk->ik", "i...j->",
         "nearest", "cubic", "half_pixel")
REALS = (0.0, 1.0, -1.0, 1e38, float("nan"))
KINDS = (np.float32, np.float32, np.int64, np.int64, np.int32, np.uint8, np.bool_, np.int8)
BODIES = ("Loop", "Scan", "If", "SequenceMap")  # hold graphs, which every mutant of "onnx" in `seeds.py` may change
OPSETS = (7, 9, 11, 13, 17, 18, 21)
SPACE, SECONDS = 6 * 2 ** 30, 60


def attribute(kind, rng):
    """A value of an attribute's kind; None for kinds that are left out."""
    if kind == "INTS":
        return [rng.choice(WHOLE) if rng.random() < 0.3 else rng.choice((1, 2)) for _ in range(rng.randint(0, 6))]
    if kind == "FLOATS":
        return [rng.choice(REALS) for _ in range(rng.randint(0, 5))]
    return {"INT": rng.choice(WHOLE), "FLOAT": rng.choice(REALS), "STRING": rng.choice(TEXTS)}.get(kind)


def constant(name, rng):
    """A small array."""
    shape, kind = [rng.choice((0, 1, 2, 3, 4, 8)) for _ in range(rng.randint(0, 5))], rng.choice(KINDS)
    values = (0, 1, 2, -1, 3, 2 ** 31, -2 ** 62) if kind is np.int64 else (0, 1, 2)
    array = np.array([rng.choice(values) for _ in range(int(np.prod(shape)))], np.int64)
    return numpy_helper.from_array(array.astype(kind).reshape(shape), name)


def model(operators, rng):
    """A file of one node."""
    schema = rng.choice(operators)
    given = {name: attribute(str(stated.type).rsplit(".", 1)[-1], rng) for name, stated in schema.attributes.items()
             if rng.random() < 0.6 or stated.required}
    names = ["x" if not number else f"i{number}" if rng.random() < 0.9 else ""
             for number in range(rng.randint(0, min(6, max(schema.max_input, 1))))]
    outputs = [f"y{number}" for number in range(rng.randint(1, min(4, max(1, schema.max_output))))]
    node = helper.make_node(schema.name, names, outputs, "n", **{key: value for key, value in given.items()
                                                                 if value is not None and value != []})
    constants = [constant(name, rng) for name in names[1:] if name and rng.random() < 0.85]
    rank = rng.choice((4, 4, 4, 3, 2, 1, 0, 5))
    sizes = (["n"] + [rng.choice((0, 1, 2, 3, 4, 8)) for _ in range(rank - 1)])[:rank]
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)],
                              [helper.make_tensor_value_info("y0", TensorProto.FLOAT, None)], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", rng.choice(OPSETS))]).SerializeToString()


def run(first, count):
    """Import so many; an AssertionError for an answer of several lines, whatever else for what is no answer."""
    operators = [schema for schema in onnx.defs.get_all_schemas() if not schema.domain and schema.name not in BODIES]
    found = collections.Counter()
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, memory_limit(LIMIT):
        path = pathlib.Path(folder) / "m.onnx"
        for number in range(first, first + count):
            print(number, file=sys.stderr)
            path.write_bytes(model(operators, random.Random(number)))
            signal.alarm(SECONDS)
            try:
                import_onnx(path)
                found["read"] += 1
            except QuantizeError as error:
                assert len(str(error).splitlines()) == 1 and len(str(error)) < 4000, (number, str(error))
                found["refused"] += 1
    print(f"{count} tried from {first} on: {found['read']} read, {found['refused']} refused, 0 failed")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    resource.setrlimit(resource.RLIMIT_AS, (SPACE, SPACE))
    run(int(sys.argv[1]), int(sys.argv[2]))
