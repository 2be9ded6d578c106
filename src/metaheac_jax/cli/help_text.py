"""Help texts without the line breaks of docstrings, so that tyro wraps them to the terminal."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any, get_args, get_type_hints

import docstring_parser


def join_lines(options: Any, *, brief: bool = False) -> None:
    """Joins the lines of each paragraph in the docstrings of option classes.

    tyro breaks a text before each line that does not begin with a letter. Continued lines of
    attribute docstrings begin with spaces. These docstrings move into the ``Attributes:`` section
    of the class docstring, where tyro looks first.

    Args:
      options: a dataclass with a docstring, or a union of annotated ones; their base classes and
        the classes of their fields are included.
      brief: keep only the first paragraph of the class docstrings, for a list of subcommands.
    """
    for part in get_args(options):
        join_lines(part, brief=brief)
    if isinstance(options, type) and dataclasses.is_dataclass(options):
        for kind in filter(dataclasses.is_dataclass, options.__mro__):
            paragraphs, attributes = _texts(kind)
            kind.__doc__ = "\n".join(
                [paragraphs[0] if brief else "\n".join(paragraphs), *attributes]
            )
        for hint in get_type_hints(options, include_extras=True).values():
            join_lines(hint)


@functools.cache
def _texts(options: type) -> tuple[list[str], list[str]]:
    """Paragraphs and list items of a class docstring, and the lines of its attributes."""
    attributes = ["", "Attributes:"]
    for field in docstring_parser.parse_from_object(options).params:
        attributes.append(f"  {field.arg_name}: {' '.join((field.description or '').split())}")
    lines = [""]
    for line in inspect.cleandoc(options.__doc__ or "").splitlines():
        if line and lines[-1] and not line.startswith("- "):
            lines[-1] += f" {line.strip()}"
        elif line.startswith("- ") and not lines[-1]:
            lines[-1] = line
        else:
            lines.append(line)
    return lines[1:] or [""], attributes
