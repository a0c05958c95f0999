# SPDX-License-Identifier: MIT
"""Files made of parts, taken apart, damaged in one part, and put together so that checksums and lengths fit again.

Damage to the bytes of a zip file or a picture mostly ends at its checksum: what stands behind it would never be tried.
"""

import hashlib
import io
import json
import struct
import warnings
import zipfile
import zlib

import numpy as np

from tests.hostile import fuzzing

SHARE_OF_BYTES = 0.1  # of the mutants are damaged as bytes, checksums and all


def entries(content):
    """Name -> bytes of a zip file's members."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def zipped(members, rng=None, compression=zipfile.ZIP_STORED):
    """A zip file of (name, bytes) pairs; by chance with what an honest one does not have."""
    stream = io.BytesIO()
    if rng is not None and rng.random() < 0.1:
        rng.shuffle(members)
    with zipfile.ZipFile(stream, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names that come twice
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = compression
            if rng is not None and rng.random() < 0.01:
                info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return stream.getvalue()


def odd_members(members, rng):
    """Members with one missing, twice, renamed, or led out of the archive."""
    members, place = list(members), rng.randrange(len(members))
    change = rng.randrange(4)
    if change == 0:
        del members[place]
    elif change == 1:
        members.append(members[place])
    else:
        name = members[place][0]
        name = rng.choice(("../" + name, "/etc/" + name, name.upper(), "", "a" * 300, "arrays/99999.npy", "é\n"))
        members[place] = (name, members[place][1])
    return members or [("a", b"")]


def array_file(content, rng):
    """The bytes of a .npy file with another header, other values or both."""
    if rng.random() < 0.3:
        return fuzzing.data(content, rng)
    length = int.from_bytes(content[8:10], "little")
    header = content[10:10 + length].decode("latin-1")
    kind = rng.choice(("<f4", "|i1", "<i8", "|O", "<f2", ">f4", "<U3", "|V8", "<c8", "|b1", "<M8[s]", "[('a','<f4')]"))
    shape = rng.choice(("()", "(0,)", "(1,)", "(-1,)", "(3, 8, 8)", "(99999999999,)", "(1,)*9", f"({'9' * 300},)",
                        "(2**40,)", "[1]", "None", "(1.5,)"))
    change = rng.randrange(4)
    if change == 0:
        header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n"
    elif change == 1:
        header = header.replace("False", rng.choice(("True", "0", "__import__('os')")))
    elif change == 2:
        header = rng.choice((header + " " * 5000, "{}", "(" * 3000, header[:len(header) // 2], "\x00"))
    else:
        header = fuzzing.data(header.encode("latin-1"), rng).decode("latin-1")
    raw = header.encode("latin-1")[:65535]
    body = content[10 + length:]
    if rng.random() < 0.3:
        body = fuzzing.data(body, rng)
    if rng.random() < 0.3:
        body = np.frombuffer(body[:len(body) // 4 * 4], "<f4").copy()
        if body.size:
            body[rng.randrange(body.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e38, -1.0, 1e-42))
        body = body.tobytes()
    return b"\x93NUMPY\x01\x00" + len(raw).to_bytes(2, "little") + raw + body


def npz(content):
    """Damage of an npz file whose checksums fit."""
    parts = list(entries(content).items())

    def damage(rng):
        if rng.random() < SHARE_OF_BYTES:
            return fuzzing.data(content, rng)
        members = list(parts)
        if rng.random() < 0.2:
            members = odd_members(members, rng)
        else:
            place = rng.randrange(len(members))
            members[place] = (members[place][0], array_file(members[place][1], rng))
        usual = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        return zipped(members, rng, zipfile.ZIP_LZMA if rng.random() < 0.02 else usual)
    return damage


def documents(content, of_document, again=lambda members, rng: members):
    """Damage of a zip file of JSON documents and arrays; `again` makes its own checksums fit.

    Parameters
    ----------
    of_document : dict
        Name of a document -> its damage, rng -> bytes.
    """
    parts = list(entries(content).items())

    def damage(rng):
        if rng.random() < SHARE_OF_BYTES:
            return fuzzing.data(content, rng)
        members, change = list(parts), rng.random()
        if change < 0.1:
            members = odd_members(members, rng)
        elif change < 0.25:
            place = rng.choice([number for number, (name, _) in enumerate(parts) if name not in of_document])
            members[place] = (members[place][0], array_file(members[place][1], rng))
        else:
            name = rng.choice(sorted(of_document))
            members = [(key, of_document[name](rng) if key == name else data) for key, data in members]
        return zipped(again(members, rng), rng)
    return damage


def listed(members, rng, manifest="manifest.json", key="entries"):
    """The members with the manifest that lists them as they are, but for now and then."""
    stated = dict(members)
    if manifest not in stated or rng.random() < 0.05:
        return members
    try:
        content = json.loads(stated.pop(manifest))
    except ValueError:
        return members  # the manifest itself is what was damaged
    content[key] = {name: facts(data) for name, data in stated.items()}
    if rng.random() < 0.1:
        content = fuzzing.document(content, rng)
    return [(name, fuzzing.text_of(content) if name == manifest else data) for name, data in members]


def facts(data):
    """What manifests say of a file."""
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


# ---- pictures


def png(content):
    """Damage of a PNG file by its chunks, whose checksums fit."""
    chunks, place = [], 8
    while place < len(content):
        (length,) = struct.unpack(">I", content[place:place + 4])
        chunks.append((content[place + 4:place + 8], content[place + 8:place + 8 + length]))
        place += 12 + length

    def damage(rng):
        parts = list(chunks)
        for _ in range(rng.randint(1, 2)):
            number = rng.randrange(len(parts))
            kind, data = parts[number]
            change = rng.randrange(5)
            if kind == b"IHDR" and change < 3:
                size = [rng.choice((0, 1, 16, 12, 70000, 2 ** 31 - 1, 2 ** 32 - 1)) for _ in range(2)]
                rest = (rng.choice((1, 2, 4, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 1)), 0, rng.choice((0, 1)),
                        rng.choice((0, 1, 9)))
                data = struct.pack(">2I5B", *size, rest[0], rest[1], *rest[2:])
            elif change == 3:
                parts.insert(number, rng.choice([(b"PLTE", bytes(range(30))), (b"tRNS", b"\1\2"), (b"acTL", bytes(8)),
                                                 (b"fcTL", bytes(26)), (b"eXIf", b"II*\0" + bytes(40)), (kind, data),
                                                 (b"zTXt", b"a\0\0" + zlib.compress(bytes(3 * 10 ** 6))),
                                                 (b"iCCP", b"a\0\0" + zlib.compress(bytes(3 * 10 ** 6)))]))
                continue
            else:
                data = fuzzing.data(data, rng)
            parts[number] = (kind, data)
        return content[:8] + b"".join(struct.pack(">I", len(data)) + kind + data + struct.pack(
            ">I", zlib.crc32(kind + data)) for kind, data in parts)
    return damage
