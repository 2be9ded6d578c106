"""The one exception for input that the user has to mend."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one line: what, where (file, line or campaign), and what to do.

    Commands print the line and exit with code 2; library users may catch it.
    """
