"""Committed results, one file per table, and the pages that are made from them.

``python -m experiments.results`` renders the templates of this folder: the pages' every number and
figure comes from a file here.
"""
