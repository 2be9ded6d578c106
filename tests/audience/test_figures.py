"""The curve's figure: what it draws, and that equal points are equal bytes."""

import matplotlib.figure
import numpy as np
import pytest

from metaheac_jax.audience.curve import Estimate, SizePoint
from metaheac_jax.audience.figures import FORMATS, curve_figure

UNTOLD = Estimate(1, 0, 2)
POINTS = [
    SizePoint(p, 10 * p, UNTOLD, Estimate(p / 50, p / 60, p / 45), UNTOLD, UNTOLD)
    for p in (1, 5, 40)
]


@pytest.fixture
def made(monkeypatch):
    """The figures that are made."""
    figures = []

    class Kept(matplotlib.figure.Figure):
        def __init__(self, **options):
            super().__init__(**options)
            figures.append(self)

    monkeypatch.setattr(matplotlib.figure, "Figure", Kept)
    return figures


def test_it_shows_recall_with_its_interval_and_a_random_audience(made):
    curve_figure(POINTS, format="svg")
    [axes] = made[0].axes
    best, chance = axes.lines
    np.testing.assert_allclose(best.get_xydata(), [(p, 2 * p) for p in (1, 5, 40)])
    np.testing.assert_allclose(*chance.get_xydata().T)
    edges = axes.collections[0].get_paths()[0].vertices
    for p in (1, 5, 40):
        at = edges[np.isclose(edges[:, 0], p), 1]
        assert (at.min(), at.max()) == pytest.approx((100 * p / 60, 100 * p / 45))


@pytest.mark.parametrize("form", FORMATS)
def test_equal_points_are_equal_bytes(form):
    assert curve_figure(POINTS, format=form) == curve_figure(POINTS, format=form)
