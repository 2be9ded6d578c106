"""Gains and rates of converts, as ``metaheac evaluate`` and ``metaheac outcome`` show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from metaheac_jax.audience.calibration import CalibrationBin, expected_calibration_error
from metaheac_jax.audience.gains import Gain
from metaheac_jax.audience.tables import gains_table, rates_table
from metaheac_jax.cli import terminal


def gains_facts(gains: Sequence[Gain], bins: Sequence[CalibrationBin]) -> dict[str, Any]:
    """Gains, calibration and its error as plain data; the error is None without calibration."""
    return {
        "gains": [{**asdict(own), "rate": own.rate} for own in gains],
        "calibration": list(map(asdict, bins)),
        "calibration_error": expected_calibration_error(bins) if bins else None,
    }


def print_gains(
    screen: Console, gains: Sequence[Gain], bins: Sequence[CalibrationBin], *, of: str = ""
) -> None:
    """Prints a gains table and a calibration table, if there are any, below titles.

    Args:
      screen: where to print.
      gains: rows of the first table.
      bins: rows of the second.
      of: what the titles begin with.
    """
    if gains:
        terminal.print_lines(screen, "", f"{of}gains by tenth of the users, best first")
        terminal.print_table(screen, gains_table(gains))
    if bins:
        error = f"expected calibration error {expected_calibration_error(bins):.4f}"
        terminal.print_lines(screen, "", f"{of}rates of converts, {error}")
        terminal.print_table(screen, rates_table(bins))
