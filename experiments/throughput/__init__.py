"""Benchmarks of every part of the work, on the device that JAX finds.

The parts are the meta-step, training end to end, sampling, customising, scoring and preparing. Each
time stands beside the machine's own limits, and the meta-step beside other ways to compute it.

Times are medians of synchronised runs after a warm-up, without compilation. The meta-step is timed
on tables of different lengths in turns, since the pace of a shared machine changes. Inputs are
synthetic: they have the Tencent data's vocabularies, list lengths and popularity of values.

`inputs` makes the inputs, `meta_steps` compiles the ways of the meta-step, `benchmarks` times,
`machine_limits` measures the machine, and `records` holds the results.
"""
