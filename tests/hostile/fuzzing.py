# SPDX-License-Identifier: MIT
"""Damage that knows the structure: mutations of bytes, texts, JSON documents and protobuf messages, by a seed."""

import copy
import json
import random

NUMBERS = (0, 1, -1, 2, 7, 127, 128, 255, 256, 65535, 65536, 2 ** 31 - 1, 2 ** 31, -2 ** 31, 2 ** 32, 2 ** 63 - 1,
           2 ** 63, -2 ** 63, 2 ** 64, 10 ** 30, 10 ** 400, 0.5, -0.0, 1e-320, 1e-40, 1e38, 1e300, float("inf"),
           float("-inf"), float("nan"))
TEXTS = ("", " ", "a", "a b", "#x", "\x00", "\x1b[2J", "\u202e", "\ud800", "é", "None", "True", "(0, 0)", "(1,", "()",
         "[]", "-1", "0", "99999999999999999999", "1e999", "nan", "(3,3,3)", "-" * 500 + "1", "x" * 300, "../../etc",
         "/",
         "{}", "float32", "int8", "int99", '"', "'", "conv", "data", "NCHW", "9" * 2000)
WORDS = (b"\x00" * 4, b"\xff" * 4, b"\xff" * 8, b"\x00\x00\x00\x80", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x01",
         b"\x80")


def value(rng):
    """Something that a document does not expect."""
    kind = rng.randrange(8)
    if kind < 3:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(TEXTS)
    return copy.deepcopy(rng.choice((None, True, False, [], {}, [[]], [1], {"a": 1}, [None], ["a", 2], [[[[1]]]])))


class Document:
    """A JSON document to be damaged: parsed anew for each mutant, which is quicker than copied."""

    def __init__(self, content):
        self.text, self.paths = json.dumps(content), []
        self._list(content, ())

    def _list(self, node, path):
        for key in (range(len(node)) if isinstance(node, list) else list(node) if isinstance(node, dict) else ()):
            self.paths.append((*path, key))
            self._list(node[key], (*path, key))

    def damaged(self, rng):
        """With one to three changes."""
        content = json.loads(self.text)
        for _ in range(rng.randint(1, 3)):
            if not self.paths or rng.random() < 0.02:
                return value(rng)
            self._change(content, rng.choice(self.paths), rng)
        return content

    def _change(self, content, path, rng):
        node, key = _holder(content, path), path[-1]
        if node is None:
            return  # an earlier change took it away
        change = rng.randrange(6)
        if change == 0 and isinstance(node, dict):
            node[rng.choice(TEXTS)] = node.pop(key)
        elif change == 1:
            del node[key]
        elif change == 2 and isinstance(node, list):
            node.insert(key, copy.deepcopy(rng.choice(node)))
        elif change == 3:
            other = rng.choice(self.paths)
            found = _holder(content, other)
            if found is not None:
                node[key] = copy.deepcopy(found[other[-1]])
        else:
            node[key] = value(rng)


def _holder(content, path):
    """What holds the value at a path; None where it is gone."""
    for key in (*path[:-1], None):
        last = path[-1] if key is None else key
        if not (isinstance(content, dict) and last in content
                or isinstance(content, list) and type(last) is int and last < len(content)):
            return None
        if key is not None:
            content = content[key]
    return content


def document(content, rng):
    """A JSON document with one to three changes."""
    return Document(content).damaged(rng)


def text_of(content):
    """The document as a file, lone surrogates and infinities included."""
    return json.dumps(content).encode("ascii")


def data(content, rng):
    """Bytes with one to four changes."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(content) + 1)
        change = rng.randrange(8)
        if change == 0:
            del content[place:]
        elif change == 1:
            del content[place:place + rng.randint(1, 40)]
        elif change == 2:
            content[place:place] = content[rng.randrange(len(content) + 1):][:rng.randint(1, 40)]
        elif change == 3:
            word = rng.choice(WORDS)
            content[place:place + len(word)] = word
        elif place < len(content):
            content[place] = content[place] ^ 1 << rng.randrange(8) if change < 6 else rng.randrange(256)
    return bytes(content)


def lines(content, rng, marks=" "):
    """A text of lines, and of fields with a mark between them, with one to three changes."""
    rows = content.split("\n")
    for _ in range(rng.randint(1, 3)):
        number = rng.randrange(len(rows))
        fields = rows[number].split(marks)
        change = rng.randrange(6)
        if change == 0:
            del rows[number]
            rows = rows or [""]
        elif change == 1:
            rows.insert(number, rng.choice(rows))
        elif change == 2:
            del fields[rng.randrange(len(fields))]
            rows[number] = marks.join(fields)
        else:
            other = rng.choice(rng.choice(rows).split(marks))
            fields[rng.randrange(len(fields))] = str(value(rng)) if change < 5 else other
            rows[number] = marks.join(fields)
    joined = "\n".join(rows).encode("utf-8", "surrogatepass")
    return data(joined, rng) if rng.random() < 0.2 else joined


def message(proto, rng):
    """A protobuf message with one to three fields changed, removed or doubled."""
    proto = copy.deepcopy(proto)
    for _ in range(rng.randint(1, 3)):
        holders = []
        _messages(proto, holders)
        holder = rng.choice(holders)
        fields = holder.ListFields()
        if fields:
            _change(holder, *rng.choice(fields), rng)
    return proto.SerializeToString()


def _messages(proto, found):
    found.append(proto)
    for field, content in proto.ListFields():
        if field.message_type is not None:
            for inner in (content if hasattr(content, "__len__") and hasattr(content, "add") else [content]):
                _messages(inner, found)


def _change(holder, field, content, rng):
    several = hasattr(content, "append")
    try:
        if rng.random() < 0.15:
            holder.ClearField(field.name)
        elif several and rng.random() < 0.3:
            del content[rng.randrange(len(content))]
        elif field.message_type is not None:
            if several:
                content.append(rng.choice(list(content)))
        elif field.cpp_type == field.CPPTYPE_STRING:
            raw = field.type == field.TYPE_BYTES
            new = data(rng.choice(list(content)) if several else content, rng) if raw else rng.choice(TEXTS)
            if several:
                content[rng.randrange(len(content))] = new
            else:
                setattr(holder, field.name, new)
        elif several:
            content[rng.randrange(len(content))] = rng.choice(NUMBERS)
        else:
            setattr(holder, field.name, rng.choice(NUMBERS))
    except (ValueError, TypeError, UnicodeError, OverflowError):
        pass  # a number that the field cannot hold


def generator(seed):
    """A random generator of its own for each mutant, so that one can be made again by its number."""
    return random.Random(seed)
