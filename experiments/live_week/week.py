"""A week of an application: the arms, their days and their feedback.

Axes: D days, C running campaigns, P users of a bucket, E examples, n users who are exposed to a
campaign on a day.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.comparison.provenance import provenance
from experiments.comparison.run import forget_compiled
from experiments.comparison.run_folder import stored_result
from experiments.live_week.worlds import BUCKETS, World, audience_size, split_candidates
from metaheac_jax.data.batches import check_campaigns, generator
from metaheac_jax.data.examples import Examples, group_by_campaign
from metaheac_jax.files import write_json
from metaheac_jax.methods.method import Method
from metaheac_jax.model import Customised, General
from metaheac_jax.progress import Progress, prefixed, silent
from metaheac_jax.ranking import top

#: The stream of random numbers of the first day; the other days follow.
DAYS = BUCKETS + 1


class Feedback(NamedTuple):
    """Users who were exposed to campaigns.

    Attributes:
      campaign: (n,) index of the campaign.
      user: (n,) index of the user.
      converted: (n,) whether the user converted.
    """

    campaign: np.ndarray
    user: np.ndarray
    converted: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The schedule of an arm's week.

    Attributes:
      num_days: D.
      audience: number of users that are taken for each campaign on each day.
      general_every: number of days between trainings of the general model. The training before the
        week is the first.
    """

    num_days: int
    audience: int
    general_every: int


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm of a week.

    Attributes:
      method: trains and customises its models.
      world: the application.
      bucket: (C, P) users, one row for each running campaign.
      seed: seed of the models and of the users' actions. A user acts in the same way in all arms.
      directory: folder for checkpoints of the general models that are trained during the week. The
        log of each training is next to it, ``NAME-day-D.jsonl``.
      allow_changes: as in `Method.fit`.
      progress: receives what is being done.
    """

    method: Method
    world: World
    bucket: np.ndarray
    seed: int
    directory: Path
    allow_changes: Collection[str] = ()
    progress: Progress = silent


class Week:
    """All arms of an application's week. Arms of one method start from one general model.

    The counts of an arm are written to ``methods/`` in the run folder. An arm whose counts are
    there is not run again.

    Attributes:
      results: results of the arms so far, by file name: counts, settings, seconds and provenance.
    """

    def __init__(
        self,
        name: str,
        world: World,
        methods: Mapping[str, Method],
        *,
        seed: int,
        num_days: int,
        audience: float,
        general_every: int,
        run_folder: Path,
        allow_changes: Collection[str] = (),
        progress: Progress,
    ) -> None:
        """Args:
        name: name of the application and the week; file names begin with it.
        world: the application.
        methods: methods by name.
        seed: seed of the week.
        num_days: D.
        audience: fraction of its bucket that an arm takes for each campaign on each day.
        general_every: see `Schedule`.
        run_folder: the folder that `run_folder.open_run` opened.
        allow_changes: as in `Method.fit`.
        progress: receives what is being done.

        Raises:
          InputError: a campaign cannot be trained on, or the audience has no user.
        """
        check_campaigns(world.dataset, np.concatenate([world.split.train, world.split.test]))
        self._name, self._world, self._methods, self._seed = name, world, methods, seed
        self._buckets = split_candidates(world, seed)
        self._schedule = Schedule(
            num_days=num_days,
            audience=audience_size(audience, self._buckets),
            general_every=general_every,
        )
        self._folder, self._progress = run_folder, progress
        self._allow_changes = allow_changes
        self._generals: dict[str, General] = {}
        self.results: dict[str, dict[str, Any]] = {}

    def totals(self, treatment: str, controls: Sequence[str]) -> dict[str, np.ndarray]:
        """(2, 2) exposures and conversions of the week, control first, by title of the experiment.

        Args:
          treatment: name of the method of the treatment arm, and of both arms of the A/A test.
          controls: names of the methods of the control arms.
        """
        treated, label = self._arm_counts(treatment, 1), self._methods[treatment].label
        found = {}
        for name in (*controls, treatment):
            other = self._methods[name].label
            title = f"A/A: {label}" if name == treatment else f"{label} against {other}"
            both = self._arm_counts(name, 0), treated
            found[title] = np.stack([counts.sum(axis=(0, 1)) for counts in both])
        return found

    def _arm_counts(self, name: str, bucket: int) -> np.ndarray:
        """(D, C, 2) exposures and conversions of an arm; runs it unless its counts are stored."""
        method, letter = self._methods[name], "AB"[bucket]
        file = f"{self._name}-{name}-{letter}"
        arm = Arm(
            method=method,
            world=self._world,
            bucket=self._buckets[bucket],
            seed=self._seed,
            directory=self._folder / "checkpoints" / file,
            allow_changes=self._allow_changes,
            progress=prefixed(self._progress, f"{method.label}, bucket {letter}: "),
        )
        path = self._folder / "methods" / f"{file}.json"
        if not path.is_file():
            began = time.perf_counter()
            counts = run_arm(arm, self._general(name), self._schedule)
            result = {
                "settings": asdict(method.settings),
                "counts": counts.tolist(),
                "seconds": {"week": time.perf_counter() - began},
                "provenance": provenance(),
            }
            write_json(path, result)
        shutil.rmtree(arm.directory, ignore_errors=True)
        self.results[file] = stored_result(path, method.settings)
        return np.array(self.results[file]["counts"])

    def _general(self, name: str) -> General:
        """A method's general model from before the week."""
        if name not in self._generals:
            method = self._methods[name]
            directory = self._folder / "checkpoints" / f"{self._name}-{name}"
            self._generals[name] = method.fit(
                self._world.dataset,
                campaigns=self._world.split.train,
                seed=self._seed,
                directory=directory,
                log=directory.with_name(f"{directory.name}.jsonl"),
                allow_changes=self._allow_changes,
                progress=prefixed(self._progress, f"{method.label}: "),
            )
        return self._generals[name]


