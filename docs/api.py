"""Writes the API reference, from the docstrings, as HTML: python docs/api.py FOLDER."""

import sys
import warnings
from pathlib import Path

import pdoc

import metaheac_jax as mh

for name in mh.__all__:  # pdoc does not see names that are imported when they are first used
    vars(mh)[name] = getattr(mh, name)
warnings.filterwarnings("ignore", module="pdoc")  # NamedTuple and TypedDict confuse it
pdoc.render.configure(docformat="google")
modules = ("metaheac_jax", "metaheac_jax.meta")
pdoc.pdoc(*modules, output_directory=Path(sys.argv[1]))
