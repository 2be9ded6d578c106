"""Parts that all commands share: progress, one-line errors, exit codes, and start-up.

Nothing here imports jax or polars before a command has parsed its options, so help is quick.
"""

from __future__ import annotations

import io
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import tyro
from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metaheac_jax.errors import (
    BackendError,
    Busy,
    Diverged,
    InputError,
    check_whole,
    message_of,
    printable,
)
from metaheac_jax.progress import Progress

if TYPE_CHECKING:
    from metaheac_jax.audience.gains import TextTable

O = TypeVar("O")

#: Endings of tables, as `table_file.ENDINGS`, which loads polars.
TABLE_ENDINGS = (".parquet", ".csv", ".csv.gz")
#: Refuses a number that is too small, or larger than any count or seed may be.
check_minimum = check_whole
#: Exit code where the same command may succeed later; the number is that of sysexits.h.
BUSY = 75
_AGAIN = "run the same command again to continue, with --resume if it has that option"
_SECONDS, _MOST_SECONDS = 2.0, 60.0  # least and most time between two lines of progress
_ANY_WIDTH = 1_000_000  # characters of a line in a file or pipe: none is folded
_COMPILED_SECONDS = 0.1  # programs that compile faster are not kept


def cache_folder() -> Path:
    """The folder of files that later commands reuse."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaheac_jax"


def keep_compiled() -> None:
    """Keeps compiled programs for later processes, unless the user has set jax's own cache."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _COMPILED_SECONDS)


def screen() -> Console:
    """The console of a command: the terminal, or a file or pipe with lines of any width.

    If there are several processes, only the first one prints.
    """
    from metaheac_jax.processes import is_first

    quiet = not is_first()
    console = Console(quiet=quiet)
    return console if console.is_terminal else Console(width=_ANY_WIDTH, quiet=quiet)


def print_lines(console: Console, *lines: str) -> None:
    """Prints lines without markup."""
    for line in lines:
        console.print(_text(line), soft_wrap=True)


def _text(text: str) -> Text:
    return Text(printable(text))


def option(metavar: str, *, name: str | None = None) -> Any:
    """How the help names the value of an option; a default is shown if it says something."""

    def default(own: str) -> str:
        return "" if own in ("", "None") else f"(default: {own})"

    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint=default)


def counted(number: int, noun: str) -> str:
    """A number of things: 1 user, 2,000 users."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def quoted(path: Path) -> str:
    """A path as a word of a command that can be pasted into a shell."""
    return shlex.quote(str(path))


def print_table(console: Console, table: TextTable) -> None:
    """Prints a table without markup: long names are folded, and no number is cut."""
    printed = Table(title=_text(table.title))
    for number, name in enumerate(table.header):
        if number < table.num_names:
            printed.add_column(_text(name), overflow="fold")
        else:
            printed.add_column(_text(name), justify="right", no_wrap=True)
    for row in table.rows:
        printed.add_row(*map(_text, row))
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
            bars.SpinnerColumn(),
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.MofNCompleteColumn(),
            bars.TimeElapsedColumn(),
            bars.TimeRemainingColumn(),
        )
        with bars.Progress(*columns, console=console) as bar:
            tasks: dict[str, bars.TaskID] = {}

            def show(what: str, done: int, total: int) -> None:
                what = printable(what)
                name = what.split(":")[0]
                if name not in tasks:
                    tasks[name] = bar.add_task(what, total=total)
                bar.update(tasks[name], description=what, completed=done, total=total)

            yield show
        return

    latest, began, stop = ["starting"], time.perf_counter(), threading.Event()

    def note(what: str, done: int, total: int) -> None:
        latest[0] = f"{what}  {done:,}/{total:,}"

    def tick() -> None:
        seconds, told = 0.0, ""
        while not stop.wait(min(max(_SECONDS, seconds / 20), _MOST_SECONDS)):
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


def command(
    options: type[O],
    main: Callable[[O], object],
    *,
    start: Callable[[O], None] | None = None,
    prog: str,
    description: str | None = None,
) -> NoReturn:
    """Runs a command: parses its options, checks the backend, and exits.

    The exit code is 0; 2 for an error that the user can act on, which is printed in one line;
    `BUSY` if another process is writing the output; 130 for Ctrl-C; or 143 for SIGTERM. A warning
    is one line, too. A SIGTERM or SIGHUP that is ignored at the start stays ignored.

    Args:
      options: a dataclass whose docstring and fields are the command's help, or a union of these.
      main: the command.
      start: called before jax starts.
      prog: name of the command in its help.
      description: description in its help; by default the docstring of the options.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # letters not in the encoding are escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    config = (tyro.conf.FlagCreatePairsOff,)
    try:
        try:
            chosen = tyro.cli(options, prog=prog, description=description, config=config)
        finally:
            sys.stdout.flush()  # so that an error is raised here, and not at exit
    except BrokenPipeError:  # the reader of the help, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    warnings.showwarning = _warn  # pyrefly: ignore[bad-assignment]
    code = 2
    try:
        _run(main, start, chosen)
        code = 0
    except (InputError, BackendError, Diverged) as error:
        _tell(f"error: {error}")
        code = BUSY if isinstance(error, Busy) else 2
    except MemoryError as error:
        told = f" ({error})" if str(error) else ""
        _tell(f"error: not enough memory{told}; work on less, or on a larger machine")
    except OSError as error:
        _tell(f"error: {message_of(error)}")
    except KeyboardInterrupt:
        _tell(f"interrupted; {_AGAIN}")
        code = 130
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except Exception:
        if not _has_others():
            raise
        traceback.print_exc()
        code = 1
    _leave(code)


