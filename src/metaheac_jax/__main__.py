"""``python -m metaheac_jax``: the ``metaheac`` command."""

from metaheac_jax.cli.main import main

main()
