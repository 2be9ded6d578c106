"""HTML in which no text can be mistaken for markup."""

from __future__ import annotations

from html import escape

from metaheac_jax.audience.tables import TextTable

_VOID = frozenset({"img", "meta"})  # elements without content and end tag


class Html(str):
    """Text that is already HTML; all other text is escaped when it becomes part of an element."""

    __slots__ = ()


def element(tag: str, *content: str, **attributes: str) -> Html:
    """An HTML element.

    Args:
      tag: name of the element.
      *content: text, which is escaped, or `Html`.
      **attributes: values, which are escaped; underscores at the end of a name are dropped, and
        others become hyphens (``class_``, ``aria_label``).
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
    )
    if tag in _VOID:
        return Html(f"<{tag}{given}>")
    inside = "".join(c if isinstance(c, Html) else escape(c) for c in content)
    return Html(f"<{tag}{given}>{inside}</{tag}>\n")


def table_element(table: TextTable) -> Html:
    """A table that scrolls inside its own box where the page is narrow."""
    names, numbers = {}, {"class_": "number"}
    kinds = [names if i < table.num_names else numbers for i in range(len(table.header))]

    def line(cells: list[Html]) -> Html:
        return element("tr", *cells)

    head = [
        element("th", text, scope="col", **kind)
        for text, kind in zip(table.header, kinds, strict=True)
    ]
    body = []
    for row in table.rows:
        first, *others = zip(row, kinds, strict=True)
        cells = [element("th", first[0], scope="row", **first[1])]
        body.append(line([*cells, *(element("td", text, **kind) for text, kind in others)]))
    whole = element(
        "table",
        element("caption", table.title),
        element("thead", line(head)),
        element("tbody", *body),
    )
    # The keyboard can scroll an element that has the focus.
    return element(
        "div", whole, class_="scroll", role="region", aria_label=table.title, tabindex="0"
    )


def page(title: str, style: str, *content: Html) -> str:
    """A complete page, which is not allowed to load or run anything.

    Args:
      title: title of the page.
      style: trusted CSS.
      *content: content of its main element.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(style)),
    )
    body = element("body", element("main", *content))
    return "<!doctype html>\n" + element("html", head, body, lang="en")
