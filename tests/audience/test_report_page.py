"""The report: balanced, self-contained, accessible; nothing in it is anybody else's markup."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from metaheac_jax.audience.curve import Estimate, SizePoint
from metaheac_jax.audience.importance import Importance, Importances
from metaheac_jax.audience.overlap import Overlap
from metaheac_jax.audience.report import AudienceReport
from metaheac_jax.audience.report_page import html_report
from metaheac_jax.audience.seed_check import SeedCheck
from metaheac_jax.audience.tables import traits_table
from metaheac_jax.audience.traits import SensitiveShare, Trait

HOSTILE = "<script>alert('\"&')</script><img src=https://example.org/x onerror=alert(1)>"
VOID = {"img", "meta"}


def report(text="plain", *, curve=True, overlap=True):
    """A report with this text wherever a user's text can be."""
    points = [
        SizePoint(
            p,
            10 * p,
            Estimate(1, 0, 2),
            Estimate(p / 50, 0, 1),
            Estimate(2, 1, 3),
            Estimate(5, 4, 6),
        )
        for p in (1, 5, 40)
    ]
    shares = [
        SensitiveShare(text, text, 0.2, 0.4, 0.5, 0.4, bounded=True),
        SensitiveShare(text, text, None, 0.1, 0.9, 0.72, bounded=True),
        SensitiveShare(text, text, 0.7, 0.5, 1.4, 1.0, bounded=False),
    ]
    earlier = Overlap(("this audience", text), np.array([[1234, 200], [200, 400]]))
    return AudienceReport(
        title=f"Audience {text}",
        data=text,
        size=1234,
        num_candidates=5000,
        num_users=6000,
        edge=0.25,
        seeds=SeedCheck(given=900, distinct=800, found=600, excluded=20),
        curve=points if curve else [],
        used=Importances(0.75, [Importance(text, 0.1234, 0.01)]) if curve else None,
        seen=f"seen {text}" if curve else None,
        base_rate=0.0125,
        traits=[Trait(text, text, 0.5, None, 0.25, 617)],
        sensitive=shares,
        overlap=earlier if overlap else None,
    )


class Reader(HTMLParser):
    """Checks that elements are balanced; collects elements, text and attributes."""

    def __init__(self, markup):
        super().__init__()
        self.open, self.elements, self.text, self.ids = [], [], [], []
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    def of(self, *tags):
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def plain():
    return html_report(report())


def test_all_parts_are_there(plain):
    text = re.sub(r"\s+", " ", " ".join(Reader(plain).text))
    for words in (
        "Audience plain",
        "1,234 users, of 5,000 candidates among the 6,000 users of plain",
        "users of the data 600 75%",
        "learned from 580",
        "With fewer than 1,000 seeds",
        "1% 10 1.000 (0.000 to 2.000) 2.0% (0.0% to 100.0%) 2.00 (1.00 to 3.00) 5 (4 to 6)",
        "Expected conversions assume that 1.250% of the pool would convert if all of it were",
        "Note: seen plain.",
        "plain plain 50.0% few 25.0% 2.00",
        "(0.7500)",
        "plain 0.1234 0.0100",
        "plain plain 20.0% 40.0% 0.50 at most 0.40 under",
        "plain plain few 10.0% at most 0.90 at most 0.72 under",
        "plain plain 70.0% 50.0% 1.40 1.00 over",
        "plain 400 200 16.2% 0.139",
    ):
        assert words in text


@pytest.mark.parametrize(("found", "is_noted"), [(1019, True), (1020, False)])
def test_seeds_that_are_few_are_noted(found, is_noted):
    seeds = SeedCheck(given=1100, distinct=1050, found=found, excluded=20)
    text = html_report(replace(report(curve=False), seeds=seeds))
    assert ("With fewer than 1,000 seeds" in text) == is_noted


def test_text_of_users_is_never_markup(plain):
    harmless, hostile = Reader(plain), Reader(html_report(report(HOSTILE)))
    shape = [(tag, list(attributes)) for tag, attributes in harmless.elements]
    assert [(tag, list(attributes)) for tag, attributes in hostile.elements] == shape
    assert "".join(hostile.text).count(HOSTILE) == "".join(harmless.text).count("plain")
    assert not hostile.of("script")


def test_nothing_is_loaded_from_anywhere(plain):
    read = Reader(plain)
    assert not re.search(r"https?:|//|url\(|@import", re.sub(r"base64,[^\"]*", "", plain))
    assert not read.of("script", "link", "iframe", "object", "base", "form")
    assert all(image["src"].startswith("data:image/svg+xml;base64,") for image in read.of("img"))
    policy = next(m["content"] for m in read.of("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none';")


def test_it_can_be_used_by_all(plain):
    read = Reader(plain)
    assert [a["lang"] for a in read.of("html")] == ["en"]
    assert len(read.of("title", "main", "h1")) == 3
    levels = [tag for tag, _ in read.elements if re.fullmatch(r"h\d", tag)]
    assert levels == ["h1"] + ["h2"] * 6
    [image] = read.of("img")
    assert "1% finds 2%, 5% finds 10%, 40% finds 80%" in image["alt"]
    assert not read.of("svg")
    # Every table has a caption and headings, and a box that scrolls and that the keyboard reaches.
    assert len(read.of("table")) == len(read.of("caption")) == len(read.of("thead")) == 6
    assert all(heading["scope"] in ("row", "col") for heading in read.of("th"))
    boxes = [box for box in read.of("div") if box["class"] == "scroll"]
    assert len(boxes) == 6
    assert all(box["tabindex"] == "0" and box["aria-label"] for box in boxes)
    assert any(m.get("content", "").startswith("width=device-width") for m in read.of("meta"))


def contrast(one, other):
    """WCAG's contrast of two colours of three hexadecimal digits or six."""

    def luminance(colour):
        digits = [c * 2 for c in colour] if len(colour) == 3 else re.findall("..", colour)
        parts = [int(d, 16) / 255 for d in digits]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def test_text_has_contrast(plain):
    colours = re.findall(r"[ ;{]color: #([0-9a-f]+)", plain)
    assert len(colours) == 2
    assert all(contrast(colour, "fff") >= 7 for colour in colours)


def test_parts_that_cannot_be_measured_say_why():
    text = " ".join(Reader(html_report(report(curve=False, overlap=False))).text)
    needed = "This needs 50 seeds that are neither from feedback nor excluded, to hold some of them"
    assert text.count(needed) == 2
    assert "No other audience was given." in text


def test_a_long_table_of_traits_shows_both_ends():
    traits = [Trait("f", str(n), 0.5, None, 0.25, 60) for n in range(40)]
    shown = [row[1] for row in traits_table(traits).rows]
    assert shown == [*map(str, range(15)), *map(str, range(25, 40))]
    assert len(traits_table(traits[:30]).rows) == 30
