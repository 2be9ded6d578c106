"""What all commands share: exit codes, progress, the cache, and how a process starts."""

import io
import os
import platform
import shutil
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
from commands import contents, exit_code, refuses
from rich.console import Console

from metaheac_jax.audience.tables import TextTable
from metaheac_jax.audience.workspace import is_work_folder, remove_work
from metaheac_jax.cli import terminal
from metaheac_jax.cli.main import main as metaheac
from metaheac_jax.errors import BackendError, Diverged, InputError
from metaheac_jax.files import locked, new_directory

OURS = '{"format": "metaheac_jax toy 1", "files": {}}'  # a manifest, as far as it is read

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
    ("error", "line"),
    [
        (InputError("a: bad; fix it"), "error: a: bad; fix it\n"),
        (InputError("two\n  lines"), "error: two lines\n"),
        (Diverged("step 3: the loss is nan"), "error: step 3: the loss is nan\n"),
        (BackendError("jaxlib is wrong"), "error: jaxlib is wrong\n"),
        (FileNotFoundError(2, "No such file", "x/y"), "error: x/y: No such file\n"),
        (OSError("no more"), "error: no more\n"),
        (
            MemoryError("Unable to allocate 7 GiB"),
            "error: not enough memory (Unable to allocate 7 GiB); work on less, or on a larger "
            "machine\n",
        ),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes."),
            "error: not enough memory (RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.); "
            "work on less, or on a larger machine\n",
        ),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_code_2(capsys, error, line):
    assert exit_code(raises(error), "--rate", 1) == 2
    assert capsys.readouterr().err == line


def test_a_backend_that_computes_wrongly_stops_a_command(capsys, monkeypatch):
    def wrong():
        raise BackendError("jaxlib computes wrongly")

    def begin():
        monkeypatch.setattr(terminal, "check_backend", wrong)
        start(lambda options: pytest.fail("was begun"))()

    assert exit_code(begin, "--rate", 1) == 2
    assert capsys.readouterr().err == "error: jaxlib computes wrongly\n"


def test_a_warning_is_one_line(capsys):
    def main(options):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("a checkpoint\n is damaged", stacklevel=1)

    assert exit_code(start(main), "--rate", 1) is None
    assert capsys.readouterr().err == "warning: a checkpoint is damaged\n"


#: Of a program of one command; what its `main` does comes between them.
HEAD = """
import os, signal, time
from dataclasses import dataclass
from metaheac_jax.audience.workspace import is_work_folder, remove_work
from metaheac_jax.cli import terminal
@dataclass
class Options:
    'Waits.'
def main(options):
"""
TAIL = """
terminal.command(Options, main, prog='x')
"""


