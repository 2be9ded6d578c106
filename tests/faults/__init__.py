"""Trials of the README's promises: kills, resuming, damage, two writers, files of others.

``python -m tests.faults`` runs every trial and prints a table; the suite runs a sample of each.
"""
