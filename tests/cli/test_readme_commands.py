"""The README's way from seeds to an audience, as its commands stand."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from commands import few_campaigns, succeeds, tiny_settings, write_few_fields
from scipy import stats

from metaheac_jax.cli import simulate
from metaheac_jax.cli.main import main
from metaheac_jax.data.simulation import write_table_world
from metaheac_jax.model import load

README = (Path(__file__).parents[2] / "README.md").read_text()
NEW = "new=world/new/$(ls world/new | head -1)"


def commands():
    """The lines of the block without the first, which sets the environment up."""
    [block] = [b for b in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) if "--tables" in b]
    return block.splitlines()[1:]


def run(line, campaign=None):
    """Runs a line, for the first of the new campaigns or another one."""
    if line.startswith("new="):
        assert line == NEW
        return
    program, command, *words = shlex.split(line, comments=True)
    assert program == "metaheac"
    campaign = campaign or next(iter(new_campaigns()), "")
    if command == "feedback":
        show(campaign, "first.csv", "shown.csv")
    succeeds(main, command, *(word.replace("$new", f"world/new/{campaign}") for word in words))


def new_campaigns():
    return sorted(path.name for path in Path("world/new").glob("*"))


def show(campaign, audience, out):
    """Plays the market: writes who of an audience converted."""
    users, rates = pl.read_csv(audience)["user_id"], true_rates(campaign, audience)
    converted = np.random.default_rng(0).random(len(users)) < rates
    pl.DataFrame({"user_id": users, "converted": converted.astype(int)}).write_csv(out)


def true_rates(campaign, audience):
    """The true probability that each user of an audience converts."""
    truth = pl.read_parquet(f"world/new/{campaign}/truth.parquet")
    users = pl.read_csv(audience).select("user_id")
    return users.join(truth, on="user_id", maintain_order="left")["probability"].to_numpy()


@pytest.mark.slow
def test_they_run_as_they_stand(tmp_path, monkeypatch):
    """In a world of 4,000 users, with a network of a few numbers."""
    monkeypatch.chdir(tmp_path)

    def small(out, **options):
        options |= {"users": 4000, "shape": few_campaigns(16), "min_pool_examples": 40}
        write_table_world(out, **options)
        schema = out / "schema.json"
        write_few_fields(schema, json.loads(schema.read_text()))

    monkeypatch.setattr(simulate, "write_table_world", small)
    with tiny_settings():
        for line in commands():
            run(line)
    assert len(pl.read_csv("first.csv")) == len(pl.read_csv("second.csv")) == 2000
    assert "tea" in load("tomorrow").campaigns


@pytest.mark.long
def test_the_second_audience_converts_better(tmp_path, monkeypatch, capsys):
    """In the README's own world, for each of the ten new campaigns.

    Who converted in the first audience is a seed and no candidate for the second one. So it is
    compared with the audience that the model finds among the same candidates without the update.
    """
    monkeypatch.chdir(tmp_path)
    lines = commands()
    [first] = [n for n, line in enumerate(lines) if " customise " in line]
    last = max(n for n, line in enumerate(lines) if " expand " in line)
    for line in lines[:first]:
        run(line)
    rates = []
    for campaign in new_campaigns():
        shutil.rmtree("tea", ignore_errors=True)  # it has another campaign's feedback
        for line in lines[first : last + 1]:
            if " update " in line:
                run("metaheac expand tea --data data --size 2000 --out without.csv", campaign)
            run(line, campaign)
        names = ("second", "without", "first")
        rates.append([true_rates(campaign, f"{name}.csv").mean() for name in names])
    second, *others = np.array(rates).T
    assert len(second) == 10
    means, halves = [], []
    for name, other in zip(("without the update", "first"), others, strict=True):
        gain = second - other
        means.append(gain.mean())
        halves.append(stats.t.ppf(0.975, 9) * gain.std(ddof=1) / np.sqrt(10))
        with capsys.disabled():
            print(f"\ntrue conversion rate, second - {name}: {means[-1]:+.4f} +-{halves[-1]:.4f}")
    assert means[0] > halves[0]
