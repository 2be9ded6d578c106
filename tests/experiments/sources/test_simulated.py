"""The cache of simulated worlds."""

from commands import contents
from writers import release

from experiments.sources.simulated import make_once


def stop(*_, **__):
    raise KeyboardInterrupt


def test_what_another_process_writes_is_waited_for(tmp_path, writers):
    told = []
    with writers.of(tmp_path / "out") as process:

        def tell(*call):
            told.append(call)
            release(process)

        make_once(tmp_path / "out", (tmp_path / "out").mkdir, progress=tell)
    assert "another process" in told[0][0]
    make_once(tmp_path / "out", stop, progress=stop)
    assert contents(tmp_path) == {"out"}
