"""Reference catalogues (LDM-151 5.1.1): conditions on their rows, such as `mag < 20 and kind == "STAR"`.

An expression compares columns with constants (== != < <= > >= in, not in) and joins by and, or, not; a column
alone stands for its own truth. It is never run as code: only these forms are known.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_COMPARE: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def names_in(expression: str) -> list[str]:
    """Columns that an expression mentions, in order of appearance."""
    return [node.id for node in ast.walk(ast.parse(expression, mode="eval")) if isinstance(node, ast.Name)]


def evaluate(expression: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Truth of an expression for each row: columns and constants compared, joined by and, or, not, in.

    Comparisons with NaN are false, as in NumPy. Never runs code: only the forms named are known.
    """
    return np.asarray(_truth(ast.parse(expression, mode="eval").body, columns), dtype=bool)


def _truth(node: ast.expr, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        return join.reduce([_truth(value, columns) for value in node.values])
    if isinstance(node, ast.UnaryOp):
        return np.logical_not(_truth(node.operand, columns))
    if isinstance(node, ast.Name):
        values = _comparable(columns[node.id])
        return np.nan_to_num(values) != 0 if values.dtype.kind == "f" else values.astype(bool)
    left, sign = _operand(node.left, columns), node.ops[0]
    if isinstance(sign, ast.In | ast.NotIn):
        inside = np.isin(left, ast.literal_eval(node.comparators[0]))
        return inside if isinstance(sign, ast.In) else ~inside
    return _COMPARE[type(sign)](left, _operand(node.comparators[0], columns))


def _operand(node: ast.expr, columns: Mapping[str, np.ndarray]) -> Any:
    return _comparable(columns[node.id]) if isinstance(node, ast.Name) else ast.literal_eval(node)


def _comparable(values: np.ndarray) -> np.ndarray:
    """The values themselves; whole numbers with nulls as floats with NaN."""
    if values.dtype != object or not any(value is None for value in values):
        return values
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def check_expression(text: Any) -> str:
    """The text itself, if it can be evaluated.

    Raises
    ------
    ValueError
        When it is no text, cannot be parsed or has other forms than those known.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected an expression such as 'mag < 20', got {text!r}")
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot read {text!r} ({error.msg})") from error
    if not _is_known(tree):
        raise ValueError(
            f"{text!r} may compare columns with constants (== != < <= > >= in), joined by and, or, not"
        )
    return text


def _is_known(node: ast.expr) -> bool:
    if isinstance(node, ast.BoolOp):
        return all(_is_known(value) for value in node.values)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.Not) and _is_known(node.operand)
    if isinstance(node, ast.Name):
        return True
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return False
    right, member = node.comparators[0], isinstance(node.ops[0], ast.In | ast.NotIn)
    if member:
        return (
            isinstance(node.left, ast.Name)
            and isinstance(right, ast.List | ast.Tuple)
            and _is_constant(right)
        )
    sides = all(isinstance(side, ast.Name) or _is_constant(side) for side in (node.left, right))
    return sides and type(node.ops[0]) in _COMPARE


def _is_constant(node: ast.expr) -> bool:
    if isinstance(node, ast.List | ast.Tuple):
        return all(_is_constant(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _is_constant(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, str | int | float)