def run_arm(arm: Arm, general: General, schedule: Schedule) -> np.ndarray:
    """Runs an arm for a week.

    Args:
      arm: what to run.
      general: the general model from before the week.
      schedule: the days.

    Returns:
      (D, C, 2) exposures and conversions.

    Raises:
      Diverged: a score is not a number.
    """
    world, running = arm.world, arm.world.split.test
    all_campaigns = np.sort(np.concatenate([world.split.train, running]))
    counts = np.zeros((schedule.num_days, len(running), 2), np.int64)
    candidates = list(arm.bucket)
    feedback: list[Feedback] = []
    for day in range(schedule.num_days):
        progress = prefixed(arm.progress, f"day {day + 1} of {schedule.num_days}, ")
        data = replace(world.dataset, stage1=with_feedback(world.dataset.stage1, feedback))
        if day and day % schedule.general_every == 0:
            general = arm.method.fit(
                data,
                campaigns=all_campaigns,
                never_held_out=running,
                seed=arm.seed,
                directory=arm.directory / f"day-{day}",
                log=arm.directory.with_name(f"{arm.directory.name}-day-{day}.jsonl"),
                allow_changes=arm.allow_changes,
                progress=progress,
            )
        campaigns = [data.campaign(index) for index in running]
        models = arm.method.customise(general, data, campaigns, seed=arm.seed, progress=progress)
        rng = generator(arm.seed, DAYS + day)
        active = rng.random(data.num_users) < world.activity
        for place, (index, model) in enumerate(zip(running, models, strict=True)):
            users = take_audience(world, model, candidates[place], schedule.audience)
            shown = expose(world, index, users[active[users]], rng)
            feedback.append(shown)
            candidates[place] = np.setdiff1d(candidates[place], shown.user)
            counts[day, place] = len(shown.user), shown.converted.sum()
            progress("score", place + 1, len(running))
        forget_compiled()
    return counts


def take_audience(
    world: World, model: Customised, candidates: np.ndarray, audience: int
) -> np.ndarray:
    """The ``audience`` candidates with the highest scores, best first."""
    scores = model.score(world.dataset.user_rows[candidates])
    return candidates[top(scores, world.dataset.user_ids[candidates], audience)]


def expose(world: World, campaign: int, users: np.ndarray, rng: np.random.Generator) -> Feedback:
    """Shows a campaign to users; each converts with the true probability.

    ``rng`` draws one number for every user of the world, so that a user's outcome does not depend
    on who else is exposed.
    """
    draws = rng.random(world.dataset.num_users)
    owner = np.full(len(users), campaign)
    return Feedback(owner, users, draws[users] < world.truth.probability(users, owner))


def with_feedback(stage: Examples, feedback: Sequence[Feedback]) -> Examples:
    """The (E,) examples of a stage and its feedback, by campaign; the feedback comes last."""
    num_campaigns = len(stage.offsets) - 1
    owner = np.repeat(np.arange(num_campaigns), stage.counts)
    parts = [Feedback(owner, stage.user, stage.label), *feedback]
    campaign, user, label = (np.concatenate(column) for column in zip(*parts, strict=True))
    return group_by_campaign(campaign, user, label, num_campaigns=num_campaigns)
