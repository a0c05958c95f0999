# SPDX-License-Identifier: MIT
"""The picture of the report in README.md: the page of a small network, as a headless Chromium shows it.

    python docs/tools/make_picture.py

It needs what the browser's tests need (`make browser` installs it).
"""

import contextlib
import io
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "report.png"
WIDTH, COLOURS = 1280, 96
LARGEST = 200_000  # bytes
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]


def page_of(folder: pathlib.Path) -> pathlib.Path:
    """A report on the embedded network with coarse formats, so that there is something to see."""
    from gluon_quantize.commands.main import main
    with contextlib.redirect_stdout(io.StringIO()):
        code = main(["simulate", "--model", "digits_lenet", "--weight-bits", "3", "--input-bits", "3", "--sensitivity",
                     "--output", str(folder / "out"), "--report"])
    if code:
        raise SystemExit(code)
    return folder / "out" / "report.html"


def smaller(image: bytes) -> bytes:
    """The PNG with a palette: half as many bytes, and nobody sees it."""
    from PIL import Image
    buffer = io.BytesIO()
    Image.open(io.BytesIO(image)).convert("RGB").quantize(COLOURS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def main() -> None:
    """Make the picture."""
    from quantize.files import write_whole
    from tests.browser.chromium import chromium, drawn, picture, show
    with tempfile.TemporaryDirectory() as folder, chromium() as driver:
        show(driver, page_of(pathlib.Path(folder)), WIDTH, 3000)
        drawn(driver)
        found = smaller(picture(driver, 2050))
    if len(found) > LARGEST:
        raise SystemExit(f"{len(found)} bytes; wanted are at most {LARGEST}")
    write_whole(PICTURE, found)
    print(f"{PICTURE}: {len(found)} bytes")


if __name__ == "__main__":
    main()
