"""What all commands share: exit codes, progress, the cache, and how a process starts."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import jax
import pytest
from commands import exit_code
from rich.console import Console

from metaheac_jax import backend
from metaheac_jax.audience.gains import TextTable
from metaheac_jax.cli import devices, terminal
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


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a: bad; fix it"), 2, "error: a: bad; fix it\n"),
        (InputError("two\n  lines \x1b[2J"), 2, "error: two lines \ufffd[2J\n"),
        (Busy("a: busy"), 75, "error: a: busy\n"),
        (Diverged("step 3: the loss is nan"), 2, "error: step 3: the loss is nan\n"),
        (FileNotFoundError(2, "No such file", "x/y"), 2, "error: x/y: No such file\n"),
        (OSError("no more"), 2, "error: no more\n"),
        (MemoryError("7 GiB"), 2, "error: not enough memory (7 GiB); work on less, or on a larger "
         "machine\n"),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of\nmemory"), 2,
         "error: not enough memory (RESOURCE_EXHAUSTED: Out of memory); work on less, or on a "
         "larger machine\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to continue, with "
         "--resume if it has that option\n"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line(capsys, error, code, line):
    assert exit_code(raises(error), "--rate", 1) == code
    assert capsys.readouterr().err == line


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
    capsys.readouterr()
    assert exit_code(start(given.append), "--help") == 0
    assert "A command for tests." in capsys.readouterr().out


# The process ------------------------------------------------------------------------------------

#: Of a program of one command; what its `main` does comes between them.
HEAD = """
import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from metaheac_jax.cli import devices, terminal
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


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_stops_a_command_in_one_line(name):
    """What is half-written is removed on the way."""
    body = f"""
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(60)
    finally:
        print('removed')
signal.signal(signal.{name}, signal.SIG_DFL)
"""
    ran = run_alone(body, stdout=subprocess.PIPE)
    assert ran.returncode == 128 + getattr(signal, name)
    assert ran.stderr.startswith("stopped; ")
    assert (ran.stdout, ran.stderr.count("\n")) == ("removed\n", 1)


def test_a_signal_that_is_ignored_at_the_start_stays_ignored():
    """As ``nohup`` ignores SIGHUP."""
    body = """
    os.kill(os.getpid(), signal.SIGHUP)
    print('goes on')
signal.signal(signal.SIGHUP, signal.SIG_IGN)
"""
    ran = run_alone(body, stdout=subprocess.PIPE)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "goes on\n", "")


