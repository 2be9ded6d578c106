"""The README's Python runs as it stands, on a toy data set."""

import re
from pathlib import Path

from toy import dataset

import metaheac_jax

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_from_prepared_data_to_an_audience(monkeypatch):
    monkeypatch.setattr(metaheac_jax, "open_dataset", lambda _: dataset())
    names = {}
    exec(blocks()[0].replace("steps=100", "steps=5"), names)
    assert len(names["audience"]) == len(set(names["audience"])) == 600


def test_the_meta_step_alone():
    names = {}
    exec(blocks()[1], names)
    assert names["info"].query_loss.shape == (8,)
