# SPDX-License-Identifier: MIT
"""What engines of integers object to in a Plan before they look at formats: the same for all that round inputs."""

from typing import Any, Callable, Iterator, Mapping, Optional

Formats = Callable[[Any], Iterator[str]]


def entry_problems(entry: Any, engine: str, layers: str, without: Mapping[str, str],
                   formats: Formats, outputs: Optional[Formats] = None) -> Iterator[str]:
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
    outputs : callable, optional
        Objections to the format of an entry's output, where outputs are quantized and the engine takes that: a layer
        whose input is not rounded may then read one (lowering knows).
    """
    if entry.op_type == "Place":
        return  # a tensor that a file rounded, between layers
    if entry.op_type in without:
        yield f"{engine} has no int8 {without[entry.op_type]}; exclude the layer"
        return
    if entry.output is not None and outputs is not None:
        yield from outputs(entry)
        if entry.input is None and entry.weight is None:
            return
    elif entry.output is not None:
        yield f"output {entry.output}: outputs are rounded where the next layer reads them; write \"output\": \"float\""
    if entry.weight is None or entry.input is None and outputs is None:
        operand = "input" if entry.input is None else "weight"
        yield (f"{operand} float, but {layers} have both operands quantized; write a format for both, or exclude "
               "the layer")
        return
    yield from formats(entry)
