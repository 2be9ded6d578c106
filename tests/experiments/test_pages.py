"""The committed pages are what the committed results say."""

import pytest

from experiments.results import __main__ as pages
from experiments.results.__main__ import FOLDER, ROOT, both, number, render


def test_pages_are_those_of_the_results():
    for path, text in render().items():
        assert path.read_text() == text, f"{path}: run python -m experiments.results"
    assert (ROOT / pages.FIGURE).read_bytes().startswith(b"\x89PNG")


def test_every_result_is_shown_or_read():
    used = "".join(path.read_text() for path in (*FOLDER.glob("*.jinja"), *FOLDER.glob("*.py")))
    used += (FOLDER.parent / "README.md").read_text()
    for path in FOLDER.glob("*.json*"):
        assert path.name.partition(".json")[0] in used, path
    assert sum(path.stat().st_size for path in FOLDER.iterdir() if path.is_file()) < 3_000_000


@pytest.mark.parametrize(
    ("value", "text"), [(0.71234, ".7123"), (1.0, "1.0000"), (-0.25, "-.2500")]
)
def test_numbers_have_no_leading_zero(value, text):
    assert number(value) == text
    assert number(float("nan")) == ""


def test_differences_come_from_the_campaigns():
    """As a former report had it."""
    assert both("worlds-2.8-million", "ensemble", "solved-head") == "+.008 ±.001, +.008 ±.001"
