"""Figures of an audience. They need Matplotlib (``pip install 'metaheac-jax[figures]'``)."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

from metaheac_jax.audience.curve import SizePoint
from metaheac_jax.errors import InputError

#: Formats of `curve_figure`.
FORMATS = ("png", "svg")


def curve_figure(points: Sequence[SizePoint], *, format: str) -> bytes:
    """Plots the recall of held-out seeds against the audience size, on a logarithmic axis.

    Args:
      points: from `curve.size_curve`.
      format: one of `FORMATS`.

    Raises:
      InputError: Matplotlib is not installed.
    """
    matplotlib = load_matplotlib()
    figure = matplotlib.figure.Figure(figsize=(4.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    percents = [point.percent for point in points]
    recall = [100 * point.recall.value for point in points]
    low = [100 * point.recall.low for point in points]
    high = [100 * point.recall.high for point in points]
    axes.fill_between(percents, low, high, color="#cfe0f5", linewidth=0, label="95% interval")
    axes.plot(percents, recall, "o-", color="#1f4e8c", clip_on=False, label="best users")
    # Recall equal to size is a curve on the logarithmic axis, so it takes many points.
    fine = [percents[0] * (percents[-1] / percents[0]) ** (i / 50) for i in range(51)]
    axes.plot(fine, fine, "--", color="#666666", label="random users")
    axes.set(
        xscale="log",
        ylim=(0, 100),
        xlabel="size of the audience, % of the pool",
        ylabel="held-out seeds found, %",
    )
    axes.set_xticks(percents, [f"{percent:g}" for percent in percents])
    axes.minorticks_off()
    axes.grid(color="#e3e3e3")
    axes.legend(loc="upper left", fontsize=9)
    out = BytesIO()
    # Without dates and random names, equal points give equal bytes.
    metadata = {"Date": None} if format == "svg" else {}
    with matplotlib.rc_context({"svg.hashsalt": "metaheac_jax"}):
        figure.savefig(out, format=format, dpi=200, metadata=metadata)
    return out.getvalue()


def load_matplotlib() -> Any:
    """Imports Matplotlib with its figures.

    Raises:
      InputError: Matplotlib is not installed.
    """
    try:
        import matplotlib.figure
    except ImportError as error:
        raise InputError(
            "figures need Matplotlib; install it with pip install 'metaheac-jax[figures]'"
        ) from error
    return matplotlib
