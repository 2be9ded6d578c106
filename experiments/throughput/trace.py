"""A trace of training: how much of its time a device computes, and what it waits for.

The trace is a folder that XProf and Perfetto open. On a GPU or TPU a program is an event of the
device; on a CPU it is one of the threads that execute programs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments.throughput.inputs import Size
from experiments.throughput.steps import untrained
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.methods import OFFICIAL, MetaHeacMethod
from metaheac_jax.table.adam import table_adam
from metaheac_jax.training.loop import Training, train
from metaheac_jax.training.step import build_row_step

_STEPS = 100  # of the trace, after as many that compile and fill queues


class Traced(NamedTuple):
    """What a trace shows.

    Attributes:
      table_rows: R, rows of the table.
      steps: number of steps.
      seconds: from the start of the first to the end of the last.
      busy: fraction of them in which a device computes.
    """

    table_rows: int
    steps: int
    seconds: float
    busy: float


def trace(size: Size, dataset: Dataset, sampler: CampaignSampler, folder: Path) -> Traced:
    """Trains with the program that methods use, and writes a trace of it to a folder."""
    gradient, rate = MetaHeacMethod(OFFICIAL).gradient(dataset.layout), OFFICIAL.outer_learning_rate
    step = build_row_step(gradient, optax.adam(rate), table_adam(rate))
    training = Training(step, step.init(*untrained(size, dataset.layout)), sampler, _STEPS)
    train(training)
    training = Training(step, training.state, sampler, 2 * _STEPS, done=_STEPS)
    options: Any = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with jax.profiler.trace(str(folder), profiler_options=options):
        train(training)
    newest = max(folder.rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    spans = np.array([*_programs(jax.profiler.ProfileData.from_file(str(newest)))])
    return Traced(size.table_rows, _STEPS, float(np.ptp(spans)) / 1e9, busy_fraction(spans))


def _programs(data: Any) -> Iterator[tuple[float, float]]:
    """Start and end of each execution of a program, in nanoseconds."""
    for plane in data.planes:
        for line in plane.lines:
            on_device = plane.name.startswith("/device:") and line.name == "XLA Modules"
            if on_device or "XLAPjRtCpuClient" in line.name:
                for event in line.events:
                    if on_device or event.name.startswith("ThunkExecutor::Execute"):
                        yield event.start_ns, event.end_ns


def busy_fraction(spans: np.ndarray) -> float:
    """The fraction of the time from the first start to the last end that (n, 2) spans cover."""
    spans = spans[np.argsort(spans[:, 0])]
    ends = np.maximum.accumulate(spans[:, 1])
    idle = np.maximum(spans[1:, 0] - ends[:-1], 0).sum()
    return float(1 - idle / (ends[-1] - spans[0, 0]))
