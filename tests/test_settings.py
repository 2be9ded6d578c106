"""Presets: the values that the paper prints, and those of the authors' program."""

from metaheac_jax.settings import OFFICIAL, PAPER


def test_the_paper_prints_these_values():
    """Section 4.1: losses are sums, so its alpha is not that of a mean over 512 examples."""
    printed = {
        "width": 16,
        "inner_learning_rate": 0.001,
        "reduction": "sum",
        "batch_size": 512,
        "disjoint": True,
    }
    assert {name: getattr(PAPER, name) for name in printed} == printed
    assert 3 <= PAPER.num_critics <= 10
    assert 3 <= PAPER.num_experts <= 10
    assert PAPER.outer_learning_rate in (0.001, 0.005, 0.01, 0.02, 0.1)


def test_what_the_paper_does_not_state_is_as_in_the_program():
    shared = {
        "num_experts": 8,
        "num_critics": 5,
        "mixture": "sum",
        "table_scale": 1.0,
        "outer_learning_rate": 0.001,
        "campaigns_per_step": 5,
        "batch_size": 512,
        "weight_decay": 0.0,
        "value_dropout": 0.0,
        "online_learning_rate": 0.001,
        "online_adapts": "all",
    }
    for settings in (PAPER, OFFICIAL):
        assert {name: getattr(settings, name) for name in shared} == shared


def test_stages_end_where_the_paper_says_until_convergence():
    """Two epochs of four judgements offline; three epochs online."""
    assert (PAPER.offline_patience, PAPER.offline_epochs) == (8, 100)
    assert (PAPER.online_patience, PAPER.online_epochs) == (3, 10)


def test_the_program_has_these_values_of_its_own():
    own = {
        "width": 64,
        "inner_learning_rate": 0.0002,
        "reduction": "mean",
        "disjoint": False,
        "offline_epochs": 1,
        "offline_patience": None,
        "online_epochs": 2,
        "online_patience": None,
    }
    assert {name: getattr(OFFICIAL, name) for name in own} == own
