"""What all commands share: exit codes, progress, the cache, and how a process starts."""

import io
import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass

import jax
import polars as pl
import pytest
from commands import exit_code
from rich.console import Console

from metaheac_jax import backend
from metaheac_jax.cli import terminal
from metaheac_jax.errors import BackendError, Busy, Diverged, InputError

# Exit codes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Options:
    """A command for tests."""

    rate: float
    """Any number."""
    deep: bool = False
    """A switch."""
    file_names: tuple[str, ...] = ()
    """Any files."""


def start(main):
    return lambda: terminal.command(Options, main, prog="test", description=None)


def raises(error):
    def main(options):
        raise error

    return start(main)


MEMORY = "work on less, or on a larger machine"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("two\n  lines \x1b[2J"), 2, "error: two lines \ufffd[2J"),
        (Busy("a: busy"), 75, "error: a: busy"),
        (Diverged("step 3: the loss is nan"), 2, "error: step 3: the loss is nan"),
        (FileNotFoundError(2, "No such file", "x/y"), 2, "error: x/y: No such file"),
        (MemoryError("7 GiB"), 2, f"error: not enough memory (7 GiB); {MEMORY}"),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"),
            2,
            f"error: not enough memory (RESOURCE_EXHAUSTED: Out of memory); {MEMORY}",
        ),
        (KeyboardInterrupt(), 130, f"stopped; {terminal._AGAIN}"),
    ],
)
def test_what_a_user_can_mend_is_one_line(capsys, error, code, line):
    assert exit_code(raises(error), "--rate", 1) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_a_backend_that_computes_wrongly_stops_a_command(capsys, monkeypatch):
    def wrong():
        raise BackendError("jaxlib computes wrongly")

    def begin():
        monkeypatch.setattr(backend, "check_backend", wrong)
        start(lambda options: pytest.fail("was begun"))()

    assert exit_code(begin, "--rate", 1) == 2
    assert capsys.readouterr().err == "error: jaxlib computes wrongly\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), jax.errors.JaxRuntimeError("INTERNAL: x")])
def test_a_fault_of_the_program_is_shown(error):
    with pytest.raises(type(error)):
        exit_code(raises(error), "--rate", 1)


def test_a_command_gets_its_options(capsys):
    given = []
    words = ("--rate", 0.5, "--deep", "--file-names", "a", "b")
    assert exit_code(start(given.append), *words) == 0
    assert given == [Options(0.5, deep=True, file_names=("a", "b"))]
    assert exit_code(start(given.append)) == 2  # without --rate
    assert exit_code(start(given.append), "--rate", 1, "--no-deep") == 2
    assert len(given) == 1


# The process ------------------------------------------------------------------------------------

#: Of a program of one command; what its `main` does comes between them.
HEAD = """
import os, signal, sys, time
from dataclasses import dataclass
from metaheac_jax.cli import terminal
@dataclass
class Options:
    'Waits.'
def main(options):
"""
TAIL = """
terminal.command(Options, main, prog='x')
"""


def run_alone(body, *arguments, **streams):
    """Runs a command in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    # Some versions of jaxlib log a line for each compiled program that they read.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    program = [sys.executable, "-c", HEAD + body + TAIL, *arguments]
    return subprocess.run(program, env=environment, stderr=subprocess.PIPE, text=True, **streams)


def test_a_signal_stops_a_command_in_one_line():
    """What is half-written is removed on the way."""
    body = """
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    finally:
        print('removed')
"""
    ran = run_alone(body, stdout=subprocess.PIPE)
    assert (ran.returncode, ran.stdout) == (130, "removed\n")
    assert ran.stderr == f"stopped; {terminal._AGAIN}\n"


def test_help_that_nobody_reads_to_its_end_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    ran = run_alone("    raise AssertionError\n", "--help", stdout=writer)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (-signal.SIGPIPE, "")


def test_a_letter_that_the_output_does_not_have_is_escaped(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    printed = start(lambda options: terminal.print_lines("thé 茶"))
    assert exit_code(printed, "--rate", 1) == 0
    out.flush()
    assert out.buffer.getvalue() == b"th\xe9 \\u8336\n"


# What is printed --------------------------------------------------------------------------------


def test_a_warning_is_one_line(capsys):
    def main(options):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a checkpoint\n is \x1b[1mdamaged", stacklevel=1)

    assert exit_code(start(main), "--rate", 1) == 0
    assert capsys.readouterr().err == "warning: a checkpoint is \ufffd[1mdamaged\n"


@pytest.fixture(params=[False, True])
def console(request, monkeypatch):
    """The console of a command, which writes to a pipe or to a terminal."""
    own = Console(file=io.StringIO(), width=140, force_terminal=request.param, color_system=None)
    monkeypatch.setattr(terminal, "screen", lambda: own)
    return own


def test_text_from_data_is_shown_and_not_obeyed(monkeypatch, console):
    monkeypatch.setattr(terminal, "_SECONDS", 0)
    name, shown = "[red]a[/b] :smile: \x1b]0;x\x07", "[red]a[/b] :smile: \ufffd]0;x\ufffd"
    terminal.print_lines(name)
    assert console.file.getvalue() == f"{shown}\n"
    terminal.print_table(name, pl.DataFrame({"name": [name], "users": [1000]}))
    with terminal.progress_display() as progress:
        progress(f"users of {name}", 1, 2)
    out = console.file.getvalue()
    assert out.count(shown) >= 4
    assert "1,000" in out
    assert not {"\x07", "\x1b]"} & {out[i : i + n] for n in (1, 2) for i in range(len(out))}


def test_a_pipe_gets_a_line_now_and_then_and_a_terminal_one_that_changes(monkeypatch, console):
    monkeypatch.setattr(terminal, "_SECONDS", 0.3)
    with terminal.progress_display() as progress:
        progress("train", 1, 20_000)
        time.sleep(0.3)
        progress("train: held-out AUC 0.5", 1_500, 20_000)
        progress("train", 1_501, 20_000)
    out = console.file.getvalue()
    if console.is_terminal:
        assert "train  1,501/20,000" in out
        assert not out.endswith("20,000\n")
    else:
        assert out == "     0 s  train: held-out AUC 0.5  1,500/20,000\n"
