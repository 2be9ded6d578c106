"""The README's Python runs as it stands, on a toy data set; its links lead somewhere."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from toy import dataset

import metaheac_jax

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_from_prepared_data_to_an_audience(monkeypatch, tmp_path):
    data = dataset()
    monkeypatch.setattr(metaheac_jax, "open_dataset", lambda _: data)
    short = replace(metaheac_jax.PAPER, width=4, num_experts=2, num_critics=2, offline_epochs=1)
    monkeypatch.setattr(metaheac_jax, "PAPER", short)
    monkeypatch.chdir(tmp_path)
    seeds = data.user_ids[data.campaign(3).seeds]
    names = {"user_ids": seeds.tolist(), "attributes": {"advertiser": 2, "category": 1}}
    exec(blocks()[0], names)
    audience = names["audience"]
    assert len(audience) == len(set(audience.user_ids)) == 600 - len(seeds)
    assert not np.isin(audience.user_ids, seeds).any()
    assert metaheac_jax.load("models/june").method == "metaheac"


def test_the_meta_step_alone():
    names = {}
    exec(blocks()[1], names)
    assert names["info"].query_loss.shape == (8,)


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(README.splitlines()) <= 150
    assert len(README.split()) <= 2100
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "experiments").rglob("*.md")]
    assert len(pages) > 10
    for page in pages:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), link
