# SPDX-License-Identifier: MIT
"""The sections of an INI file about data: database, size and batches, transformations."""

import os
import pathlib
import re
from typing import Any, Dict, List, Optional

from quantize.errors import ConfigError
from quantize.interfaces.n2d2 import transform
from quantize.interfaces.n2d2.database import DATABASES, Database
from quantize.interfaces.n2d2.ini.options import Options
from quantize.interfaces.n2d2.ini.reader import Document

PROVIDERS = ("sp", "env")
TRANSFORMATION = re.compile(r"(?:sp|env)\.(OnTheFly)?Transformation(?:[-_]?\w[\w.-]*)?\Z")


def database(options: Options, data_dir: Optional[str], seed: int) -> Database:
    """The database of a section, loaded.

    Parameters
    ----------
    data_dir : str or None
        Its folder; None: DataPath, else the set's folder in $N2D2_DATA.
    """
    kind = DATABASES[options.text("Type", choices=tuple(DATABASES))]
    learn = options.number("Learn", 1.0)
    made: Database = _placed(options, lambda: kind(
        learn=learn, validation=options.number("Validation", 0.0),
        random_partitioning=options.switch("RandomPartitioning", True), seed=seed))
    stated = options.text("DataPath", "")
    labels = options.text("LabelPath", "")
    options.finish()
    folder = data_dir or stated or ("" if kind.embedded else _usual(kind, options))
    made.load(folder, pathlib.Path(labels) if labels else None)
    return made


def _usual(kind: Any, options: Options) -> str:
    root = os.environ.get("N2D2_DATA", "")
    if not root:
        raise options.error("DataPath", "is missing: name the folder of the images, here or with --data-dir")
    return os.path.join(root, kind.folder)


def _placed(options: Options, make: Any) -> Any:
    try:
        return make()
    except ConfigError as error:
        if str(error).startswith(options.document.path):
            raise
        raise options.document.error(options.section.line, f"[{options.section.name}] {error}") from None


def transformations(document: Document) -> List[transform.Transformation]:
    """The transformations in their order: those for good first, those on the fly behind."""
    found: Dict[bool, List[transform.Transformation]] = {False: [], True: []}
    for name, section in document.sections.items():
        match = TRANSFORMATION.match(name)
        if match:
            options = Options(document, section)
            made = _placed(options, lambda options=options: _transformation(options))
            options.finish()
            found[bool(match.group(1))].append(made)
    return found[False] + found[True]


def _transformation(options: Options) -> transform.Transformation:
    kind = options.text("Type", choices=tuple(transform.TRANSFORMATIONS))
    return MAKERS[kind](options, options.text("ApplyTo", "All", tuple(transform.APPLY_TO)))


def _size(options: Options) -> Dict[str, Any]:
    return {"width": options.whole("Width", least=1), "height": options.whole("Height", least=1)}


def _border(options: Options) -> Dict[str, Any]:
    values = options.numbers("BorderValue", (0.0,))
    return {"border_type": options.text("BorderType", "MinusOneReflectBorder"), "border_value": values[0]}


def _rescale(options: Options, apply_to: str) -> transform.Transformation:
    return transform.Rescale(**_size(options), keep_aspect_ratio=options.switch("KeepAspectRatio"),
                             resize_to_fit=options.switch("ResizeToFit", True), apply_to=apply_to)


def _color_space(options: Options, apply_to: str) -> transform.Transformation:
    return transform.ColorSpace(options.text("ColorSpace"), apply_to)


def _range_affine(options: Options, apply_to: str) -> transform.Transformation:
    if options.switch("Truncate"):
        raise options.error("Truncate", "values are not cut off; leave it out")
    return transform.RangeAffine(options.text("FirstOperator"), options.numbers("FirstValue"),
                                 options.text("SecondOperator", "Plus"), options.numbers("SecondValue", (0.0,)),
                                 apply_to)


def _random_resize_crop(options: Options, apply_to: str) -> transform.Transformation:
    return transform.RandomResizeCrop(
        **_size(options), scale_min=options.number("ScaleMin", 1.0), scale_max=options.number("ScaleMax", 1.0),
        ratio_min=options.number("RatioMin", 1.0), ratio_max=options.number("RatioMax", 1.0), apply_to=apply_to)


def _pad_crop(options: Options, apply_to: str) -> transform.Transformation:
    return transform.PadCrop(**_size(options), **_border(options), apply_to=apply_to)


def _slice(options: Options, apply_to: str) -> transform.Transformation:
    for key in ("RandomRotation", "RandomScaling"):
        if options.switch(key):
            raise options.error(key, "slices are neither turned nor scaled; leave it out")
    return transform.SliceExtraction(
        **_size(options), offset_x=options.whole("OffsetX", 0), offset_y=options.whole("OffsetY", 0),
        random_offset_x=options.switch("RandomOffsetX"), random_offset_y=options.switch("RandomOffsetY"),
        allow_padding=options.switch("AllowPadding"), **_border(options), apply_to=apply_to)


def _flip(options: Options, apply_to: str) -> transform.Transformation:
    return transform.Flip(options.switch("HorizontalFlip"), options.switch("VerticalFlip"),
                          options.switch("RandomHorizontalFlip"), options.switch("RandomVerticalFlip"), apply_to)


MAKERS = {"RescaleTransformation": _rescale, "ColorSpaceTransformation": _color_space,
          "RangeAffineTransformation": _range_affine, "RandomResizeCropTransformation": _random_resize_crop,
          "PadCropTransformation": _pad_crop, "SliceExtractionTransformation": _slice, "FlipTransformation": _flip}
