"""FLOPs of the matrix products that a program executes, counted in its traced form.

The count does not depend on the backend. XLA may still merge a few small products. (XLA's own
count, ``cost_analysis``, counts a loop's body once, includes elementwise operations, and on GPUs
misses the products that a library computes.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def executed_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """FLOPs of the matrix products of ``function(*arguments)``; a multiply-add counts as 2.

    The body of a scan counts once per iteration. Of the branches of a condition only the most
    costly one counts.

    Args:
      function: any function that jax can trace.
      *arguments: arrays, or their shapes.

    Raises:
      ValueError: a loop with products has a number of iterations that is known only at run time.
    """
    return _flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def _flops(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        inner = [_flops(each) for each in _programs(equation.params)]
        if name == "dot_general":
            total += _product(equation)
        elif name == "scan":
            total += equation.params["length"] * sum(inner)
        elif name == "cond":
            total += max(inner)
        elif name == "while" and any(inner):
            raise ValueError("matrix products in a while loop, whose number of rounds is unknown")
        else:
            total += sum(inner)
    return total


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)


def _programs(params: dict[str, Any]) -> Iterator[Any]:
    """The programs among an equation's parameters: bodies of loops, branches, jitted functions."""
    for value in params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            jaxpr = getattr(each, "jaxpr", each)
            if hasattr(jaxpr, "eqns"):
                yield jaxpr
