"""Speed: the stages of the pipeline, and the meta-step against other programs.

``python -m experiments.throughput`` times sampling, the meta-step, customising and scoring on
synthetic data of the authors' size. ``experiments.throughput.rivals_meta`` has the meta-step
against plain JAX and PyTorch, and ``options_meta`` what each of its options costs.
"""
