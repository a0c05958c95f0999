# SPDX-License-Identifier: MIT
"""Arithmetic between the braces of ``${...}``: numbers, variables, + - * / and parentheses, and nothing else."""

import ast
import operator
from typing import Any, Callable, Dict, Mapping

from quantize.errors import ConfigError

LONGEST = 200
BINARY: Dict[type, Callable[[Any, Any], Any]] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
                                                 ast.Div: operator.truediv}


def evaluated(expression: str, values: Mapping[str, str]) -> str:
    """The expression's number, as text; whole numbers without a point. ConfigError for anything else."""
    if len(expression) > LONGEST:
        raise ConfigError(f"${{...}} holds {len(expression)} characters, at most {LONGEST} are read")
    try:
        number = _value(ast.parse(expression.strip(), mode="eval").body, values)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, OverflowError):
        raise ConfigError(f"${{{expression}}} is no arithmetic of numbers and variables") from None
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def _value(node: ast.AST, values: Mapping[str, str]) -> float:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.Name) and node.id in values:
        return float(values[node.id])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, values)
    if isinstance(node, ast.BinOp) and type(node.op) in BINARY:
        return float(BINARY[type(node.op)](_value(node.left, values), _value(node.right, values)))
    raise ValueError("not arithmetic")
