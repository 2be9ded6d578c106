"""Help texts without the line breaks of docstrings, so that tyro wraps them to the terminal."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any, get_args, get_type_hints

import docstring_parser


def join_lines(options: Any) -> None:
    """Joins the lines of each paragraph in the docstrings of option classes.

    tyro breaks a text before each line that does not begin with a letter. Continued lines of
    attribute docstrings begin with spaces. These docstrings move into the ``Attributes:`` section
    of the class docstring, where tyro looks first.

    Args:
      options: a dataclass with a docstring, or a union of annotated ones; their base classes and
        the classes of their fields are included.
    """
    for part in get_args(options):
        join_lines(part)
    if isinstance(options, type) and dataclasses.is_dataclass(options):
        for kind in filter(dataclasses.is_dataclass, options.__mro__):
            _rewrite(kind)
        for hint in get_type_hints(options, include_extras=True).values():
            join_lines(hint)


@functools.cache
def _rewrite(options: type) -> None:
    lines = [_joined(options.__doc__ or ""), "", "Attributes:"]
    for field in docstring_parser.parse_from_object(options).params:
        lines.append(f"  {field.arg_name}: {' '.join((field.description or '').split())}")
    options.__doc__ = "\n".join(lines)


def _joined(text: str) -> str:
    """One line per paragraph and per item of a list."""
    lines = [""]
    for line in inspect.cleandoc(text).splitlines():
        if line and lines[-1] and not line.startswith("- "):
            lines[-1] += f" {line.strip()}"
        else:
            lines.append(line)
    return "\n".join(lines).replace("\n\n- ", "\n- ")
