"""The interface of a method: training on many campaigns, and customising to new ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from metaheac_jax.data.batches import check_campaigns, check_indices
from metaheac_jax.data.campaign import Campaign, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.files import locked
from metaheac_jax.methods.held_out_campaigns import (
    HeldOut,
    halve,
    hold_out_campaigns,
    judge_models,
    mean_quality,
)
from metaheac_jax.methods.record import digest_of_start, general_of, keep_training_config
from metaheac_jax.methods.stages import Adapt, Restore, Run, Train
from metaheac_jax.model import (
    Customised,
    General,
    Scorer,
    State,
    Watch,
    on_device,
)
from metaheac_jax.processes import check_same, is_first, of_all, own_part
from metaheac_jax.progress import Progress, silent
from metaheac_jax.settings import Settings
from metaheac_jax.training.checkpoint import array_digest
from metaheac_jax.training.loop import Quality


@dataclass(frozen=True)
class Method:
    """A way to train a general model and to customise it.

    Attributes:
      name: name for commands.
      label: name for tables.
      settings: settings of both stages.
      train: the offline stage.
      adapt: the online stage.
      restore: makes scorers from saved weights; None if its scorers have no `AdaptedWeights`.
      tuned: names of the settings that are chosen on held-out training campaigns, in the order of
        the search.
      takes_steps: whether the offline stage takes gradient steps.
      holds_out: whether an offline stage without gradient steps also holds out campaigns, to
        determine when to stop.
      log_odds: whether a score is the log-odds of converting, at the rate of the campaign's
        examples.
      splits: whether the online stage can keep the first layer fixed; see `settings.Adapts`.
      meshes: whether several devices can share the work of both stages. The devices of one process
        do not share that of solved heads, nor of ``online_adapts`` "heads".
      general_scores: whether the general model ranks users for a campaign without its seeds.
      no_start: why a method that takes steps cannot continue from a model; empty if it can.
      work: arithmetic cost per example, offline and online (per epoch), as multiples of a forward
        pass of MetaHeac's network; for time estimates.

    Raises:
      InputError: the settings adapt heads only, which the method cannot do, or have a penalty of 0,
        with which a regression may have no minimum.
    """

    name: str
    label: str
    settings: Settings
    train: Train
    adapt: Adapt
    restore: Restore | None = None
    tuned: tuple[str, ...] = ()
    takes_steps: bool = False
    holds_out: bool = False
    log_odds: bool = True
    splits: bool = False
    meshes: bool = False
    general_scores: bool = True
    no_start: str = ""
    work: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if self.settings.online_adapts == "heads" and not self.splits:
            raise InputError(
                f"{self.name}: cannot adapt heads only; choose a method such as 'metaheac', or "
                "online_adapts 'all'"
            )
        if "penalty" in self.tuned and not self.settings.penalty:  # it fits regressions
            raise InputError(f"{self.name}: settings: penalty: expected a number above 0, got 0")

    def with_settings(self, **changed: Any) -> Method:
        """The method with other values for some settings."""
        return replace(self, settings=replace(self.settings, **changed))

    def check(self, data: Dataset, campaigns: Sequence[int] | np.ndarray) -> None:
        """Checks that the method can be trained on these campaigns (by index).

        Raises:
          InputError: a campaign has too few examples or a single class, or there are too few
            campaigns.
        """
        check_campaigns(data, campaigns)
        self._check_number(data, campaigns)

    def _check_number(
        self, data: Dataset, campaigns: Sequence[int] | np.ndarray, besides: str = ""
    ) -> None:
        """Refuses fewer training campaigns than `Settings.campaigns_per_step`."""
        if self.takes_steps and len(campaigns) < self.settings.campaigns_per_step:
            none = ", hold none out (metaheac fit --epochs N)" if besides else ""
            raise InputError(
                f"{data.where}: {len(campaigns)} training campaigns{besides}, but {self.name} "
                f"needs {self.settings.campaigns_per_step}; add campaigns{none}, or train "
                "'lr' instead, which learns from each campaign alone"
            )

    def check_mesh(self) -> None:
        """Checks that the method can use several devices.

        Raises:
          InputError: it cannot.
        """
        if not self.meshes:
            raise InputError(
                f"{self.name}: cannot use a mesh of devices; choose a method such as 'metaheac' or "
                "'mlp-pretraining', or omit the mesh"
            )

    def check_start(self, start: General, data: Dataset) -> None:
        """Checks that training can continue from a general model.

        Raises:
          InputError: the method cannot continue from a model, the model is of another method,
            network or earlier version or has no optimiser state, or the data lacks fields or values
            of the model.
        """
        if not self.takes_steps or self.no_start:
            why = self.no_start or "takes no steps"
            raise InputError(
                f"{self.name} {why}, so it cannot continue from a model; fit it from scratch"
            )
        self._check_own(start)
        if start.optimizer is None:
            raise InputError(
                f"the general model of {start.data!r} has no optimiser state; in Python load it "
                "with optimizer=True; if it was saved without one, fit it from scratch"
            )
        # The sizes differ if the data lacks a value of the model.
        if data.vocabulary.extending(data.schema, start.schema, start.vocabulary).sizes != (
            data.vocabulary.sizes
        ):
            raise InputError(
                f"{data.where}: lacks values that the model was trained on; prepare the data "
                "with --extends"
            )

    def fit(
        self,
        data: Dataset,
        *,
        start: General | None = None,
        campaigns: Sequence[int] | np.ndarray | None = None,
        held_out: Sequence[int] | np.ndarray | None = None,
        never_held_out: Sequence[int] | np.ndarray = (),
        seed: int = 0,
        mesh: Mesh | None = None,
        directory: Path | str | None = None,
        log: Path | str | None = None,
        allow_changes: Collection[str] = (),
        skip_nonfinite: int = 0,
        progress: Progress = silent,
    ) -> General:
        """Trains a general model.

        Args:
          data: the data set; its stage 1 has the examples.
          start: a model of this method to continue from, with its optimiser's state. The step
            numbers, which determine the batches, continue; embeddings move with their values; new
            values start as in an untrained model. The data must have the model's fields and values.
          campaigns: indices of the training campaigns; by default all that are not ``held_out``.
          held_out: indices of other campaigns, which determine when a method that holds out
            campaigns stops. For the default see `methods.held_out_campaigns.hold_out_campaigns`.
          never_held_out: indices of campaigns that are never held out.
          seed: random seed of initial values and batches.
          mesh: several devices, from `training.sharding.device_mesh`; the result differs from that
            of one device only by rounding. If there are several processes, all call this with the
            same arguments and get the same model; the first one writes the files.
          directory: folder for checkpoints, from which training resumes; None for no checkpoints.
            The configuration is in a file beside the folder, with the same name and ``.json``.
          log: a file to which JSON lines with losses and speed are appended; its folder is made. A
            resumed training first removes those after its checkpoint, so with ``directory`` every
            training needs a log of its own.
          allow_changes: what may have changed since the checkpoints were started, for example "jax"
            (see `environment.MayChange`). Of the settings, only the offline epochs, the offline
            patience and those that only the online stage uses may change.
          skip_nonfinite: maximum number of steps that may be skipped because their loss, gradient
            or result is not finite; each gives a warning and a log line. A resumed training counts
            those in its log. The maximum applies to each member of an ensemble.
          progress: receives the number of steps done.

        Raises:
          InputError: the data is invalid, a campaign cannot be trained on or held out (it is
            named), there are too few, the method cannot use several devices, or the directory has
            checkpoints of another training, data, code or library version.
          Busy: another process is writing to the directory.
          Diverged: the loss, gradient or result of a step that may not be skipped is not finite.
        """
        chosen, held_out = self._chosen(data, campaigns, held_out)
        directory, log = (None if path is None else Path(path) for path in (directory, log))
        check_whole("seed", seed, 0)
        check_whole("skip_nonfinite", skip_nonfinite, 0)
        if mesh is not None:
            self.check_mesh()
        writes = mesh is None or is_first()
        if writes:  # the first process checks all of the data for the others
            data.check()
        else:
            log, progress = None, silent
        if mesh is not None:
            parts = (chosen, held_out, never_held_out)
            self._check_processes(data, start, parts, (seed, skip_nonfinite))
        self.check(data, chosen)
        if start is not None:
            self.check_start(start, data)
        run = Run(data, chosen, self.settings, seed, directory, log, progress)
        run = replace(run, label=self.label, start=start, skip_nonfinite=skip_nonfinite, mesh=mesh)
        if self._judges:
            run = self._judged(run, held_out, never_held_out)
        kept = directory if writes else None
        with nullcontext() if kept is None else locked(kept):
            if kept is not None:
                keep_training_config(self.name, run, kept, allow_changes, progress)
            if log is not None:
                log.parent.mkdir(parents=True, exist_ok=True)
            trained = self.train(run)
        return general_of(self.name, run, trained)

    def _check_processes(
        self,
        data: Dataset,
        start: General | None,
        campaigns: Sequence[Sequence[int] | np.ndarray | None],
        numbers: tuple[int, ...],
    ) -> None:
        """Refuses to train if the processes of a job were given different things."""
        check_same("data and model", (data.digest, data.num_users, digest_of_start(start)))
        indices = [None if part is None else np.asarray(part).tolist() for part in campaigns]
        check_same("settings, campaigns and seed", (asdict(self.settings), indices, numbers))

    @property
    def _judges(self) -> bool:
        """Whether held-out campaigns determine when the offline stage stops."""
        early = self.settings.offline_patience is not None and self.settings.offline_epochs > 0
        return early and (self.takes_steps or self.holds_out)

    def _judged(
        self, run: Run, held_out: np.ndarray | None, never_held_out: Sequence[int] | np.ndarray
    ) -> Run:
        """A run that held-out campaigns judge; by default they come from its campaigns."""
        data, chosen, seed = run.dataset, run.campaigns, run.seed
        if held_out is None:
            chosen, held_out = hold_out_campaigns(
                data, chosen, seed, start=run.start, never_held_out=never_held_out
            )
            self._check_number(data, chosen, f" (besides {len(held_out)} that are held out)")
        halves = [halve(data, int(c), seed) for c in held_out]
        judge = lambda state: self.judge_state(run, state, halves)  # noqa: E731
        return replace(run, campaigns=chosen, held_out=held_out, judge=judge)

    def _chosen(
        self,
        data: Dataset,
        campaigns: Sequence[int] | np.ndarray | None,
        held_out: Sequence[int] | np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The campaigns to train on, and the held-out ones if they are given."""
        every = np.arange(data.num_campaigns)
        if held_out is None:
            return every if campaigns is None else np.asarray(campaigns), None
        held = np.asarray(held_out)
        check_indices(data, held)
        chosen = np.setdiff1d(every, held) if campaigns is None else np.asarray(campaigns)
        check_indices(data, chosen)
        both = np.intersect1d(chosen, held)
        if len(both):
            raise InputError(
                f"{data.where}: campaign {plain_id(data.campaign_ids[both[0]])} is both a "
                "training and a held-out campaign; leave it out of one"
            )
        return chosen, held

    def judge(
        self,
        general: General,
        data: Dataset,
        campaigns: Sequence[int] | np.ndarray,
        *,
        seed: int = 0,
    ) -> Quality:
        """Judges a general model on campaigns that it was not trained on.

        It is customised to half of each campaign's stage 1 and judged on the other half; see
        `methods.held_out_campaigns`.

        Args:
          general: a model trained by this method.
          data: the data set with the campaigns.
          campaigns: their indices; each needs two seeds and two non-seeds in stage 1.
          seed: random seed of the halves and of customising.

        Raises:
          InputError: the general model has another method, network, schema or vocabulary, or is of
            an earlier version, the campaigns are not one or more distinct indices, or one has fewer
            than two seeds or two non-seeds.
          Diverged: a score is not a number.
        """
        check_indices(data, np.asarray(campaigns))
        self._check_own(general)
        general.check_data(data)
        check_whole("seed", seed, 0)
        run = Run(data, np.empty(0, int), self.settings, seed)
        return self.judge_state(run, general.state, [halve(data, int(c), seed) for c in campaigns])

    def judge_state(self, run: Run, state: State, halves: Sequence[HeldOut]) -> Quality:
        """Judges a state of the offline stage on held-out campaigns; see `judge`.

        Raises:
          Diverged: a score is not a number.
        """
        own = range(len(halves)) if run.mesh is None else own_part(len(halves))
        quiet, state = replace(run, progress=silent), on_device(state)
        judged = judge_models(
            lambda chosen: self.adapt(quiet, state, chosen),
            run.dataset,
            [halves[number] for number in own],
        )
        judged = judged if run.mesh is None else of_all(judged, len(halves))
        return mean_quality(judged, halves)

    def customise(
        self,
        general: General,
        data: Dataset,
        campaigns: Sequence[Campaign],
        *,
        seed: int = 0,
        mesh: Mesh | None = None,
        directory: Path | str | None = None,
        progress: Progress = silent,
        watch: Watch[Scorer] | None = None,
    ) -> list[Customised]:
        """Customises a general model to campaigns.

        Args:
          general: a model trained by this method.
          data: has the campaigns' users, and the fields and vocabulary of ``general``.
          campaigns: from `Dataset.new_campaign` or `Dataset.campaign`.
          seed: random seed of held-out examples and minibatches, which do not depend on the other
            campaigns; nor does a model, but for rounding.
          mesh: several devices, which divide the campaigns; see `fit`. Every process gets all
            models, each customised by one process; ``watch`` follows those of its own process.
            Solved heads, and ``online_adapts`` "heads", use one device of each process.
          directory: folder in which a method with a network keeps each customised campaign, so that
            an interrupted call can resume; the caller removes the folder. None keeps nothing.
          progress: receives the number of campaigns done.
          watch: follows an online stage that takes gradient steps, except an ensemble's.

        Returns:
          One model per campaign, in the same order.

        Raises:
          InputError: the general model has another method or schema or is of an earlier version, a
            campaign has no examples, or has users or fields that the data lacks, or the method
            cannot use several devices.
          Diverged: weights or scores are not finite.
        """
        if mesh is not None:
            self.check_mesh()
        self._check_own(general)
        general.check_data(data)
        check_whole("seed", seed, 0)
        if isinstance(campaigns, Campaign):
            raise InputError("campaigns: expected a list of campaigns, got one; write [campaign]")
        for campaign in campaigns:
            if not isinstance(campaign, Campaign):
                raise InputError(
                    f"campaigns: expected a list of campaigns, but it contains {campaign!r}"
                )
            campaign.check(data.num_users, len(data.schema.campaign))
        if mesh is not None:
            parts = chain(*((own.users, own.labels, own.rows) for own in campaigns))
            digests = [array_digest(part) for part in parts]
            check_same(
                "settings, seed and campaigns to customise", (asdict(self.settings), seed, digests)
            )
        run = Run(
            data,
            np.empty(0, int),
            self.settings,
            seed,
            progress=progress,
            mesh=mesh,
            kept=None if directory is None else Path(directory),
            watch=watch,
        )
        state = on_device(general.state)
        if mesh is None:
            models = self.adapt(run, state, campaigns)
        else:
            models = self._adapt_together(run, state, campaigns)
        return [
            Customised(general, campaign, data.ids_of_seeds(campaign), scorer)
            for campaign, scorer in zip(campaigns, models, strict=True)
        ]

    def _adapt_together(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> list[Scorer]:
        """As `adapt`, with each campaign customised by one of the processes."""
        own = own_part(len(campaigns))
        run = replace(run, progress=run.progress if is_first() else silent)
        models = self.adapt(run, state, [campaigns[number] for number in own])
        if jax.process_count() == 1:
            return models
        adapted = [jax.device_get(getattr(model, "adapted", None)) for model in models]
        assert self.restore is not None  # a method that uses meshes has it
        return [
            self.restore(run, state, campaign, jax.tree.map(jnp.asarray, weights))
            for campaign, weights in zip(campaigns, of_all(adapted, len(campaigns)), strict=True)
        ]

    def _check_own(self, general: General) -> None:
        """Checks that a general model has this method, weights and the same network."""
        if general.method != self.name:
            raise InputError(
                f"the general model was trained by {general.method!r}, not by {self.name!r}; "
                "use its own method"
            )
        if self.restore is not None and "table" not in general.state:
            raise InputError(
                f"the general model was trained by an earlier version of {self.name!r}; fit it "
                "again"
            )
        trained = general.settings
        for name in ("width", "num_experts", "num_critics", "mixture"):
            own, other = getattr(self.settings, name), getattr(trained, name)
            if own != other:
                raise InputError(
                    f"the general model was trained with {name} {other!r}, the method has {own!r}; "
                    "use methods.method_of(general)"
                )
