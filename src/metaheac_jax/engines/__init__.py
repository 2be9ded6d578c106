"""Exports of customised scorers, and the engines that score users with them: Arrow, Spark, Ray."""
