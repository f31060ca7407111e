"""Sums as `muster explain` and docs/incentive.md write them, done again: + − · / **, min, max and sqrt of numbers."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping

_SUM = re.compile(r"(?:: |^\w+ +|^)((?:min|max|sqrt|[-+*/(), 0-9.e])+) = (-?[0-9.e+-]+)(?:$|, counted as )")

_BINARY: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
_CALLS: Mapping[str, Callable[..., float]] = {"min": min, "max": max, "sqrt": math.sqrt}


def sum_in(text: str) -> tuple[float, float] | None:
    """What the sum in a line comes to, and what the line says that it does; None where it holds none."""
    found = _SUM.search(text)
    return None if found is None else (value(found[1]), float(found[2]))


def value(formula: str) -> float:
    """What a formula comes to, each operation rounded as Python rounds it.

    Raises:
        ValueError: it is more than a sum.
    """
    return _value(ast.parse(formula.strip(), mode="eval").body)


def _value(node: ast.expr) -> float:
    match node:
        case ast.Constant(int() | float() as number):
            return number
        case ast.UnaryOp(ast.USub(), operand):
            return -_value(operand)
        case ast.BinOp(left, operation, right) if type(operation) in _BINARY:
            return _BINARY[type(operation)](_value(left), _value(right))
        case ast.Call(ast.Name(name), arguments, []) if name in _CALLS:
            return _CALLS[name](*map(_value, arguments))
    raise ValueError(f"{ast.unparse(node)} is no part of a sum")
