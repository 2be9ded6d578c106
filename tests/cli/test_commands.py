"""Each command, from end to end, against the library."""

import json

import numpy as np
import polars as pl
import pytest
from commands import contents, exit_code, interrupt_after, succeeds, tiny_settings

import metaheac_jax as mh
from metaheac_jax.audience.evaluating import group_means
from metaheac_jax.cli.fit import leak_notes
from metaheac_jax.cli.main import main
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.engines.arrow import open_export
from metaheac_jax.model import load
from metaheac_jax.schema import Schema

SIZE = 50
read = Schema.read


def folder_bytes(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def table(path):
    return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)


def test_prepared_data_is_the_librarys_without_excluded_users(made, few_fields, tmp_path):
    gone = pl.read_parquet(made.world / "users.parquet")["user_id"].to_list()[:3]
    (tmp_path / "gone.txt").write_text("\n".join(map(str, gone)))
    exclude = ("--exclude", tmp_path / "gone.txt")
    succeeds(main, "prepare", made.world, tmp_path / "data", "--schema", few_fields, *exclude)
    schema = tmp_path / "data" / "schema.json"
    succeeds(main, "prepare", made.world, tmp_path / "again", "--schema", schema)
    data, again = open_dataset(tmp_path / "data"), open_dataset(tmp_path / "again")
    assert data.num_users == again.num_users - 3
    assert (data.find_users(gone) == -1).all()
    assert data.schema == again.schema
    assert again.digest == mh.prepare(made.world, tmp_path / "own", schema=read(schema)).digest


def test_the_same_rows_twice_change_nothing_and_excluded_users_are_removed(made, own_data):
    new, digest = made.world / "new", open_dataset(own_data).digest
    tables = ("--campaigns", new / "campaigns.csv", "--examples", new / "examples.csv")
    succeeds(main, "add", own_data, *tables)
    assert open_dataset(own_data).digest == digest
    user = pl.read_csv(new / "examples.csv")["user_id"][0]
    (own_data.parent / "gone.txt").write_text(str(user))
    succeeds(main, "add", own_data, "--exclude", own_data.parent / "gone.txt")
    data = open_dataset(own_data)
    assert data.find_users([user]).tolist() == [-1]


def test_an_interrupted_training_goes_on_to_the_same_bits(made, tmp_path, monkeypatch):
    fit = ("fit", made.data, "--method", "mlp-pretraining", "--leave-out", *made.names, "--seed")
    with tiny_settings():
        succeeds(main, *fit, 1, tmp_path / "whole")
        with monkeypatch.context() as patch:
            interrupt_after(patch, 1)
            assert exit_code(main, *fit, 1, tmp_path / "model") == 130
        assert contents(tmp_path) == {"whole", "model.training"}
        assert exit_code(main, *fit, 2, tmp_path / "model") == 2
        succeeds(main, *fit, 1, tmp_path / "model")
    assert contents(tmp_path) == {"whole", "model"}
    assert folder_bytes(tmp_path / "whole") == folder_bytes(tmp_path / "model")
    general = load(tmp_path / "model")
    assert not {*made.names} & {*general.campaigns, *general.held_out}


def test_a_fraction_of_the_campaigns_is_left_out(made, tmp_path):
    succeeds(main, "fit", made.data, tmp_path / "model", "--method", "lr", "--leave-out", 0.25)
    assert len(load(tmp_path / "model").campaigns) == 16 - 4


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_audiences_are_the_librarys(made, tmp_path, ending):
    out = tmp_path / f"audiences.{ending}"
    names = made.names[:2]
    options = ("--campaign", *names, "--size", SIZE, "--out", out)
    succeeds(main, "expand", made.model, made.data, *options)
    data, general = open_dataset(made.data), load(made.model)
    expected = mh.expand(general, data, names, size=SIZE)
    assert table(out).cast({"score": pl.Float32}).equals(expected)
    assert contents(tmp_path) == {out.name}


