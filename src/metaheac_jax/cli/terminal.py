"""Parts that all commands share: progress, one-line errors, exit codes, and start-up.

Nothing here imports jax or polars before a command has parsed its options, so help is quick.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metaheac_jax.errors import (
    BackendError,
    Busy,
    Diverged,
    InputError,
    about,
    message_of,
    printable,
)
from metaheac_jax.progress import Progress

if TYPE_CHECKING:
    import polars as pl

O = TypeVar("O")

#: Exit code where the same command may succeed later; the number is that of sysexits.h.
BUSY = 75
_AGAIN = "run the same command again to continue"
_SOON = 0.2  # seconds until KeyboardInterrupt is raised again if it was lost
_SECONDS = 2.0  # least time between two lines of progress
_ANY_WIDTH = 1_000_000  # characters of a line in a file or pipe: none is folded


def cache_folder() -> Path:
    """The folder of files that later commands reuse."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "metaheac_jax"


def keep_compiled() -> None:
    """Keeps compiled programs for later processes, unless the user has set jax's own cache."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def screen() -> Console:
    """The console of a command: the terminal, or a file or pipe with lines of any width.

    If there are several processes, only the first one prints.
    """
    from metaheac_jax.processes import is_first

    console = Console(quiet=not is_first())
    return console if console.is_terminal else Console(width=_ANY_WIDTH, quiet=console.quiet)


def print_lines(*lines: str) -> None:
    """Prints lines without markup."""
    for line in lines:
        screen().print(Text(printable(line)), soft_wrap=True)


def option(metavar: str, *, name: str | None = None) -> Any:
    """How the help names the value of an option; a default is shown if it says something."""

    def default(own: str) -> str:
        return "" if own in ("", "None") else f"(default: {own})"

    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint=default)


def counted(number: int, noun: str) -> str:
    """A number of things: 1 user, 2,000 users."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def print_table(title: str, frame: pl.DataFrame) -> None:
    """Prints a table without markup."""
    printed = Table(title=Text(printable(title)))
    for name, kind in frame.schema.items():
        printed.add_column(Text(printable(name)), justify="right" if kind.is_numeric() else "left")
    for row in frame.iter_rows():
        printed.add_row(*(Text(printable(_cell(value))) for value in row))
    print_lines("")
    screen().print(printed, crop=False)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value or "")


@contextmanager
def progress_display() -> Iterator[Progress]:
    """A progress callback: one line that changes on a terminal, and elsewhere one now and then.

    The text says what is done and its current state. Lines come every two seconds, later every
    twentieth of the time so far.
    """
    began = told = time.perf_counter()
    console = screen()
    with console.status("") as status:  # which is shown on a terminal alone

        def note(what: str, done: int, total: int) -> None:
            nonlocal told
            now = time.perf_counter()
            line = f"{now - began:6.0f} s  {what}  {done:,}/{total:,}"
            status.update(Text(printable(line)))
            if not console.is_terminal and now - told >= max(_SECONDS, (now - began) / 20):
                told = now
                print_lines(line)

        yield note


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
    `BUSY` if another process is writing the output; or 130 for Ctrl-C and SIGTERM. A warning is one
    line, too.

    Args:
      options: a dataclass whose docstring and fields are the command's help, or a union of these.
      main: the command.
      start: called before jax starts.
      prog: name of the command in its help.
      description: description in its help; by default the docstring of the options.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # letters not in the encoding are escaped
        sys.stdout.reconfigure(errors="backslashreplace")
    stop = Stop()
    chosen = _parsed(options, prog, description)
    warnings.showwarning = _warn  # pyrefly: ignore[bad-assignment]
    code = 2
    try:
        _run(main, start, chosen, stop)
        code = 0
    except (InputError, BackendError, Diverged) as error:
        _tell(f"error: {error}")
        code = BUSY if isinstance(error, Busy) else 2
    except MemoryError as error:
        _tell(f"error: not enough memory ({error}); work on less, or on a larger machine")
    except OSError as error:
        _tell(f"error: {message_of(error)}")
    except KeyboardInterrupt:
        _tell(f"stopped; {_AGAIN}")
        code = 130
    except Exception:
        if stop.asked:  # what KeyboardInterrupt became in a library
            _tell(f"stopped; {_AGAIN}")
            os._exit(130)
        if not _has_others():
            raise
        traceback.print_exc()
        code = 1
    finally:
        stop.at_once()
    if code and _has_others():  # at exit, jax would wait for the other processes
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


