"""Help: short, complete, and printed without loading jax."""

import dataclasses
import subprocess
import sys
from typing import get_args

import pytest
from commands import exit_code, explanations

from metaheac_jax.cli.main import Command, main

COMMANDS = {get_args(own)[1].name: get_args(own)[0] for own in get_args(Command)}
MAX_LINES, MAX_OPTIONS = 60, 40


def test_there_are_nine_commands(capsys):
    names = "simulate prepare add fit expand explain evaluate export doctor"
    assert [*COMMANDS] == names.split()
    assert exit_code(main, "--help") == 0
    assert len(capsys.readouterr().out.splitlines()) <= MAX_LINES
    fields = [field.name for own in COMMANDS.values() for field in dataclasses.fields(own)]
    folders = {"world", "source", "model", "data"}
    assert sum(name not in folders for name in fields) <= MAX_OPTIONS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_short_and_explains_every_option(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    explanations(capsys, main, COMMANDS[name], name)
    assert exit_code(main, name, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 100


def test_help_takes_less_than_a_second_of_computing_and_loads_no_jax():
    code = (
        "import sys, time; sys.argv = ['metaheac', 'expand', '--help']\n"
        "from metaheac_jax.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert ended.code == 0\n"
        "print('loaded:', *sorted({'jax', 'polars', 'scipy', 'orbax'} & sys.modules.keys()))\n"
        "print('seconds:', time.process_time())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, loaded, seconds = ran.stdout.splitlines()
    assert loaded.strip() == "loaded:"
    assert float(seconds.split()[1]) < 1
