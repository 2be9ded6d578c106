"""Help texts: sentences are not broken where their docstring is."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import pytest
import tyro

from metaheac_jax.cli.help_text import join_lines


@dataclasses.dataclass
class Devices:
    """Of several
    devices."""

    mesh: str = "campaign=4"
    """Which devices,
    `campaign=4` or
    2 of them."""


@dataclasses.dataclass(kw_only=True)
class Timed:
    """Takes
    time."""

    minutes: int = 3
    """How long,
    3 or more."""


@dataclasses.dataclass(kw_only=True)
class Brew(Timed):
    """Makes tea.

    In one of these
    "ways":

    - Hot, with
      water.
    - Cold: with
      3 cubes.
    """

    amount: Annotated[int, tyro.conf.arg(name="cups")]
    """How many: at least
    2 for guests,
    --strong or not."""
    strong: bool = False
    plain: int = 1
    """One line."""
    devices: Devices = dataclasses.field(default_factory=Devices)


@dataclasses.dataclass
class Wash:
    """Cleans
    (a lot)."""


Command = (
    Annotated[Brew, tyro.conf.subcommand("brew")] | Annotated[Wash, tyro.conf.subcommand("wash")]
)


def help_of(capsys, monkeypatch, *words):
    """The lines of a help text, in a wide terminal, without frames."""
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        tyro.cli(Command, args=[*words, "--help"], prog="tea")
    return [" ".join(line.strip("│ \n").split()) for line in capsys.readouterr().out.splitlines()]


def test_lines_of_one_sentence_are_one_line(capsys, monkeypatch):
    join_lines(Command)
    join_lines(Command)  # once is enough
    brew = help_of(capsys, monkeypatch, "brew")
    texts = [
        "Makes tea.",
        'In one of these "ways":',
        "- Hot, with water.",
        "- Cold: with 3 cubes.",
        "--cups INT How many: at least 2 for guests, --strong or not. (required)",
        "--minutes INT How long, 3 or more. (default: 3)",
        "--plain INT One line. (default: 1)",
        "Of several devices.",
        "--devices.mesh STR Which devices, `campaign=4` or 2 of them. (default: campaign=4)",
    ]
    for text in texts:
        assert brew.count(text) == 1, text
    assert not any("Attributes" in line for line in brew)
    assert "Cleans (a lot)." in help_of(capsys, monkeypatch, "wash")


def test_a_list_of_subcommands_has_a_line_for_each(capsys, monkeypatch):
    join_lines(Command, brief=True)
    listed = help_of(capsys, monkeypatch)
    assert [line for line in listed if line.startswith("•")] == [
        "• brew Makes tea.",
        "• wash Cleans (a lot).",
    ]
    assert not any("In one of these" in line for line in listed)
    join_lines(Command)
    assert Brew.__doc__ is not None
    assert "In one of these" in Brew.__doc__
