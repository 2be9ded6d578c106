"""Parts that all commands share: progress, one-line errors, exit codes, and start-up."""

from __future__ import annotations

import io
import logging
import os
import platform
import shlex
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import pairwise, takewhile
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.table import Table
from rich.text import Text

from metaheac_jax import model
from metaheac_jax.audience import campaign_folder
from metaheac_jax.audience.tables import TextTable
from metaheac_jax.audience.workspace import (
    AUDIENCES,
    CUSTOMISED,
    TRAINING,
    foreign_in,
    is_work_folder,
)
from metaheac_jax.backend import check_backend, set_cpu_flags
from metaheac_jax.cli.help_text import join_lines
from metaheac_jax.customise import export
from metaheac_jax.data import simulation, storage
from metaheac_jax.errors import MAX_WHOLE, BackendError, Busy, Diverged, InputError, message_of
from metaheac_jax.files import foreign_file, is_marked, is_replaceable, locked
from metaheac_jax.processes import is_first
from metaheac_jax.progress import Progress

O = TypeVar("O")

#: Manifests of the folders that commands replace as a whole.
_REPLACED = (
    storage.MANIFEST,
    model.MANIFEST,
    campaign_folder.MANIFEST,
    export.MANIFEST,
    AUDIENCES,
    simulation.MANIFEST,
)

#: Exit code of a command that has done its work and has found something wrong.
FAULTS = 3
#: Exit code where the same command may succeed later; the number is that of sysexits.h.
BUSY = 75
_AGAIN = "run the same command again to continue, with --resume if it has that option"
_SECONDS, _MOST_SECONDS = 2.0, 60.0  # least and most time between two lines of progress
_ANY_WIDTH = 1_000_000  # characters of a line in a file or pipe: none is folded
_LEAST_NAME = 4  # characters of a name in a line of a narrow table
_COMPILED_SECONDS = 0.1  # programs that compile faster are not kept


def cache_folder() -> Path:
    """The folder of files that later commands reuse.

    Raises:
      InputError: the user has no home folder, and ``XDG_CACHE_HOME`` does not name another.
    """
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise InputError("no home folder for the cache; set XDG_CACHE_HOME to a folder") from error
    return Path(cache) / "metaheac_jax"


