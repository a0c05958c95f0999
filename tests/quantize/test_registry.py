# SPDX-License-Identifier: MIT
import pytest

from quantize.errors import ConfigError
from quantize.registry import Registry


def test_register_and_get():
    table = Registry("thing")

    @table.register("one")
    def member():
        return 1

    assert table.get("one") is member and table.names() == ["one"]


def test_a_miss_names_what_is_known_and_what_is_near():
    table = Registry("thing")
    table.register("percentile")(1)
    with pytest.raises(ConfigError, match="unknown thing 'percentil'; known: percentile; did you mean 'percentile'"):
        table.get("percentil")


def test_a_name_is_taken_once():
    table = Registry("thing")
    table.register("a")(1)
    with pytest.raises(ConfigError, match="registered twice"):
        table.register("a")(2)
