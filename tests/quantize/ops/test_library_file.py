# SPDX-License-Identifier: MIT
"""A library that was cut off is not loaded: it would end the process with SIGBUS."""

import struct

from quantize.ops import build


def library(length, sections=(100, 64, 3)):
    """An ELF-64 file of so many bytes, whose table of sections begins at the first number."""
    place, size, count = sections
    header = bytearray(b"\x7fELF\x02" + bytes(59))
    struct.pack_into("<Q", header, 40, place)
    struct.pack_into("<HH", header, 58, size, count)
    return bytes(header) + bytes(length - 64)


def test_a_file_is_as_long_as_its_header_says(tmp_path):
    path = tmp_path / "lib.so"
    for content, whole in ((library(100 + 64 * 3), True), (library(100 + 64 * 3 - 1), False), (library(64)[:30], False),
                           (b"\xcf\xfa\xed\xfe" + bytes(80), True)):
        path.write_bytes(content)
        assert build.is_whole(path) is whole


def test_the_one_that_was_built_is_whole_and_no_part_of_it():
    if build.LIBRARY.is_file():
        assert build.is_whole(build.LIBRARY)
