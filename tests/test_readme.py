"""The README's Python runs, its commands parse, and the links of all pages lead somewhere."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tyro
from commands import tiny_settings
from toy import dataset

import metaheac_jax
from metaheac_jax.cli.main import Command
from metaheac_jax.methods import METHODS, configured

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *ROOT.glob("experiments/**/*.md"),
    ]
}


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def commands():
    """Every `metaheac` command of the README and docs, and of the CI."""
    texts = [block for page in PAGES for block in blocks(page, "bash")]
    texts.append((ROOT / ".ci" / "run").read_text())
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [line for line in lines if line.startswith("metaheac ")]


@pytest.mark.parametrize("line", commands())
def test_a_command_parses(line):
    words = shlex.split(line, comments=True)
    tyro.cli(Command, args=words[1:], config=(tyro.conf.FlagCreatePairsOff,))


def test_the_python_of_the_readme(monkeypatch, tmp_path):
    [code] = blocks("README.md", "python")
    data = dataset(users=3000, campaigns=12)
    monkeypatch.setattr(metaheac_jax, "prepare", lambda *_: data, raising=False)
    monkeypatch.setattr(metaheac_jax, "add", lambda data, **_: data, raising=False)
    monkeypatch.chdir(tmp_path)
    code = re.sub(r"data, 355, size", f"data, {data.campaign_ids[-1]}, size", code)
    names = {}
    with tiny_settings():
        exec(code, names)
    assert len(names["audience"]) == 2000
    assert metaheac_jax.load("model").method == "metaheac"
    assert "<html" in names["page"]


def test_the_python_of_the_meta_step():
    """Adapting is worth something, and a table takes steps."""
    names = {}
    for code in blocks("docs/meta-step.md", "python"):
        exec(code.replace("key(1), 1000)", "key(1), 300)"), names)  # fewer steps
    loss, wave = names["loss"], names["wave"]
    assert loss(names["adapted"], wave) < 0.5 * loss(names["params"], wave)
    assert names["info"].query_loss.shape == (2,)
    assert names["table"].shape == (100_000, 4)


def test_links_lead_somewhere():
    assert len(PAGES) > 5
    for page, text in PAGES.items():
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            assert link.startswith("https://") or ((ROOT / page).parent / link).exists(), link


def test_the_method_of_contributing():
    code, _ = blocks("CONTRIBUTING.md", "python")  # and a test of it
    data, names = dataset(), {}
    try:
        exec(code, names)
        general = metaheac_jax.fit(data, configured("counts", power=2))
        audience = metaheac_jax.expand(general, data, 100, size=50)
    finally:
        METHODS.pop("counts")
    seeds = data.campaign(0).seeds
    counts = np.bincount(data.user_rows[seeds].ravel(), minlength=data.num_rows + 1)
    counts[data.num_rows] = 0
    users = data.find_users(audience["user_id"])
    np.testing.assert_array_equal(audience["score"], (counts**2)[data.user_rows[users]].sum(axis=1))