def _run(main: Callable[[O], object], start: Callable[[O], None] | None, chosen: O) -> None:
    """Runs a command on a backend that computes correctly; a lack of memory is a MemoryError."""
    # Some versions of jaxlib log a page of text for each compiled program that they read.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Products are small, and on a busy machine OpenBLAS's threads wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import jax

    from metaheac_jax.backend import check_backend, set_cpu_flags

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax also logs errors that it raises
    set_cpu_flags()
    try:
        if start is not None:
            start(chosen)
        check_backend()
        main(chosen)
    except jax.errors.JaxRuntimeError as error:
        told = " ".join(str(error).split())[:160]
        if told.startswith("RESOURCE_EXHAUSTED"):
            raise MemoryError(told) from error
        if _has_others():
            raise InputError(
                f"another process of the job has ended ({told}); see its output, then resume"
            ) from error
        raise


def _has_others() -> bool:
    """Whether this is one of several processes of a job."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _leave(code: int) -> NoReturn:
    """Ends the process; without clean-up if there are others, which jax would wait for at exit."""
    if code and _has_others():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _warn(message: Warning | str, *_: object) -> None:
    _tell(f"warning: {message}")


def _stop(number: int, frame: object) -> None:
    """Exits with the code that a shell expects; half-written files are removed on the way."""
    del frame
    _tell(f"stopped; {_AGAIN}")
    sys.exit(128 + number)


def _tell(line: str) -> None:
    print(printable(" ".join(line.split())), file=sys.stderr)


def check_output(
    option: str, path: Path, *inputs: Path | None, endings: Sequence[str] = ()
) -> None:
    """Refuses an output file that cannot be written or is an input, before any work.

    Args:
      option: name of the option.
      path: the file.
      *inputs: files that are read.
      endings: in lower case, of which the file's name must have one in any case, if there are any.

    Raises:
      InputError: the file is one of ``inputs``, has another ending, is no regular file, or is in no
        folder.
      Busy: another process is writing it.
      OSError: its file system is read-only or full, or may not be written by this user.
    """
    from metaheac_jax.files import locked

    if os.path.realpath(path) in [os.path.realpath(known) for known in inputs if known is not None]:
        raise InputError(f"{option}: {path} would replace a file that is read; give another")
    if endings and not path.name.lower().endswith(tuple(endings)):
        expected = " or ".join(endings)
        raise InputError(f"{option}: {path}: expected a name that ends with {expected}")
    if not path.parent.is_dir():
        raise InputError(f"{option}: {path.parent} is not a folder; make it first")
    if path.exists() and not path.is_file():
        raise InputError(f"{option}: {path} is not a regular file; give another")
    with locked(path):  # fails if nothing can be written there
        pass


def check_output_folder(
    option: str, path: Path, manifest: str, kind: str, *inputs: Path | None
) -> None:
    """Refuses an output folder that cannot be replaced, before any work.

    Raises:
      InputError: the path has no name, it exists, is not empty and is of another kind, or it is or
        has one of ``inputs``; the message names the option.
    """
    from metaheac_jax.files import is_replaceable

    if path.name in ("", ".."):
        raise InputError(f"{option}: {path} has no name of its own; give a folder by its name")
    if path.exists() and not is_replaceable(path, manifest):
        raise InputError(
            f"{option}: {path} exists and is not {kind}; remove it, or choose another folder"
        )
    whole = path.resolve()
    for known in inputs:
        if known is not None and whole in (known.resolve(), *known.resolve().parents):
            raise InputError(f"{option}: {path} would be replaced, and {known} is read; move it")
