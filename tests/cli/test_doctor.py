"""What is installed: the version, and the doctor's findings."""

from importlib.metadata import version

import jax
import pytest
from commands import exit_code

from metaheac_jax import backend
from metaheac_jax.cli import doctor
from metaheac_jax.cli.main import main
from metaheac_jax.errors import BackendError


def test_the_version(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["metaheac", "--version"])
    main()
    told = f"metaheac {version('metaheac-jax')}, jax {jax.__version__}\n"
    assert capsys.readouterr().out == told


def test_the_doctor_names_what_decides_results(capsys, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_mine=1")
    assert exit_code(main, "doctor") == 0
    told = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert told["jaxlib"] == version("jaxlib")
    assert told["processor"] == backend.processor()
    assert told["XLA_FLAGS"] == "--xla_of_mine=1"


@pytest.mark.parametrize("wrong", [True, False])
def test_the_verdict_on_programs_without_the_options(capsys, monkeypatch, wrong):
    def check(jit):
        if wrong and jit is jax.jit:
            raise BackendError("jaxlib 9 computes sums wrongly")

    monkeypatch.setattr(backend, "check_backend", check)
    doctor.main(doctor.Options())
    own, yours = capsys.readouterr().out.splitlines()
    assert own.split(None, 2) == ["this", "package", "right"]
    assert yours.endswith("jaxlib 9 computes sums wrongly" if wrong else "right")


def test_findings_come_before_a_backend_is_refused(capsys, monkeypatch):
    def wrong(*_):
        raise BackendError("jaxlib computes wrongly")

    def begin():
        monkeypatch.setattr(backend, "check_backend", wrong)
        main()

    assert exit_code(begin, "doctor") == 2
    told = capsys.readouterr()
    assert "jaxlib" in told.out
    assert told.err == "error: jaxlib computes wrongly\n"
