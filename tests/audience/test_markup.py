"""HTML: text stays text, elements are balanced."""

from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from metaheac_jax.audience.markup import Html, element, page, table_element
from metaheac_jax.audience.tables import TextTable

# Without what a parser normalises: carriage returns and zero bytes.
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"))


class Reader(HTMLParser):
    """Collects text and attributes."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.text, self.attributes = [], "", {}
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes |= dict(attributes)

    def handle_data(self, data):
        self.text += data


@settings(max_examples=30)
@given(texts, texts)
def test_any_text_is_read_as_it_was(text, value):
    read = Reader(element("p", text, title=value, aria_label="x").removesuffix("\n"))
    assert (read.tags, read.text) == (["p"], text)
    assert read.attributes == {"title": value, "aria-label": "x"}


def test_only_html_is_not_escaped():
    inner = element("b", "<i>")
    assert inner == "<b>&lt;i&gt;</b>\n"
    assert element("p", inner, "<i>") == "<p><b>&lt;i&gt;</b>\n&lt;i&gt;</p>\n"
    assert element("p", str(inner)) == element("p", Html(inner)).replace(
        inner, "&lt;b&gt;&amp;lt;i&amp;gt;&lt;/b&gt;\n"
    )
    assert element("img", src="a", alt="") == '<img src="a" alt="">'


def test_a_table_has_its_cells_in_order():
    table = TextTable("title", ["name", "<n>"], [["a", "1"], ["<b>", "2"]])
    read = Reader(table_element(table))
    assert read.text.split() == ["title", "name", "<n>", "a", "1", "<b>", "2"]
    assert read.tags.count("tr") == 3
    assert read.tags.count("th") == 4
    assert read.attributes["aria-label"] == "title"


def test_a_page_is_whole():
    text = page("A & B", "p{}", element("h1", "x"))
    assert text.startswith('<!doctype html>\n<html lang="en">')
    assert "<title>A &amp; B</title>" in text
    assert 'name="viewport"' in text
