"""Where a step's time goes: the profiler's trace of some steps, summed by kind of operation.

The trace names the instructions of the compiled program, and the program's text says what each
computes. On a CPU, time that other threads spend on parts of an instruction counts towards it.
"""

from __future__ import annotations

import re
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from experiments.comparison.pages import markdown_table
from metaheac_jax.threads import num_cores

ADAM = "adam"  # the scope of `training.step.build_row_step`
KINDS = {
    "products": ("dot", "convolution", "custom-call"),
    "gathers and scatters": ("gather", "scatter"),
}
OTHER, WAITING = "elementwise, reductions, copies", "waiting and host"

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = .*?([a-z][a-z\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.\-]+)")
_SCOPE = re.compile(rf'op_name="[^"]*\b{ADAM}\b')


def kinds(text: str) -> dict[str, str]:
    """The kind of each instruction of a compiled program, by instruction name.

    A fusion or call has the first kind in `KINDS` that any of its instructions has. The optimiser,
    including its gathers of rows and moments, is a separate kind.

    Args:
      text: the result of ``compiled.as_text()``.
    """
    opcodes: dict[str, set[str]] = {}  # by computation
    found: list[tuple[str, set[str], list[str], bool]] = []
    inside: set[str] = set()
    for line in text.splitlines():
        if computation := _COMPUTATION.match(line):
            inside = opcodes.setdefault(computation[1], set())
        elif instruction := _INSTRUCTION.match(line):
            name, opcode = instruction.groups()
            called = _CALLED.findall(line) if opcode in ("fusion", "call") else []
            inside |= {opcode, *called}
            found.append((name, {opcode}, called, _SCOPE.search(line) is not None))

    def all_opcodes(names: Iterable[str]) -> set[str]:
        reached = set(names)
        for name in names:
            reached |= all_opcodes(opcodes.get(name, ()))
        return reached

    result = {}
    for name, own, called, in_adam in found:
        has = all_opcodes([*own, *called])
        of = [kind for kind, members in KINDS.items() if not has.isdisjoint(members)]
        result[name] = ADAM if in_adam else (of or [OTHER])[0]
    return result


@dataclass
class _Running:
    """An instruction, or a task on a thread, and the time of everything that runs inside it."""

    name: Any
    start: float
    end: float | None
    inner: float = 0.0


@dataclass
class _Line:
    """The times of one thread or stream, from its events in order."""

    seconds: defaultdict[Any, float] = field(default_factory=lambda: defaultdict(float))
    makers: dict[int, Any] = field(default_factory=dict)  # by task, what started it
    stack: list[_Running] = field(default_factory=list)

    def add(self, start: float, end: float, event: str, stats: dict[str, Any]) -> None:
        while self.stack and self.stack[-1].end is not None and self.stack[-1].end <= start:
            self.close(self.stack[-1].end)
        if "hlo_op" in stats:
            self.stack.append(_Running(stats["hlo_op"], start, end))
        elif event.endswith("::StartRegion"):
            self.stack.append(_Running(stats.get("_c"), start, None))
        elif event.endswith("::StopRegion"):
            while self.stack and self.stack[-1].end is not None:
                self.close(start)
            if self.stack:
                self.close(start)
        elif event.endswith("::Record") and self.stack and "_p" in stats:
            self.makers[stats["_p"]] = self.stack[-1].name

    def close(self, end: float) -> None:
        done = self.stack.pop()
        self.seconds[done.name] += (end - done.start - done.inner) * 1e-9
        if self.stack:
            self.stack[-1].inner += end - done.start


def instruction_seconds(trace: Any) -> dict[str, float]:
    """Seconds of each instruction, summed over threads, without instructions that run inside it.

    Args:
      trace: a `jax.profiler.ProfileData`.
    """
    lines = []
    for line in (line for plane in trace.planes for line in plane.lines):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # on the type of an event's stats
            events = [(e.start_ns, -e.end_ns, e.name, dict(e.stats)) for e in line.events]
        lines.append(_Line())
        for start, end, name, stats in sorted(events, key=lambda event: event[:2]):
            lines[-1].add(start, -end, name, stats)
        while lines[-1].stack:
            last = lines[-1].stack[-1]
            # For a task whose end is not in the trace, only the time inside it is known.
            lines[-1].close(last.start + last.inner if last.end is None else last.end)
    makers = {task: maker for line in lines for task, maker in line.makers.items()}
    seconds: defaultdict[str, float] = defaultdict(float)
    for name, value in (item for line in lines for item in line.seconds.items()):
        while isinstance(name, int):  # a task: counts for what started it
            name = makers.get(name)
        if name is not None:
            seconds[name] += value
    return seconds


def step_breakdown(
    text: str, step: Callable[[int], Any], num_steps: int, folder: Path | None = None
) -> dict[str, float]:
    """Processor seconds per step by kind; they add up to the total time of the processors.

    The processors are the cores of a CPU, or the one device.

    Args:
      text: text of the compiled program.
      step: called as ``step(number)``; the time includes the wait for its result.
      num_steps: number of steps to trace.
      folder: a folder for the trace, for TensorBoard or Perfetto; None keeps no trace.
    """
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) if folder is None else folder
        with jax.profiler.trace(str(place)):
            began = time.perf_counter()
            for number in range(num_steps):
                jax.block_until_ready(step(number))
            whole = time.perf_counter() - began
        newest = max(place.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
        seconds = instruction_seconds(jax.profiler.ProfileData.from_file(str(newest)))
    of, total = kinds(text), dict.fromkeys((*KINDS, OTHER, ADAM), 0.0)
    for name, value in seconds.items():
        total[of.get(name, OTHER)] += value / num_steps
    processors = num_cores() if jax.default_backend() == "cpu" else 1
    total[WAITING] = max(0.0, processors * whole / num_steps - sum(total.values()))
    return total


def breakdown_table(parts: dict[str, dict[str, float]]) -> str:
    """Markdown table of breakdowns by name of the traced step: processor ms, and fractions."""
    kinds_of = list(next(iter(parts.values()), {}))
    lines = []
    for name, seconds in parts.items():
        whole = sum(seconds.values())
        cells = [f"{1e3 * seconds[kind]:.1f} ({seconds[kind] / whole:.0%})" for kind in kinds_of]
        lines.append([name, f"{1e3 * whole:.1f}", *cells])
    return markdown_table(["processor ms per step", "all", *kinds_of], lines)