class Stop:
    """What Ctrl-C and SIGTERM do: end the process at once, or in order.

    Nothing is half-written while libraries are imported, which may take KeyboardInterrupt for an
    error of their own.
    """

    def __init__(self) -> None:
        self.asked = False
        self.at_once()

    def at_once(self) -> None:
        """From now on they end the process without a word."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._handle(lambda *_: os._exit(130))

    def in_order(self) -> None:
        """From now on they raise KeyboardInterrupt, so that half-written files are removed."""
        self._handle(self._raise)

    def _handle(self, handler: Callable[..., None]) -> None:
        signal.signal(signal.SIGINT, handler)
        signal.signal(signal.SIGTERM, handler)

    def _raise(self, *_: object) -> None:
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):  # it is on its way
            return
        # In a destructor or a callback of the garbage collector it is lost, so it is raised again.
        self.asked, sys.unraisablehook = True, lambda _: None
        signal.signal(signal.SIGALRM, self._raise)
        signal.setitimer(signal.ITIMER_REAL, _SOON)
        raise KeyboardInterrupt


def _parsed(options: type[O], prog: str, description: str | None) -> O:
    """Parses the arguments; an error is one line, without tyro's box and its explanations."""
    told, pipe = io.StringIO(), signal.getsignal(signal.SIGPIPE)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader of the help, such as head, may end
    try:
        with redirect_stderr(told):
            config = (tyro.conf.FlagCreatePairsOff,)
            return tyro.cli(options, prog=prog, description=description, config=config)
    except SystemExit as ended:
        sys.stdout.flush()
        if ended.code:
            # The first line is a title, and lines that are far to the right explain options.
            lines = told.getvalue().splitlines()[1:]
            lines = [line.strip("│ ") for line in lines if not set(line[:10]) <= set("│╰─- ")]
            said, _, help_ = " ".join(lines).partition(" For full helptext, ")
            _tell(f"error: {said.partition(' Got errors')[0]}; {help_ or 'see --help'}")
        raise
    finally:
        signal.signal(signal.SIGPIPE, pipe)


def _run(
    main: Callable[[O], object], start: Callable[[O], None] | None, chosen: O, stop: Stop
) -> None:
    """Runs a command on a backend that computes correctly; a lack of memory is a MemoryError."""
    # Some versions of jaxlib log a page of text for each compiled program that they read.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Products are small, and on a busy machine OpenBLAS's threads wait for each other.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import jax

    from metaheac_jax.backend import check_backend

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax also logs errors that it raises
    stop.in_order()
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
                f"another process of the job has ended ({told}); see its output, then {_AGAIN}"
            ) from error
        raise


def _has_others() -> bool:
    """Whether this is one of several processes of a job."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _warn(message: Warning | str, *_: object) -> None:
    _tell(f"warning: {message}")


def _tell(line: str) -> None:
    print(printable(" ".join(line.split())), file=sys.stderr)


def check_output(
    option: str,
    path: Path,
    *inputs: Path | None,
    endings: Collection[str] = (),
    manifest: str | None = None,
) -> None:
    """Refuses a file or folder that cannot be written, before any work.

    Args:
      option: its name in messages.
      path: the output.
      *inputs: all that is read; the output is none of it, nor in it, nor around it.
      endings: of a file, the endings of which its name must have one; any if empty.
      manifest: of a folder, the manifest of its kind; see `check_own`.

    Raises:
      InputError: the output cannot be written.
    """
    from metaheac_jax.removing import check_own

    own = path.resolve()
    for known in filter(None, inputs):
        read = known.resolve()
        if own == read or own in read.parents or read in own.parents:
            raise InputError(f"{option}: {path} would replace {known}, which is read; give another")
    if endings and not path.name.lower().endswith(tuple(endings)):
        expected = " or ".join(endings)
        raise InputError(f"{option}: {path}: expected a name that ends with {expected}")
    if manifest is None and not path.parent.is_dir():
        raise InputError(f"{option}: {path.parent} is not a folder; make it first")
    if manifest is not None:
        with about(option):
            check_own(own, manifest)
