"""Trials of the README's four promises: kills, resuming, damaged bytes, two writers.

``python -m tests.faults`` runs every trial and prints a table; the suite runs a sample of each.
"""
