"""Tables and figures as Markdown, as one HTML page, and on the terminal."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich import table as rich
from rich.markup import escape

from metaheac_jax.audience.markup import element, page, table_element
from metaheac_jax.audience.tables import TextTable
from metaheac_jax.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEADING = "Look-alike audiences"
_STYLE = (
    "body{font:15px sans-serif;margin:2em auto;max-width:75em}table{border-collapse:collapse}"
    "td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:left}"
    ".number{text-align:right}caption{font-weight:bold;text-align:left}img{max-width:100%}"
)


@dataclass(frozen=True)
class Table:
    """A table of text cells; the first column is a name. The note is printed under the table."""

    title: str
    header: list[str]
    rows: list[list[str]]
    note: str = ""


def rich_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], without: str | None = None
) -> rich.Table:
    """A table for the terminal, without the columns with the header ``without``."""
    shown = [i for i, cell in enumerate(header) if cell != without]
    table = rich.Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i in shown:
        table.add_column(header[i], justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(escape(row[i]) for i in shown))
    return table


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown(
    title: str,
    tables: Sequence[Table],
    lines: Sequence[str],
    drawn: Mapping[str, Path],
    origin: str,
) -> str:
    """A report in Markdown.

    Args:
      title: title of the report.
      tables: tables in order.
      lines: notes on all tables, which follow the last.
      drawn: figures by caption; the report refers to them by file name.
      origin: where the results come from; it is printed under each table.
    """
    text = [f"# {HEADING}\n\n{title}\n"]
    for table in tables:
        text.append(f"## {table.title}\n\n{markdown_table(table.header, table.rows)}")
        text += [f"{line}\n" for line in (table.note, origin) if line]
    text += [f"- {line}" for line in lines]
    text += [f"\n![{caption}]({path.name})" for caption, path in drawn.items()]
    return "\n".join(text) + "\n"


def html(
    title: str,
    tables: Sequence[Table],
    lines: Sequence[str],
    drawn: Mapping[str, Path],
    origin: str,
) -> str:
    """A report as one HTML file that includes the figures; for the arguments see `markdown`."""
    body = [element("h1", HEADING), element("p", title)]
    for table in tables:
        body.append(table_element(TextTable(table.title, table.header, table.rows)))
        body += [element("p", line) for line in (table.note, origin) if line]
    body.append(element("ul", *(element("li", line) for line in lines)))
    for caption, path in drawn.items():
        data = base64.b64encode(path.read_bytes()).decode()
        image = element("img", alt=caption, src=f"data:image/png;base64,{data}")
        body.append(element("figure", image, element("figcaption", caption)))
    return page(HEADING, _STYLE, *body)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a figure completely or not at all, in the format of the name's suffix.

    Raises:
      OSError: it cannot be written.
    """
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:].lower(), dpi=130)
