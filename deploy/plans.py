# SPDX-License-Identifier: MIT
"""What engines of integers object to in a Plan before they look at formats: the same for all that round inputs."""

from typing import Any, Callable, Iterator, Mapping

Formats = Callable[[Any], Iterator[str]]


def entry_problems(entry: Any, engine: str, layers: str, without: Mapping[str, str],
                   formats: Formats) -> Iterator[str]:
    """Objections to a layer.

    Parameters
    ----------
    entry : PlanEntry
        A quantized one.
    engine, layers : str
        What the engine and its layers of integers are called in a message.
    without : dict
        Layer type that the engine has no int8 form of -> its name in a message.
    formats : callable
        Objections to the formats of an entry that has both operands quantized.
    """
    if entry.op_type == "Place":
        return  # a tensor that a file rounded, between layers
    if entry.op_type in without:
        yield f"{engine} has no int8 {without[entry.op_type]}; exclude the layer"
        return
    if entry.output is not None:
        yield f"output {entry.output}: outputs are rounded where the next layer reads them; write \"output\": \"float\""
    if entry.input is None or entry.weight is None:
        operand = "input" if entry.input is None else "weight"
        yield (f"{operand} float, but {layers} have both operands quantized; write a format for both, or exclude "
               "the layer")
        return
    yield from formats(entry)
