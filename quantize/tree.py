# SPDX-License-Identifier: MIT
"""Walk a network by structural path, and replace blocks in it."""

from typing import Dict, Iterator, Tuple

from mxnet.gluon import Block

from quantize.errors import ConversionError


def walk(net: Block, path: str = "") -> Iterator[Tuple[str, Block]]:
    """(structural path, block) of a block and everything in it; a shared block comes once.

    Parameters
    ----------
    path : str
        Where `net` itself sits, when it is a part of a network.

    Raises
    ------
    ConversionError
        For anything but a Block.
    """
    if not isinstance(net, Block):
        raise ConversionError(f"a network is wanted (a gluon Block), got {type(net).__name__}")
    seen = set()
    stack = [(path, net)]
    while stack:
        path, block = stack.pop()
        if id(block) in seen:
            continue
        seen.add(id(block))
        yield path, block
        # reversed, so that the stack gives children back in their own order
        prefix = path + "." if path else ""
        stack.extend((prefix + name, child) for name, child in reversed(list(block._children.items())))


def paths(net: Block) -> Dict[int, str]:
    """id of a block -> its structural path."""
    return {id(block): path for path, block in walk(net)}


def replace_blocks(net: Block, replacements: Dict[int, Block]) -> None:
    """Put new blocks in the place of old ones wherever their parents hold them.

    Parameters
    ----------
    replacements : dict
        id of the old block -> the new block.
    """
    for _, parent in list(walk(net)):
        for name, child in list(parent._children.items()):
            new = replacements.get(id(child))
            if new is None:
                continue
            _replace_attributes(parent, child, new)
            parent._children[name] = new


def _replace_attributes(parent: Block, old: Block, new: Block) -> None:
    """Attributes and plain lists of the parent that refer to the old block (children may be held by both)."""
    # past Block.__setattr__, which refuses a child of an unrelated class in the place of another
    for name, value in list(vars(parent).items()):
        if value is old:
            object.__setattr__(parent, name, new)
        elif isinstance(value, list):
            value[:] = [new if item is old else item for item in value]
        elif isinstance(value, tuple) and any(item is old for item in value):
            object.__setattr__(parent, name, tuple(new if item is old else item for item in value))
