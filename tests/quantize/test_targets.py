# SPDX-License-Identifier: MIT
"""Targets by name, with options that a file may have said."""

import pytest

from quantize.errors import ConfigError
from quantize.targets import find


@pytest.mark.parametrize("name, options, says", [
    ("ncnn", {"__class__": 1}, "target 'ncnn' has no option '__class__'; known: winograd, fp32, fp32_layers"),
    ("ncnn", {"name": 1}, "target 'ncnn' has no option 'name'"),
    ("caffe", {"self": 1}, "target 'caffe' has no option 'self'; known: none"),
    ("ncnn", {"winograd": "yes"}, "winograd='yes'; it is true or false"),
    ("ncnn", {"fp32_layers": "abc"}, "fp32_layers='abc'; it is a list of names"),
    ("ncnn", {"fp32_layers": [["a"]]}, "it is a list of names"), ("no", {}, "unknown target 'no'")])
def test_what_a_target_has_not(name, options, says):
    with pytest.raises(ConfigError) as caught:
        find(name, **options)
    assert says in str(caught.value)


def test_what_a_target_has():
    assert find("ncnn", fp32_layers=("a", "b")).fp32_layers == ("a", "b") and find("onnx", int4=True).int4
    assert find("ncnn") is find("ncnn")
