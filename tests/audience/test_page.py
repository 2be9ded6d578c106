"""The page of `explain` in a real browser, where Chromium is installed: on a phone and on paper."""

import html
import re
import shutil
import subprocess

import numpy as np
import pytest
from fixed_scores import fixed
from toy import dataset

import metaheac_jax as mh
from metaheac_jax.data.dataset import SensitiveField

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium: apt-get install chromium")
PHONE, PAPER = 390, 794  # widths in pixels, of a telephone and of A4


@pytest.fixture(scope="module")
def page():
    data = dataset(users=3000, campaigns=3, per_campaign=300, pool=30)
    codes = np.arange(3000, dtype=np.int32)[:, None] % 2
    names = np.array(["a value with a long name", "b"])
    object.__setattr__(data, "sensitive", {"field": SensitiveField(names, codes)})
    general = fixed(lambda rows: rows[:, 1].astype(np.float32), data=data)
    return mh.explain(general, data, int(data.campaign_ids[0]), size=300).html()


def browse(path, *options):
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", *options, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout


@pytest.mark.parametrize("width", [PHONE, PAPER])
def test_nothing_is_wider_than_the_screen(page, tmp_path, width):
    """A page around it measures it, since it runs nothing itself."""
    measure = (
        "const own = this.contentDocument.documentElement;"
        "document.title = own.scrollWidth + ' ' + own.scrollHeight"
    )
    path = tmp_path / "frame.html"
    path.write_text(
        f'<iframe width="{width}" height="800" style="border: 0" onload="{measure}" '
        f'srcdoc="{html.escape(page)}"></iframe>'
    )
    found = re.search(r"<title>(\d+) (\d+)</title>", browse(path, "--dump-dom"))
    assert found
    assert int(found[1]) <= width
    assert int(found[2]) > 1000


def test_it_is_drawn_and_printed(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page)
    for width in (PHONE, PAPER):
        shot = tmp_path / f"{width}.png"
        browse(path, f"--screenshot={shot}", f"--window-size={width},1200")
        assert shot.stat().st_size > 20_000  # an empty one has some 5,000 bytes
    browse(path, f"--print-to-pdf={tmp_path / 'page.pdf'}", "--no-pdf-header-footer")
    assert 2 <= (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n") <= 4