def test_a_campaign_in_files_need_not_be_in_the_data(made, tmp_path):
    name, new, out = made.names[0], made.world / "new", tmp_path / "audience.csv"
    examples = pl.read_csv(new / "examples.csv").filter(campaign_id=name, label=1)
    examples.select("user_id").write_csv(tmp_path / "seeds.csv")
    [row] = pl.read_csv(new / "campaigns.csv").filter(campaign_id=name).to_dicts()
    del row["campaign_id"]
    (tmp_path / "attributes.json").write_text(json.dumps(row))
    options = ("--seeds", tmp_path / "seeds.csv", "--attributes", tmp_path / "attributes.json")
    succeeds(main, "expand", made.model, made.data, *options, "--size", SIZE, "--out", out)
    data, general = open_dataset(made.data), load(made.model)
    campaign = data.new_campaign(examples["user_id"].to_list(), row)
    expected = mh.expand(general, data, campaign, size=SIZE)
    assert pl.read_csv(out)["user_id"].equals(expected["user_id"])


def test_pool_and_exclude_say_who_may_be_in_an_audience(made, tmp_path):
    users = pl.read_parquet(made.world / "users.parquet")["user_id"]
    users[:1000].to_frame().write_csv(tmp_path / "pool.csv")
    (tmp_path / "bought.txt").write_text("\n".join(map(str, users[:500])))
    out = tmp_path / "audience.parquet"
    options = ("--pool", tmp_path / "pool.csv", "--exclude", tmp_path / "bought.txt")
    options += ("--percent", 10, "--probability", "--out", out)
    succeeds(main, "expand", made.model, made.data, "--campaign", made.names[0], *options)
    audience = pl.read_parquet(out)
    assert set(audience["user_id"]) <= set(users[500:1000])
    assert 40 <= len(audience) <= 50
    assert audience["probability"].is_between(0, 1).all()
    seeds = pl.read_csv(made.world / "new" / "examples.csv").filter(
        campaign_id=made.names[0], label=1
    )
    assert not set(audience["user_id"]) & set(seeds["user_id"])


def test_a_page_and_its_numbers(made, tmp_path):
    explain = ("explain", made.model, made.data, "--campaign", made.names[0], "--size", 100)
    for name in ("page.html", "page.json"):
        succeeds(main, *explain, "--out", tmp_path / name)
    page = (tmp_path / "page.html").read_text()
    assert str(made.names[0]) in page
    assert "http://" not in page  # it needs no network
    assert "https://" not in page
    numbers = json.loads((tmp_path / "page.json").read_text())
    assert json.dumps(numbers)


def test_a_model_is_judged_on_campaigns_that_it_has_not_seen(made, tmp_path, capsys):
    model, left_out = tmp_path / "model", made.old[:2]
    succeeds(main, "fit", made.data, model, "--method", "lr", "--leave-out", *left_out)
    capsys.readouterr()
    succeeds(main, "evaluate", model, made.data, "--against", model)
    told = capsys.readouterr().out
    result = mh.evaluate(load(model), open_dataset(made.data))
    assert result["campaign"].to_list() == left_out
    assert all(f"{own:.4f}" in told for own in group_means(result)["auc"])
    assert "Differences" in told


def test_an_export_scores_as_the_model_does(made, tmp_path):
    names, out = made.names[:2], tmp_path / "scorer"
    succeeds(main, "export", made.model, made.data, "--campaign", *names, "--out", out)
    data, general = open_dataset(made.data), load(made.model)
    audience = mh.expand(general, data, names, size=SIZE)[:SIZE]
    users = pl.read_parquet(made.world / "users.parquet").to_arrow()
    scores = open_export(out)(users)[data.find_users(audience["user_id"]), 0]
    np.testing.assert_allclose(scores, audience["score"], rtol=1e-5)


def test_a_model_that_is_too_good_gets_a_note_on_leaks():
    assert leak_notes(0.98) == []
    [note] = leak_notes(0.99951)
    assert "AUC of 0.9995" in note
    assert "tells who converted" in note
