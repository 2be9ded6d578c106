"""``metaheac evaluate``: how good the audiences of a general model are on held-out campaigns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.table import Table

from metaheac_jax.audience.evaluation import PERCENT, judge_all, pool_rows
from metaheac_jax.cli import terminal
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.splits import Split, small_campaigns
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import write_json
from metaheac_jax.methods import method_of
from metaheac_jax.model import load


@dataclass(frozen=True)
class Options:
    """Judges a general model on campaigns that it was not trained on.

    Customises the model to each such campaign of the data, scores the campaign's pool (stage 2)
    and prints AUC, precision and recall of the top 5%, averaged over campaigns with small and with
    large seed sets. Train with `metaheac fit --campaigns paper` to leave campaigns out.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Folder of a general model, from `metaheac fit`."""
    data: Path
    """Folder of the data set, from `metaheac prepare`."""
    out: Path | None = None
    """JSON file for the figures of every campaign."""
    seed: int = 0
    """Seed of fine-tuning."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--seed", options.seed, 0)
    if options.out is not None:
        terminal.check_output("--out", options.out)
    screen = terminal.screen()
    terminal.keep_compiled()
    with terminal.progress_display(screen) as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        trained = set(general.campaigns)
        known = np.array([plain_id(key) in trained for key in data.campaign_key])
        test = np.flatnonzero(~known & (data.stage2.counts > 0)).tolist()
        if not len(test):
            raise InputError(
                f"{options.model}: was trained on every campaign that {options.data} can judge; "
                "train with `metaheac fit --campaigns paper` to leave some out"
            )
        method = method_of(general)
        campaigns = [data.campaign(c) for c in test]
        models = method.customise(general, data, campaigns, seed=options.seed, progress=progress)
        scores = []
        for c, model in zip(test, models, strict=True):
            scores.append(model.score(pool_rows(data, c)))
            progress("score", len(scores), len(test))
    small, threshold = small_campaigns(data)
    split = Split(np.flatnonzero(known), np.array(test), small, threshold)
    result = judge_all(data, split, scores, label=method.label)
    if options.out is not None:
        write_json(options.out, result)
    table = Table(title=f"{method.label} on {data.name}")
    for name in ("seed sets", "campaigns", "AUC", f"P@{PERCENT:g}%", f"R@{PERCENT:g}%"):
        table.add_column(name, justify="left" if name == "seed sets" else "right")
    for group, sign in (("small", "at most"), ("large", "more than")):
        members = [c for c in result["campaigns"] if c["group"] == group]
        means = [np.mean([c[m] for c in members]) for m in ("auc", "precision", "recall")]
        cells = [f"{mean:.4f}" for mean in means] if members else ["-"] * 3
        table.add_row(f"{sign} {threshold:,} seeds", str(len(members)), *cells)
    screen.print(table)
    for left in result["left_out"]:
        screen.print(f"campaign {left['campaign']} could not be judged: {left['why']}")