def run_alone(body, *arguments, restarts=False, **streams):
    """Runs a command in a process of its own, which may start again as commands do."""
    environment = os.environ | {"GLIBC_TUNABLES": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    # Some versions of jaxlib log a line for each compiled program that they read.
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    if restarts:
        for name in ("GLIBC_TUNABLES", "TF_CPP_MIN_LOG_LEVEL"):
            environment.pop(name, None)
    program = [sys.executable, "-c", HEAD + body + TAIL, *arguments]
    return subprocess.run(program, env=environment, stderr=subprocess.PIPE, text=True, **streams)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_stops_a_command_in_one_line(name):
    """What is half-written is removed on the way."""
    if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        pytest.skip(f"{name} is ignored here, for example under nohup, and so by commands")
    body = f"""
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(60)
    finally:
        print('removed')
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


def test_output_that_is_closed_is_no_error(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    printed = start(lambda options: print("done", file=sys.stderr))
    assert exit_code(printed, "--rate", 1) is None
    sys.stdout.close()
    sys.stderr.close()


def test_a_letter_that_the_output_does_not_have_is_escaped(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", out)
    printed = start(lambda options: terminal.print_lines(terminal.screen(), "thé 茶"))
    assert exit_code(printed, "--rate", 1) is None
    out.flush()
    assert out.buffer.getvalue() == b"th\xe9 \\u8336\n"


@pytest.mark.slow
def test_help_that_nobody_reads_to_its_end_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    ran = run_alone("    raise AssertionError\n", "--help", stdout=writer)
    os.close(writer)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_an_interruption_is_code_130(capsys):
    assert exit_code(raises(KeyboardInterrupt()), "--rate", 1) == 130
    line = (
        "interrupted; run the same command again to continue, with --resume if it has that option\n"
    )
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("error", [ZeroDivisionError(), jax.errors.JaxRuntimeError("INTERNAL: x")])
def test_a_fault_of_the_program_is_shown(error):
    with pytest.raises(type(error)):
        exit_code(raises(error), "--rate", 1)


def test_a_command_gets_its_options_and_gives_its_code(capsys):
    given = []
    assert exit_code(start(given.append), "--rate", 0.5, "--deep", "--file-names", "a", "b") is None
    assert given == [Options(0.5, deep=True, file_names=("a", "b"))]
    assert exit_code(start(lambda options: 3), "--rate", 1) == 3
    assert exit_code(start(given.append)) == 2  # without --rate
    assert exit_code(start(given.append), "--rate", 1, "--no-deep") == 2
    assert len(given) == 1
    capsys.readouterr()
    assert exit_code(start(given.append), "--help") == 0
    assert "A command for tests." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--file-names", "a", "--file-names", "b"), "--file-names: is given twice; give it once"),
        (("--file-names", "a", "--file_names=b"), "--file-names: is given twice; give it once"),
        (("--rate", 2), "--rate: is given twice; give it once, with all its values"),
        (("--file-names", "--deep"), "--file-names: has no value; give one, or omit the option"),
        (("--deep", "--file_names"), "--file-names: has no value; give one, or omit the option"),
    ],
)
def test_no_value_of_an_option_is_dropped_in_silence(capsys, words, message):
    refuses(capsys, start(lambda options: None), "--rate", 1, *words, words=(message,))


def test_two_hyphens_end_the_options():
    given = []
    assert exit_code(start(given.append), "--rate", 1, "--file-names", "a", "--") is None
    assert given == [Options(1, file_names=("a",))]


def test_an_argument_that_is_no_text_is_refused(capsys):
    assert exit_code(start(lambda options: None), "--rate", "\udcff") == 2
    assert capsys.readouterr().err == "error: argument '\\udcff': is not UTF-8; rename the file\n"


def test_a_number_that_is_too_large_is_refused():
    terminal.check_minimum("--seed", 2**31 - 1, 0)
    with pytest.raises(InputError, match=r"--seed: expected at most 2147483647, got 9\.223e\+18"):
        terminal.check_minimum("--seed", 2**63, 0)


def test_a_number_that_is_too_small_is_refused():
    terminal.check_minimum("--runs", 1, 1)
    with pytest.raises(InputError, match="--runs: expected 1 or more, got 0"):
        terminal.check_minimum("--runs", 0, 1)


@pytest.mark.parametrize(
    "manifest",
    ["manifest.json", "model.json", "campaign.json", "scorer.json", "audiences.json", "world.json"],
)
def test_what_lies_in_a_folder_that_is_replaced_is_refused(tmp_path, manifest):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / manifest).write_text(OURS)
    terminal.check_place("--out", tmp_path / "old")
    terminal.check_place("--out", tmp_path / "new" / "deep")
    with pytest.raises(InputError, match=r"--out: .*new/deep lies in .*old, which commands"):
        terminal.check_place("--out", tmp_path / "old" / "new" / "deep")


def test_an_output_has_a_name_of_its_own(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("OUT: . has no name of its own; give a folder by its name",)
    refuses(capsys, metaheac, "fit", "../data", ".", words=words)
    for path in ("..", "june/..", "/"):
        with pytest.raises(InputError, match=rf"--out: {path} has no name of its own"):
            terminal.check_place("--out", Path(path))


@pytest.mark.parametrize("ending", [".training", ".customised"])
def test_names_and_folders_of_work_are_for_no_output(tmp_path, ending):
    (tmp_path / f"june{ending}").mkdir()
    with pytest.raises(
        InputError, match=rf"--out: .*june{ending}: names that end in .training or "
    ):
        terminal.check_place("--out", tmp_path / f"june{ending}")
    with pytest.raises(InputError, match=rf"--out: .*tea lies in .*june{ending}, which commands"):
        terminal.check_place("--out", tmp_path / f"june{ending}" / "tea")


@pytest.mark.parametrize("ending", [".training", ".customised"])
def test_only_work_is_in_a_folder_of_work(tmp_path, ending):
    folder = tmp_path / f"june.1{ending}"
    names = {
        ".training": ("checkpoints", "checkpoints.json", "log.jsonl", ".checkpoints.lock"),
        ".customised": (f"{'a' * 32}-{'b' * 64}.npz", f".x.npz.{'c' * 32}", "solved-head"),
    }
    assert terminal.work_folder("OUT", tmp_path / "june.1", ending) == folder
    folder.mkdir()
    for name in names[ending]:
        (folder / name).mkdir() if name == "checkpoints" else (folder / name).touch()
    (folder / f".log.{'c' * 32}").touch()
    assert terminal.work_folder("OUT", tmp_path / "june.1", ending) == folder
    (folder / "campaign.json").touch()
    with pytest.raises(InputError, match=rf"OUT: .*june.1{ending}/campaign.json is not of the"):
        terminal.work_folder("OUT", tmp_path / "june.1", ending)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("OUT", ("simulate", "old/new")),
        ("DATA", ("prepare", "source", "old/new")),
        ("OUT", ("fit", "old", "old/new")),
        ("--out", ("export", "tea", "--data", "old", "--out", "old/new")),
        ("--out", ("customise", "model", "--data", "old", "--seeds", "x", "--attributes", "x")),
        ("--out", ("expand", "model", "--data", "old", "--campaigns", "x", "--size", "5")),
    ],
)
def test_no_command_writes_into_a_folder_that_is_replaced(
    tmp_path, capsys, monkeypatch, option, words
):
    monkeypatch.chdir(tmp_path)
    for name in ("old", "source", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "old" / "manifest.json").write_text(OURS)
    (tmp_path / "x").write_text('{"name": "tea", "seeds": "x", "attributes": {}}')
    out = () if "old/new" in words else ("--out", "old/new")
    refused = (f"{option}: old/new lies in {tmp_path / 'old'}, which commands replace as a whole",)
    refuses(capsys, metaheac, *words, *out, words=refused)
    assert contents(tmp_path / "old") == {"manifest.json"}


def test_no_output_replaces_an_input(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.csv").symlink_to("seeds.csv")
    terminal.check_output("--out", tmp_path / "new.csv", tmp_path / "seeds.csv", None)
    with pytest.raises(InputError, match=r"--out: .*seeds.csv would replace a file that is read"):
        terminal.check_output("--out", tmp_path / "seeds.csv", None, Path("link.csv"))


def test_a_folder_is_replaced_if_it_is_of_the_kind_or_empty(tmp_path):
    terminal.check_output_folder("--out", tmp_path / "tea", "campaign.json", "a campaign")
    (tmp_path / "tea").mkdir()
    terminal.check_output_folder("--out", tmp_path / "tea", "campaign.json", "a campaign")
    (tmp_path / "tea" / "thesis").touch()
    with pytest.raises(InputError, match=r"--out: .*tea: exists and is not a campaign, or has"):
        terminal.check_output_folder("--out", tmp_path / "tea", "campaign.json", "a campaign")
    manifest = tmp_path / "tea" / "campaign.json"
    manifest.write_text('{"format": "another program\'s", "files": {}}')
    with pytest.raises(InputError, match=r"--out: .*tea: exists and is not a campaign, or has"):
        terminal.check_output_folder("--out", tmp_path / "tea", "campaign.json", "a campaign")
    manifest.write_text('{"format": "metaheac_jax campaign 1", "files": {"thesis": 1}}')
    terminal.check_output_folder("--out", tmp_path / "tea", "campaign.json", "a campaign")
    # Of a folder whose manifest is cut off, nobody knows which files are its own.
    manifest.write_text('{"format": "metaheac_jax campaign 1", "files": {"thesis": 1}')
    with pytest.raises(InputError, match=r"--out: .* or has a damaged campaign.json; remove it"):
        terminal.check_output_folder("--out", tmp_path / "tea", "campaign.json", "a campaign")
    with (
        pytest.raises(InputError, match=r"tea: exists and has no campaign.json .* or a damaged"),
        new_directory(tmp_path / "tea", marker="campaign.json"),
    ):
        pass
    assert (tmp_path / "tea" / "thesis").exists()


def test_a_folder_is_not_replaced_with_somebodys_file_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    place = ("--out", Path("tea"), "campaign.json", "a campaign")
    for folder in ("tea/adapted", "tea/optimizer", "tea/.cache", "tea/mine"):
        Path(folder).mkdir(parents=True)
    own = '{"format": "metaheac_jax campaign 1", "files": {"a.npy": {}, "adapted/b.npy": {}}}'
    Path("tea", "campaign.json").write_text(own)
    Path("tea", "optimizer", "optimizer.json").write_text(
        '{"format": "metaheac_jax toy 1", "files": {"c.npy": 1}}'
    )
    for name in ("a.npy", "adapted/b.npy", "optimizer/c.npy", ".DS_Store", ".cache/d"):
        Path("tea", name).touch()
    terminal.check_output_folder(*place)
    Path("tea", "audience.csv.json").write_text(OURS)
    lost = r"audience\.csv\.json in it would be lost"
    with pytest.raises(InputError, match=lost):
        terminal.check_output_folder(*place)
    Path("tea", "audience.csv.json").unlink()
    for name in ("brief.txt", "adapted/notes", "optimizer/notes", "mine/campaign.json"):
        Path("tea", name).write_text(OURS)
        lost = f"tea is replaced as a whole, and {name} in it would be lost; move it away"
        with pytest.raises(InputError, match=f"--out: {lost}"):
            terminal.check_output_folder(*place)
        Path("shown.csv").write_text("user_id,converted\n1,1\n")
        refuses(capsys, metaheac, "feedback", "tea", "shown.csv", words=(f"CAMPAIGN: {lost}",))
        Path("tea", name).unlink()


def test_checkpoints_of_another_program_are_not_of_a_training(tmp_path):
    folder = tmp_path / "june.training"
    (folder / "checkpoints").mkdir(parents=True)
    assert is_work_folder(folder)
    (folder / "checkpoints" / "mine.pt").touch()
    assert not is_work_folder(folder)
    remove_work(folder)
    assert (folder / "checkpoints" / "mine.pt").exists()
    (folder / "checkpoints.json").touch()
    remove_work(folder)
    assert not folder.exists()


def test_a_kill_while_work_is_removed_leaves_no_half_training(tmp_path, monkeypatch):
    folder, rmtree = tmp_path / "june.training", shutil.rmtree
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("checkpoints.json", "checkpoints/10", "checkpoints/20"):
        (folder / name).touch()

    def killed(path, **_):
        Path(path, "checkpoints.json").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_work(folder)
    assert not folder.exists()
    monkeypatch.setattr(shutil, "rmtree", rmtree)
    with locked(tmp_path / "june"):  # the next command on the model
        assert contents(tmp_path) == {".june.lock"}


@pytest.mark.parametrize(
    "words",
    [
        ("feedback", "tea", "told.csv", "tea/told.csv"),
        ("update", "tea", "--data", "data", "--exclude", "tea/out.csv"),
        ("update", "tea", "--data", "data", "--readmit", "tea/out.csv"),
        ("update", "tea", "--data", "tea/data"),
        ("fit", "data", "tea", "--from", "tea/old"),
        ("fit", "data", "tea", "--with", "tea/old"),
        ("export", "old", "--data", "tea/data", "--out", "tea"),
        ("prepare", "tea/source", "tea"),
    ],
)
def test_no_command_replaces_its_input(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tea" / "source").mkdir(parents=True)
    for name in ("model.json", "manifest.json", "scorer.json"):
        (tmp_path / "tea" / name).write_text(OURS)
    before = contents(tmp_path / "tea")
    refuses(capsys, metaheac, *words, words=("tea would be replaced as a whole, and tea/",))
    assert contents(tmp_path / "tea") == before


def test_no_folder_is_replaced_with_an_input_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = ("--out", tmp_path / "tea", "campaign.json", "a campaign")
    terminal.check_output_folder(*place, None, Path("tea"), Path("tea.csv"))
    (tmp_path / "link").symlink_to("tea")
    for name in ("tea/seeds.csv", "link/deep/seeds.csv"):
        with pytest.raises(InputError, match=rf"tea would be replaced as a whole, and {name} in"):
            terminal.check_output_folder(*place, Path("seeds.csv"), Path(name))


# Progress ---------------------------------------------------------------------------------------


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
    assert threading.active_count() == threads


def test_lines_of_progress_become_rare():
    assert [terminal._pause(own) for own in (0, 40, 200, 1200, 9999)] == [2, 2, 10, 60, 60]


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


def test_a_name_in_brackets_is_shown_as_it_is():
    line, out = "[red]a[/b] :smile:", io.StringIO()
    terminal.print_lines(Console(file=out, width=140), line)
    assert out.getvalue() == f"{line}\n"
    out = io.StringIO()
    console = Console(file=out, width=140, force_terminal=True, color_system=None)
    with terminal.progress_display(console) as progress:
        progress(f"users of {line}", 1, 2)
    assert f"users of {line}" in out.getvalue()


def test_a_narrow_terminal_folds_names_and_cuts_no_number():
    names = [f"june/{i}/first.csv" for i in range(6)]
    cells = [f"{i},000,000" for i in range(6)]
    table = TextTable("", ["audience", *names], [[name, *cells] for name in names])
    out = io.StringIO()
    terminal.print_table(Console(file=out, width=80), table)
    lines = out.getvalue().splitlines()
    assert sum(all(cell in line for cell in cells) for line in lines) == len(names)
    assert max(map(len, lines)) == 80
    folded = [[part.strip() for part in line.split("│")] for line in lines if "│" in line]
    assert "".join(parts[1] for parts in folded) == "".join(names)


def test_what_is_no_terminal_gets_lines_of_any_width(monkeypatch):
    out, name = io.StringIO(), "a name " * 100
    monkeypatch.setattr(sys, "stdout", out)
    terminal.print_table(terminal.screen(), TextTable("", ["name", "users"], [[name, "1,000"]]))
    assert any(name in line and "1,000" in line for line in out.getvalue().splitlines())
    assert len(out.getvalue()) < 10_000


# The process ------------------------------------------------------------------------------------


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_a_command_starts_again_with_huge_pages_once(monkeypatch):
    started = []
    monkeypatch.setattr(os, "execv", lambda *words: started.append(words))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "metaheac_jax", "fit", "a b"])
    monkeypatch.setenv("GLIBC_TUNABLES", "the user's own")
    terminal.start_again()
    assert not started
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")  # the user's own
    terminal.start_again()
    words = [sys.executable, "-m", "metaheac_jax", "fit", "a b"]
    assert started == [(sys.executable, words)]
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"
    terminal.start_again()  # as the new process does
    assert len(started) == 1


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc's allocator")
def test_a_command_has_a_quiet_log_although_jax_sets_one():
    body = "    print(os.environ['TF_CPP_MIN_LOG_LEVEL'], os.environ['GLIBC_TUNABLES'])\n"
    ran = run_alone(body, restarts=True, stdout=subprocess.PIPE)
    assert (ran.stdout, ran.stderr) == ("3 glibc.malloc.hugetlb=1\n", "")


def test_compiled_programs_are_kept_unless_the_user_says_where(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    try:
        jax.config.update(names[0], str(tmp_path / "own"))
        terminal.keep_compiled()
        assert jax.config.values[names[0]] == str(tmp_path / "own")
        jax.config.update(names[0], None)
        terminal.keep_compiled()
        assert jax.config.values[names[0]] == str(tmp_path / "metaheac_jax" / "compiled")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert terminal.cache_folder() == tmp_path / "metaheac_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert terminal.cache_folder() == tmp_path / ".cache" / "metaheac_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert terminal.cache_folder() == tmp_path / ".cache" / "metaheac_jax"


def test_a_cache_needs_no_home_unless_it_lies_there(tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(terminal.Path, "home", homeless)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert terminal.cache_folder() == tmp_path / "metaheac_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(InputError, match="no home folder for the cache; set XDG_CACHE_HOME to a"):
        terminal.cache_folder()
