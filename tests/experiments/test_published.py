"""The paper's figures: sums of its printed columns, which a slip of a digit would change."""

import pytest

from experiments.comparison.published import PUBLISHED


@pytest.mark.parametrize(
    ("world", "num_methods", "sums"),
    [
        ("tencent", 12, (8.1358, 2.4193, 1.7306, 8.4416, 2.4950, 1.9272)),  # with Table 4
        ("wechat", 9, (6.2826, 2.6027, 1.4306, 6.4347, 2.5726, 1.4054)),
    ],
)
def test_columns_add_up_to_the_papers(world, num_methods, sums):
    """AUC, P@5% and R@5% on small seed sets, then on large ones; Table 4 prints no R@5%."""
    methods = PUBLISHED[world]
    assert len(methods) == num_methods
    columns = [sum(figures[i] or 0 for figures in methods.values()) for i in range(6)]
    assert columns == pytest.approx(sums, abs=1e-9)
