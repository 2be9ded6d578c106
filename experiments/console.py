"""What a command shows: progress, one-line errors, exit codes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
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

from metaheac_jax.errors import InputError
from metaheac_jax.offline import Diverged
from metaheac_jax.progress import Progress

_SECONDS = 2.0  # between two signs of life
_COMPILED_SECONDS = 0.1  # programs that took less to compile are not kept


def cache_folder() -> Path:
    """Where commands keep what later ones use again."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "metaheac_jax"


def keep_compiled() -> None:
    """Keeps compiled programs for later processes, unless the user has told jax where to."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", _COMPILED_SECONDS)


def screen() -> Console:
    """Where a command prints: the terminal, or wide enough lines for a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=140)


@contextmanager
def progress_display(console: Console) -> Iterator[Progress]:
    """A progress callback: bars on a terminal, and elsewhere a line every two seconds.

    Work is told apart by the text before the first colon; what follows is its current state.
    """
    if console.is_terminal:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
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
        while not stop.wait(_SECONDS):
            line = f"{time.perf_counter() - began:6.0f} s  {latest[0]}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield note
    finally:
        stop.set()
        ticker.join()


def run(main: Callable[[], None]) -> None:
    """Runs a command; input that the user has to mend ends it with one line and exit code 2."""
    try:
        main()
    except (InputError, Diverged) as error:
        sys.exit(_fail(str(error)))
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(_fail(f"{where}{error.strerror or error}"))
    except KeyboardInterrupt:
        print("interrupted; go on with --resume", file=sys.stderr)
        sys.exit(130)


def check_least(option: str, value: int, least: int) -> None:
    """Refuses a number that is too small.

    Raises:
      InputError: it names the option.
    """
    if value < least:
        raise InputError(f"{option}: expected {least} or more, got {value}")


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
