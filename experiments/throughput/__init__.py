"""Benchmarks of every stage of the pipeline, on the device that JAX finds.

The stages are the meta-step, end-to-end training, sampling, placing a batch on the device,
customising, scoring and preparing. Each time is reported next to the machine's own limits, and the
meta-step next to other ways to compute it.

Times are medians of synchronised runs after a warm-up, without compilation. Meta-steps on tables of
different lengths take turns with each other and with the row-local one, since the pace of a shared
machine changes. Inputs are synthetic: they have the Tencent data's vocabularies, list lengths and
popularity of values. README.md explains how to read the report.

`inputs` makes the inputs, `meta_steps` compiles the ways of the meta-step, `benchmarks` times,
`arithmetic` counts the FLOPs, `breakdown` shows where a step's time goes, `machine_limits` measures
the machine, `data_sheets` has the vendors' peak rates, and `records` holds the results.
"""