def test_help_that_nobody_reads_to_its_end_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    ran = run_alone("    raise AssertionError\n", "--help", stdout=writer)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_what_prints_help_imports_neither_jax_nor_polars():
    """Here without the package's own door, which is imported first."""
    program = """
import sys, types
package = sys.modules["metaheac_jax"] = types.ModuleType("metaheac_jax")
package.__path__ = [sys.argv[1]]
import metaheac_jax.cli.terminal
print(sorted({"jax", "polars", "orbax", "numpy", "optax"} & set(sys.modules)))
"""
    words = [sys.executable, "-c", program, str(Path(backend.__file__).parent)]
    ran = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def test_a_letter_that_the_output_does_not_have_is_escaped(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    printed = start(lambda options: terminal.print_lines(terminal.screen(), "thé 茶"))
    assert exit_code(printed, "--rate", 1) == 0
    out.flush()
    assert out.buffer.getvalue() == b"th\xe9 \\u8336\n"


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert terminal.cache_folder() == tmp_path / ".cache" / "metaheac_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert terminal.cache_folder() == tmp_path / "metaheac_jax"
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    try:
        for own in (str(tmp_path / "own"), None):
            jax.config.update(names[0], own)
            terminal.keep_compiled()
            kept = str(tmp_path / "metaheac_jax" / "compiled")
            assert jax.config.values[names[0]] == (own or kept)
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


# Outputs ----------------------------------------------------------------------------------------


def test_an_output_file_is_checked_before_the_work(tmp_path, monkeypatch, writers):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds.csv").write_text("")
    (tmp_path / "link.csv").symlink_to("seeds.csv")
    check = lambda name, *inputs, **more: terminal.check_output(  # noqa: E731
        "--out", tmp_path / name, *inputs, **more
    )
    check("new.CSV.gz", tmp_path / "seeds.csv", None, endings=terminal.TABLE_ENDINGS)
    refused = {
        "seeds.csv": "would replace a file that is read",
        "link.csv": "would replace a file that is read",
        "new.txt": "expected a name that ends with .parquet or .csv",
        "none/new.csv": "none is not a folder; make it first",
        "folder.csv": "folder.csv is not a regular file",
    }
    (tmp_path / "folder.csv").mkdir()
    for name, told in refused.items():
        with pytest.raises(InputError, match=f"--out: .*{told}"):
            check(name, tmp_path / "seeds.csv", endings=terminal.TABLE_ENDINGS)
    with writers.of(tmp_path / "busy.csv"), pytest.raises(Busy):
        check("busy.csv")


def test_an_output_folder_is_checked_before_the_work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check = lambda name, *inputs: terminal.check_output_folder(  # noqa: E731
        "OUT", Path(name), "model.json", "a model", *inputs
    )
    for name in ("empty", "other", "ours"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "model.json").write_text('{"format": "another program\'s"}')
    (tmp_path / "ours" / "model.json").write_text('{"format": "metaheac_jax model 1"}')
    for name in ("new", "empty", "ours"):
        check(name, None, tmp_path / "seeds.csv")
    for name in (".", "..", "ours/.."):
        with pytest.raises(InputError, match=r"OUT: .* has no name of its own"):
            check(name)
    with pytest.raises(InputError, match="OUT: other exists and is not a model; remove it"):
        check("other")
    (tmp_path / "link").symlink_to("ours")
    for given in ("ours", "ours/seeds.csv", "link/deep/seeds.csv"):
        with pytest.raises(InputError, match=f"OUT: ours would be replaced, and {given} is read"):
            check("ours", Path(given))


# What is printed --------------------------------------------------------------------------------


def test_a_warning_is_one_line(capsys):
    def main(options):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a checkpoint\n is \x1b[1mdamaged", stacklevel=1)

    assert exit_code(start(main), "--rate", 1) == 0
    assert capsys.readouterr().err == "warning: a checkpoint is \ufffd[1mdamaged\n"


@pytest.mark.parametrize("is_terminal", [False, True])
def test_text_from_data_is_shown_and_not_obeyed(monkeypatch, is_terminal):
    monkeypatch.setattr(terminal, "_SECONDS", 0.01)
    name, out = "[red]a[/b] :smile: \x1b]0;x\x07", io.StringIO()
    shown = "[red]a[/b] :smile: \ufffd]0;x\ufffd"
    console = Console(file=out, width=140, force_terminal=is_terminal, color_system=None)
    terminal.print_lines(console, name)
    assert out.getvalue() == f"{shown}\n"
    terminal.print_table(console, TextTable(name, [name, "users"], [[name, "1,000"]]))
    with terminal.progress_display(console) as progress:
        progress(f"users of {name}", 1, 2)
        time.sleep(0.1)
    assert out.getvalue().count(shown) >= 5
    assert "\x07" not in out.getvalue()
    assert "\x1b]" not in out.getvalue()


def test_a_pipe_gets_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(terminal, "_SECONDS", 0.01)
    out, threads = io.StringIO(), threading.active_count()
    with terminal.progress_display(Console(file=out, width=140)) as progress:
        progress("train: loss 0.5", 1_500, 20_000)
        ends = time.monotonic() + 60
        while "loss" not in out.getvalue() and time.monotonic() < ends:
            time.sleep(0.01)
        time.sleep(0.2)
    assert out.getvalue().endswith(" s  train: loss 0.5  1,500/20,000\n")
    assert out.getvalue().count("loss") == 1  # nothing has changed since
    assert threading.active_count() <= threads


def test_a_terminal_gets_a_bar_for_each_piece_of_work():
    out = io.StringIO()
    console = Console(file=out, width=140, force_terminal=True, color_system=None)
    with terminal.progress_display(console) as progress:
        progress("train: loss 0.5", 1, 2)
        progress("train: loss 0.25", 2, 2)
        progress("score", 3, 7)
    shown = out.getvalue().split("\n")
    assert any("train: loss 0.25" in line and "2/2" in line for line in shown)
    assert any("score" in line and "3/7" in line for line in shown)


def test_a_narrow_terminal_folds_names_and_cuts_no_number():
    names = [f"june/{i}/first.csv" for i in range(5)]
    cells = [f"{i},000,000" for i in range(5)]
    table = TextTable("", ["audience", *"abcde"], [[name, *cells] for name in names])
    out = io.StringIO()
    terminal.print_table(Console(file=out, width=80), table)
    lines = out.getvalue().splitlines()
    assert sum(all(cell in line for cell in cells) for line in lines) == len(names)
    assert max(map(len, lines)) <= 80
    folded = [[part.strip() for part in line.split("│")] for line in lines if "│" in line]
    assert "".join(parts[1] for parts in folded) == "".join(names)


def test_what_is_no_terminal_gets_lines_of_any_width(monkeypatch):
    out, name = io.StringIO(), "a name " * 100
    monkeypatch.setattr(sys, "stdout", out)
    terminal.print_table(terminal.screen(), TextTable("", ["name", "users"], [[name, "1,000"]]))
    assert any(name in line and "1,000" in line for line in out.getvalue().splitlines())
    assert len(out.getvalue()) < 10_000


# Devices ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"process": "0/2"}, "--process: only with --coordinator"),
        ({"coordinator": "auto"}, "--coordinator: only with --mesh"),
        ({"mesh": "row=2", "coordinator": "auto", "process": "0/2"}, "--process: not with"),
        ({"mesh": "row=2", "coordinator": "h:1", "process": "2/2"}, "--process: expected 0/2"),
        ({"mesh": "row=2", "coordinator": "h:1"}, "--process: expected 0/2 or 1/2"),
    ],
)
def test_options_for_processes_go_together(given, told):
    options = {"mesh": None, "coordinator": None, "process": None, **given}
    with pytest.raises(InputError, match=told):
        devices.join_others(**options)
