"""The feedback loop by the commands of the README: an audience, its answers, a new model."""

import polars as pl
from commands import succeeds, tiny_settings

from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.model import load

SIZE = 200


def test_answers_are_added_learned_from_and_told(made, own_data, tmp_path, capsys):
    first, shown = tmp_path / "first.csv", tmp_path / "shown.csv"
    expand = ("expand", made.model, own_data, "--all-new", "--size", SIZE, "--out", first)
    succeeds(main, *expand)
    audiences = pl.read_csv(first)
    assert audiences.columns == ["campaign_id", "rank", "user_id", "score"]
    assert sorted(audiences["campaign_id"].unique()) == made.names
    assert audiences["rank"].to_list() == list(range(1, SIZE + 1)) * len(made.names)

    succeeds(main, "simulate", made.world, "--show", first, "--out", shown)
    answers = pl.read_csv(shown)
    assert answers.columns == ["campaign_id", "user_id", "label", "audience"]
    assert answers.height == audiences.height
    before = open_dataset(own_data)
    succeeds(main, "add", own_data, "--examples", shown)
    after = open_dataset(own_data)
    for name in made.names:
        old, new = (data.campaign(data.index_of(name)) for data in (before, after))
        converts = answers.filter(campaign_id=name, label=1).height
        assert len(new.seeds) == len(old.seeds) + converts

    with tiny_settings():
        succeeds(main, "fit", own_data, tmp_path / "tomorrow", "--from", made.model)
    tomorrow = load(tmp_path / "tomorrow")
    assert {*made.names} & {*tomorrow.campaigns, *tomorrow.held_out}

    capsys.readouterr()
    one = tmp_path / "one.csv"
    audiences.filter(campaign_id=made.names[0]).write_csv(one)
    succeeds(main, "evaluate", made.model, own_data, "--audience", one)
    converts = answers.filter(campaign_id=made.names[0])["label"].sum()
    assert f"{converts:,}" in capsys.readouterr().out
