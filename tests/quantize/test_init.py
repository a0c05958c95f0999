# SPDX-License-Identifier: MIT
import pytest

import quantize


@pytest.mark.parametrize("name", quantize.__all__)
def test_every_name_loads(name):
    assert getattr(quantize, name).__module__.startswith("quantize.")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="nothing_here"):
        _ = quantize.nothing_here
