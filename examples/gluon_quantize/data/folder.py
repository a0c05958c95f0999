# SPDX-License-Identifier: MIT
"""ImageNet in a folder: gluoncv's layout, or a flat folder with labels.txt or synset.txt; or images alone."""

import codecs
import contextlib
import os
import pathlib
import re
import unicodedata

from gluon_quantize.data.image_set import FileSet
from quantize.errors import DataError
from quantize.files import PathLike, read_bytes

CLASSES = 1000
SPLIT_FOLDERS = {"train": "train", "test": "val"}
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".jp2")
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# what systems of Western Europe, China, Japan, Taiwan, Korea and Russia have written; most texts of one are also texts
# of the next, so that names of files decide. The last has a letter for every byte
ENCODINGS = ("utf-8", "cp1252", "gb18030", "cp932", "big5", "euc_kr", "cp1251", "latin-1")
LAYOUTS = ("val/<wnid>/*.JPEG and train/<wnid>/*.JPEG, or <wnid>/*.JPEG, or images with labels.txt ('file class_index' "
           "lines), or <wnid>*.JPEG images with synset.txt ('wnid name' lines)")


def open_image_folder(folder: pathlib.Path, split: str) -> FileSet:
    """The images of one split of ImageNet.

    Parameters
    ----------
    folder : pathlib.Path
        The folder that holds ``val`` and ``train``, or one split itself, which then serves both.
    split : {'train', 'test'}
        'test' is ImageNet's ``val``.

    Returns
    -------
    FileSet

    Raises
    ------
    DataError
        A folder, label list, label or image that is missing or makes no sense.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; wanted is {LAYOUTS}")
    root = _split_folder(folder, split)
    labels = _list_file(root, "labels.txt")
    if labels is not None:
        pairs = _read_labels_txt(labels)
    elif any(path.is_dir() and not _hidden(path) for path in root.iterdir()):
        pairs = _read_class_folders(root, _wnids(root, folder))
    elif _list_file(root, "synset.txt") is not None:
        pairs = _read_wnid_files(root, _wnids(root))
    else:
        raise DataError(f"{root}: no labels.txt, no synset.txt and no class folders; wanted is {LAYOUTS}; "
                        "or --metric agreement, which needs no labels")
    if not pairs:
        raise DataError(f"{root}: no images ({' '.join(EXTENSIONS)}); wanted is {LAYOUTS}")
    found = FileSet("imagenet", [path for path, _ in pairs], [label for _, label in pairs], CLASSES)
    found.class_names = _names(root, folder)
    return found


def open_unlabelled(folder: pathlib.Path, split: str) -> FileSet:
    """Every image in a folder and the folders in it, without labels, by name; raises as `open_image_folder`.

    Parameters
    ----------
    split : {'train', 'test'}
        Its folder is taken where `folder` has one; else the images of all of them are.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; wanted is one of images")
    wanted = folder / SPLIT_FOLDERS[split]
    root = wanted if wanted.is_dir() else folder
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()
                   and not any(map(_hidden, (path, *path.relative_to(root).parents))))
    if not paths:
        raise DataError(f"{root}: no images ({' '.join(EXTENSIONS)}); they need no labels.txt to calibrate")
    return FileSet("images", paths, None, CLASSES)


def has_labels(folder: pathlib.Path, split: str) -> bool:
    """Whether something in a folder says of which classes its images are."""
    root = folder / SPLIT_FOLDERS[split]
    root = root if root.is_dir() else folder
    if not root.is_dir() or any(_list_file(place, name) for place in (root, folder)
                                for name in ("labels.txt", "synset.txt")):
        return True  # what is not there is refused where it is opened
    inside = [path.name for path in root.iterdir() if path.is_dir() and not _hidden(path)]
    return bool(inside) and all(name[:1] == "n" and name[1:].isdigit() for name in inside)


def holds_images(folder: PathLike) -> bool:
    """Whether a folder is one of images, with lists of labels or folders of splits, rather than one of arrays."""
    try:
        names = os.listdir(pathlib.Path(folder).expanduser())
    except (OSError, ValueError):
        return False  # said where it is opened
    return any(name.lower() in ("labels.txt", "synset.txt", *SPLIT_FOLDERS.values()) or
               os.path.splitext(name)[1].lower() in EXTENSIONS for name in names) and not any(
                   name.endswith((".npz", ".rec", ".bin", ".gz")) for name in names)


def _list_file(folder, name):
    """The file of that name, written in capitals or not; None where there is none."""
    found = [path for path in folder.iterdir() if path.name.lower() == name and path.is_file()]
    return min(found) if found else None


def _split_folder(folder, split):
    """``folder/val`` or ``folder/train`` where these exist, else `folder` itself."""
    present = [name for name in SPLIT_FOLDERS.values() if (folder / name).is_dir()]
    wanted = SPLIT_FOLDERS[split]
    if present and wanted not in present:
        raise DataError(f"{folder}: has {present[0]!r} but no {wanted!r} folder; add it, or name a folder that serves "
                        "every split")
    return folder / wanted if present else folder


