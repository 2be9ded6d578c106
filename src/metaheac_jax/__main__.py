"""The ``metaheac`` command, also as ``python -m metaheac_jax``."""

import os
import signal


def main() -> None:
    """Runs ``metaheac``; Ctrl-C ends it without a word while it is imported."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    from metaheac_jax.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