def keep_compiled() -> None:
    """Keeps compiled programs for later processes, unless the user has set jax's own cache."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _COMPILED_SECONDS)


def screen() -> Console:
    """The console of a command: the terminal, or a file or pipe with lines of any width.

    If there are several processes, only the first one prints.
    """
    quiet = not is_first()
    console = Console(quiet=quiet)
    return console if console.is_terminal else Console(width=_ANY_WIDTH, quiet=quiet)


def print_lines(console: Console, *lines: str) -> None:
    """Prints lines verbatim."""
    for line in lines:
        console.print(Text(line), soft_wrap=True)


def quoted(path: Path) -> str:
    """A path as a word of a command that can be pasted into a shell."""
    return shlex.quote(str(path))


def print_table(console: Console, table: TextTable) -> None:
    """Prints a table, with its text verbatim: long names are folded, and no number is cut."""
    printed, count = Table(title=Text(table.title)), table.num_names
    numbers = ([row[i] for row in table.rows] for i in range(count, len(table.header)))
    widths = [max(map(len, " ".join(cells).split()), default=0) for cells in numbers]
    room = max(console.width - 3 * len(table.header) - 1 - sum(widths), _LEAST_NAME)
    for name in table.header[:count]:
        printed.add_column(Text(name), overflow="fold", max_width=room)
    for name, width in zip(table.header[count:], widths, strict=True):
        printed.add_column(Text(name), justify="right", overflow="fold", min_width=width)
    for row in table.rows:
        printed.add_row(*map(Text, row))
    console.print(printed, crop=False)


@contextmanager
def progress_display(console: Console) -> Iterator[Progress]:
    """A progress callback: bars on a terminal, and elsewhere a line now and then.

    The text before the first colon names the work; the text after it is the current state. Lines
    come every two seconds, later every twentieth of the time so far, at most a minute apart; one
    that would repeat the last is left out.
    """
    if console.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=console) as bar:
            tasks: dict[str, TaskID] = {}

            def show(what: str, done: int, total: int) -> None:
                name = what.split(":")[0]
                if name not in tasks:
                    tasks[name] = bar.add_task(what, total=total)
                bar.update(tasks[name], description=what, completed=done, total=total)

            yield show
        return

    latest, began = ["starting"], time.perf_counter()
    stop = threading.Event()

    def note(what: str, done: int, total: int) -> None:
        latest[0] = f"{what}  {done:,}/{total:,}"

    def tick() -> None:
        seconds, told = 0.0, ""
        while not stop.wait(_pause(seconds)):
            seconds, before, told = time.perf_counter() - began, told, latest[0]
            if told != before:
                print_lines(console, f"{seconds:6.0f} s  {told}")

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield note
    finally:
        stop.set()
        ticker.join()


def _pause(seconds: float) -> float:
    """Seconds to wait for the next line of progress, after a command has run for so long."""
    return min(max(_SECONDS, seconds / 20), _MOST_SECONDS)


def command(
    options: type[O],
    main: Callable[[O], int | None],
    *,
    start: Callable[[O], None] | None = None,
    prog: str,
    description: str | None = None,
) -> None:
    """Runs a command: parses its options, checks the backend, and exits.

    The exit code is the value of ``main``, 0 or `FAULTS`; 2 for an error that the user can act on,
    which is printed in one line; `BUSY` if another process is writing the output; 130 for Ctrl-C;
    or 143 for SIGTERM. A warning is one line, too. A SIGTERM or SIGHUP that is ignored at the start
    stays ignored.

    Args:
      options: a dataclass whose docstring and fields are the command's help, or a union of these.
      main: the command.
      start: called before jax starts.
      prog: name of the command in its help.
      description: description in its help; by default the docstring of the options.
    """
    _open_streams()
    chosen = _parse(options, prog, description)
    set_cpu_flags()
    start_again()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    warnings.showwarning = _warn  # pyrefly: ignore[bad-assignment]
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax also logs errors that it raises
    sys.unraisablehook = _hear  # for errors of its callbacks after it has failed
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited")
    try:
        if start is not None:
            start(chosen)
        check_backend()
        sys.exit(main(chosen))
    except Busy as error:
        _fail(str(error))
        _leave(BUSY)
    except (InputError, BackendError, Diverged) as error:
        _leave(_fail(str(error)))
    except MemoryError as error:
        _leave(_fail(_too_large(str(error))))
    except OSError as error:
        _leave(_fail(message_of(error)))
    except jax.errors.JaxRuntimeError as error:
        told = _one_line(str(error))[:160]
        if told.startswith("RESOURCE_EXHAUSTED"):
            _leave(_fail(_too_large(told)))
        if not jax.distributed.is_initialized():
            raise
        _leave(_fail(f"another process of the job has ended ({told}); see its output, then resume"))
    except KeyboardInterrupt:
        print(f"interrupted; {_AGAIN}", file=sys.stderr)
        _leave(130)
    except SystemExit as ended:
        if isinstance(ended.code, int) and ended.code not in (0, FAULTS):
            _leave(ended.code)
        raise
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        _leave(1)


def _open_streams() -> None:
    """Makes printing safe: closed streams discard text; letters not in the encoding are escaped."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _parse(options: type[O], prog: str, description: str | None) -> O:
    """The options in ``sys.argv``; exits if they are wrong, or after the help."""
    try:
        bare = _bare_options(sys.argv[1:])
        named = len(sys.argv) > 1 and not sys.argv[1].startswith("-")
        join_lines(options, brief=not named and not isinstance(options, type))
        config = (tyro.conf.FlagCreatePairsOff,)
        try:
            chosen = tyro.cli(options, prog=prog, description=description, config=config)
        finally:
            sys.stdout.flush()  # so that an error is raised here, and not at exit
        for name in bare:  # of those that tyro accepts, only switches need no value
            if not isinstance(getattr(chosen, name.replace("-", "_"), None), bool):
                raise InputError(f"--{name}: has no value; give one, or omit the option")
    except InputError as error:
        sys.exit(_fail(str(error)))
    except BrokenPipeError:  # the reader of the help closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    return chosen


