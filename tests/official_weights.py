"""Converts models that the authors' program trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from metaheac_jax.errors import InputError

_GATES = {"expert_gate": "attention_layer", "critic_gate": "output_attention_layer"}


def from_official(state: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Network parameters and table of a MetaHeac model that the authors' program trained.

    Args:
      state: the official ``state_dict()`` as arrays (``{name: tensor.numpy()}``).

    Returns:
      Parameters for `networks.metaheac.MetaHeac` with the same numbers of experts and critics, and
      the table (R, k): one-valued user fields, many-valued user fields, campaign fields, in the
      official order. The input of both gates is the mean user field, then the campaign's fields.

    Raises:
      InputError: a weight is missing.
    """

    def weight(name: str) -> np.ndarray:
        if name not in state:
            raise InputError(f"official model: weight {name!r} is missing from the state dict")
        return np.asarray(state[name])

    def every(form: str) -> list[np.ndarray]:
        """All arrays named ``form``, with 0, 1, 2, ... for its ``*``; at least one."""
        names = [form.replace("*", "0")]
        while (name := form.replace("*", str(len(names)))) in state:
            names.append(name)
        return [weight(name) for name in names]

    table = np.concatenate(
        [
            rows
            for kind in ("static", "dynamic", "ad")
            for rows in every(f"embedding.{kind}_emb.embeddings.*.weight")
        ]
    )
    # Official linear weights are (out, in), one per expert or critic; ours are (in, ..., out).
    network: dict[str, Any] = {
        "expert": {
            "kernel_0": np.stack([w.T for w in every("mlp.*.mlp.0.weight")], axis=1),
            "bias_0": np.stack(every("mlp.*.mlp.0.bias")),
            "kernel_1": np.stack([w.T for w in every("mlp.*.mlp.2.weight")]),
            "bias_1": np.stack(every("mlp.*.mlp.2.bias")),
        },
        "critic_kernel": np.concatenate(every("output_layer.*.weight")).T,
        "critic_bias": np.concatenate(every("output_layer.*.bias")),
    }
    for ours, theirs in _GATES.items():
        network[ours] = {
            "kernel": weight(f"{theirs}.0.weight").T,
            "bias": weight(f"{theirs}.0.bias"),
            "choice_kernel": weight(f"{theirs}.2.weight").T,
            "choice_bias": weight(f"{theirs}.2.bias"),
        }
    return {"params": network}, table
