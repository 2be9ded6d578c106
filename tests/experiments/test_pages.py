"""A report's text on the page, in Markdown and on the terminal."""

import errno
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console

from experiments.comparison.pages import Table, html, markdown, rich_table, save_figure

TABLE = Table("t", ["<method>", "auc"], [["x<y", ".5"]], note="± of <i>")


def test_text_in_the_page_is_escaped():
    page = html("a < b & c", [TABLE], ["<i>"], {}, "jax < 1")
    for text in (
        *("a &lt; b &amp; c", ">&lt;method&gt;</th>", ">x&lt;y</th>", "<li>&lt;i&gt;</li>"),
        *("<p>± of &lt;i&gt;</p>", "<p>jax &lt; 1</p>"),
    ):
        assert text in page


@pytest.mark.parametrize("form", [markdown, html])
def test_note_and_origin_stand_under_each_table(form):
    bare = Table("u", ["method"], [["LR"]])
    text = form("title", [TABLE, bare], ["a line"], {}, "jax 0.12.0")
    assert text.count("jax 0.12.0") == 2
    places = [text.index(part) for part in (".5", "± of", "jax 0.12.0", "LR", "a line")]
    assert places == sorted(places)
    assert "jax" not in form("title", [TABLE, bare], ["a line"], {}, "")


def test_the_terminal_goes_without_a_column():
    table = rich_table(["method", "AUC", "P", "AUC"], [["[bold]", ".5", ".6", ".7"]], "AUC")
    console = Console(width=60)
    with console.capture() as shown:
        console.print(table)
    assert "[bold]" in shown.get()
    assert ".6" in shown.get()
    assert ".5" not in shown.get()
    assert ".7" not in shown.get()


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path, figure = tmp_path / "lifts.png", Figure()
    save_figure(figure, path)
    before = path.read_bytes()
    assert before.startswith(b"\x89PNG")

    def full(file, **_):
        Path(file).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(figure, "savefig", full)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