def _bare_options(words: Sequence[str]) -> list[str]:
    """Names of the options that no value follows; tyro accepts these if they are lists.

    Raises:
      InputError: an option is given twice, since tyro would drop its first values; or a word is not
        UTF-8.
    """
    for word in words:
        if not _is_text(word):
            raise InputError(f"argument {word!r}: is not UTF-8; rename the file")
    bare, seen = [], set[str]()
    options = takewhile(lambda word: word != "--", words)  # what follows it has no options
    for word, following in pairwise([*options, "--"]):
        if not word.startswith("--"):
            continue
        name, separator, _ = word[2:].replace("_", "-").partition("=")
        if name in seen:
            raise InputError(f"--{name}: is given twice; give it once, with all its values")
        seen.add(name)
        if not separator and following.startswith("--"):
            bare.append(name)
    return bare


def _leave(code: int) -> NoReturn:
    """Ends the process; without clean-up if there are others, which jax would wait for at exit."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _too_large(told: str) -> str:
    return f"not enough memory{told and f' ({told})'}; work on less, or on a larger machine"


def _warn(message: Warning | str, *_: object) -> None:
    print(f"warning: {_one_line(str(message))}", file=sys.stderr)


def _hear(_: sys.UnraisableHookArgs) -> None:
    """Ignores errors that no program can catch."""


def _stop(number: int, frame: object) -> None:
    """Exits with the code that a shell expects; half-written files are removed on the way."""
    del frame
    print(f"stopped; {_AGAIN}", file=sys.stderr)
    sys.exit(128 + number)


def start_again() -> None:
    """Restarts the process with variables that it reads from its environment before Python runs.

    One makes glibc's allocator use huge pages: XLA allocates a step's memory anew every time, and
    the kernel clears every page again; the rows of a table of gigabytes lie on separate pages. The
    other limits XLA's log to errors that end the process: other errors are raised as well, and some
    versions log a page of text per compiled program that they read. What the user has set is kept.
    """
    if "GLIBC_TUNABLES" not in os.environ and platform.libc_ver()[0] == "glibc":
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # as jax sets it
            os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def check_minimum(option: str, value: int, minimum: int) -> None:
    """Refuses a number that is too small, or larger than any count or seed may be.

    Raises:
      InputError: the number is out of range; the message names the option.
    """
    if value < minimum:
        raise InputError(f"{option}: expected {minimum} or more, got {value}")
    if value > MAX_WHOLE:
        raise InputError(f"{option}: expected at most {MAX_WHOLE}, got {value:.4g}")


def check_distinct(option: str, folders: Sequence[Path]) -> None:
    """Refuses a folder that is given twice.

    Raises:
      InputError: one is; the message names the option.
    """
    places = [folder.resolve() for folder in folders]
    for number, folder in enumerate(folders):
        if places[number] in places[:number]:
            raise InputError(f"{option}: {folder} is given twice; give it once")


def check_output(
    option: str, path: Path, *inputs: Path | None, endings: Sequence[str] = (), lock: bool = True
) -> None:
    """Refuses an output file that cannot be written or is an input, before any work.

    Args:
      option: name of the option.
      path: the file.
      *inputs: files that are read.
      endings: in lower case, of which the file's name must have one in any case; any name will do
        if there are none.
      lock: whether to lock it for a moment. Only one of several processes may.

    Raises:
      InputError: the file is one of ``inputs``, has another ending, is no regular file, is in no
        folder or in one that is replaced.
      Busy: another process is writing it.
      OSError: its file system is read-only or full, or may not be written by this user.
    """
    if os.path.realpath(path) in [os.path.realpath(known) for known in inputs if known is not None]:
        raise InputError(f"{option}: {path} would replace a file that is read; give another")
    if endings and path.suffix.lower() not in endings:
        expected = " or ".join(endings)
        raise InputError(f"{option}: {path}: expected a name that ends with {expected}")
    if not path.parent.is_dir():
        raise InputError(f"{option}: {path.parent} is not a folder; make it first")
    if path.is_dir():
        raise InputError(f"{option}: {path} is a folder; give a file")
    if path.exists() and not path.is_file():
        raise InputError(f"{option}: {path} is not a regular file; give another")
    check_place(option, path)
    with locked(path) if lock else nullcontext():  # fails if nothing can be written there
        pass


def check_output_folder(
    option: str, path: Path, manifest: str, kind: str, *inputs: Path | None
) -> None:
    """Refuses an output folder that cannot be replaced, before any work.

    Raises:
      InputError: the folder exists, is not empty and is of another kind, or it has one of
        ``inputs`` or a foreign file in it; the message names the option.
    """
    is_empty = path.is_dir() and not any(path.iterdir())
    if path.exists() and not is_empty and not is_replaceable(path, manifest):
        raise InputError(
            f"{option}: {path}: exists and is not {kind}, or has a damaged {manifest}; remove it, "
            "or choose another folder"
        )
    check_not_in(option, path, *inputs)
    check_place(option, path)


def check_not_in(option: str, path: Path, *inputs: Path | None) -> None:
    """Refuses to replace a folder that has an input or a foreign file in it, which would be lost.

    Raises:
      InputError: one of ``inputs`` is in the folder, or a file that is not of the folder's kind;
        the message names the option.
    """
    whole = path.resolve()
    for known in inputs:
        if known is not None and whole in known.resolve().parents:
            raise InputError(
                f"{option}: {path} would be replaced as a whole, and {known} in it is read; move "
                f"{known.name} out of it"
            )
    found = (foreign_file(whole, marker) for marker in _REPLACED if is_marked(whole, marker))
    for foreign in filter(None, found):
        raise InputError(
            f"{option}: {path} is replaced as a whole, and {foreign.relative_to(whole)} in it "
            "would be lost; move it away"
        )


def check_place(option: str, path: Path) -> None:
    """Refuses an output without a name of its own, or inside what commands replace.

    Raises:
      InputError: the path has no name, ends as the folder of a command's work does, or is inside a
        folder that commands replace or remove as a whole; the message names the option.
    """
    if path.name in ("", ".."):
        raise InputError(f"{option}: {path} has no name of its own; give a folder by its name")
    if path.name.endswith((TRAINING, CUSTOMISED)):
        raise InputError(
            f"{option}: {path}: names that end in {TRAINING} or {CUSTOMISED} are for the work of "
            "commands that have not finished; choose another name"
        )
    for parent in path.resolve().parents:
        if is_work_folder(parent) or any(is_marked(parent, name) for name in _REPLACED):
            raise InputError(
                f"{option}: {path} lies in {parent}, which commands replace as a whole; choose "
                "another place"
            )


def work_folder(option: str, out: Path, ending: str) -> Path:
    """The folder beside an output in which a command keeps its work until the output is written.

    Raises:
      InputError: the folder is there, and not for such work; the message names the option.
    """
    folder = out.with_name(f"{out.name}{ending}")
    foreign = foreign_in(folder) if folder.exists() else None
    if foreign is not None:
        raise InputError(
            f"{option}: {foreign} is not of the work on {out.name}, which is kept in {folder} and "
            "removed when it is done; move it away, or choose another output"
        )
    return folder


def _fail(message: str) -> int:
    print(f"error: {_one_line(message)}", file=sys.stderr)
    return 2


def _is_text(word: str) -> bool:
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _one_line(message: str) -> str:
    return " ".join(message.split())