def _read_labels_txt(path):
    """(file, class index) of every line "file class_index", in the first encoding in which all files are there."""
    listed = {unicodedata.normalize("NFC", name): name for name in os.listdir(path.parent)}
    problems = []
    for text in _texts(path):
        try:
            return [_labelled(path, listed, number, line) for number, line in _lines(text)]
        except DataError as error:
            problems.append(error)
    raise problems[0]


def _labelled(path, listed, number, line):
    """(file, class index) of a line; `listed`: the names in the folder by their composed form."""
    name, index = ([""] + line.rsplit(None, 1))[-2:]
    if not index.isdecimal() and "," in line:  # a table with commas
        name, index = (part.strip().strip('"') for part in line.rsplit(",", 1))
    name = name if "\\" not in name or _is_file(path.parent / name) else name.replace("\\", "/")
    if not name or not re.fullmatch("[0-9]{1,9}", index) or int(index) >= CLASSES:
        raise DataError(f"{path} line {number}: {line[:200]!r}; want 'file class_index' with a class index "
                        f"0..{CLASSES - 1}")
    # One listing instead of a stat per line; names in subfolders are looked up one by one.
    present = listed.get(unicodedata.normalize("NFC", name))
    if present is None and not _is_file(path.parent / name):
        raise DataError(f"{path} line {number}: file {name[:200]!r} is not in the folder; add it or remove the line")
    return path.parent / (present or name), int(index)


def _read_class_folders(root, wnids):
    """(file, class index) of every image in the class folders of `root`."""
    pairs = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir() and not _hidden(path)):
        if folder.name not in wnids:
            raise DataError(f"{root}: {folder.name!r} is no ImageNet class (wnid such as n01440764); remove the folder "
                            "or add a synset.txt that lists it")
        pairs += [(path, wnids[folder.name]) for path in _images(folder)]
    return pairs


def _read_wnid_files(root, wnids):
    """(file, class index) of every image in `root`, whose name starts with its class's wnid."""
    pairs = []
    for path in _images(root):
        wnid = path.stem.split("_")[0]
        if wnid not in wnids:
            raise DataError(f"{path}: the name must start with a wnid listed in {root / 'synset.txt'}")
        pairs.append((path, wnids[wnid]))
    return pairs


def _wnids(*folders):
    """wnid -> class index: from the first synset.txt in `folders`, else the standard 1000 classes."""
    # A position in the sorted folders would be wrong wherever some of the 1000 classes are absent.
    for folder in folders:
        path = _list_file(folder, "synset.txt")
        if path is not None:
            index = {line.split()[0]: position for position, (_, line) in enumerate(_lines(_texts(path)[0]))}
            if not 0 < len(index) <= CLASSES:
                raise DataError(f"{path}: {len(index)} different wnids; want 1 to {CLASSES}")
            return index
    try:
        from gluoncv.data import ImageNet1kAttr  # takes seconds to import
    except ImportError as err:
        raise DataError(f"{folders[0]}: has no synset.txt, and gluoncv's list of classes cannot be imported ({err}); "
                        "add a synset.txt") from None
    return {wnid: index for index, wnid in enumerate(ImageNet1kAttr().synset)}


def _names(*folders):
    """Names of the classes by the first synset.txt in `folders` that has one for each; None without."""
    for folder in folders:
        path = _list_file(folder, "synset.txt")
        if path is not None:
            words = dict(line.split(None, 1) if " " in line else (line, "") for _, line in _lines(_texts(path)[0]))
            # several names of one class are separated by commas; the first is the usual one
            return tuple(name.split(",")[0].strip() for name in words.values()) if all(words.values()) else None
    return None


def _lines(text):
    """(line number, stripped line) of every line of a text that is not empty."""
    lines = re.split("\r\n|\r|\n", text)  # no other mark ends a line: names may hold them
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _texts(path):
    """What a file may say, the likeliest first: by its encoding mark, as UTF-8, or in an older encoding."""
    try:
        data = read_bytes(path)
        for mark, encoding in MARKS:
            if data.startswith(mark):
                return [data.decode(encoding)]
        if b"\0" in data:  # Windows' UTF-16 without a mark; ASCII's second bytes are 0
            return [data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le")]
    except (DataError, UnicodeDecodeError) as err:
        raise DataError(f"{path}: cannot be read as text ({err})") from None
    found = []
    for encoding in ENCODINGS:
        with contextlib.suppress(UnicodeDecodeError):
            found.append(data.decode(encoding))
    return found


def _is_file(path):
    """Whether there is one; names may be longer than any file's."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _images(folder):
    """The image files of a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS and not _hidden(path))


def _hidden(path):
    """Whether a file or folder is a system's own: ``.git``, ``._image.png`` and ``__MACOSX`` of archives."""
    return path.name.startswith((".", "__MACOSX"))
