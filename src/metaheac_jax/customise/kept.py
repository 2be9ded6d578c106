"""A folder of adapted campaigns, kept so that they need not be adapted again."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from metaheac_jax.data.batches import Batch
from metaheac_jax.environment import environment
from metaheac_jax.files import locked, whole_file
from metaheac_jax.model import AdaptedWeights, Weights
from metaheac_jax.progress import silent
from metaheac_jax.sealed import digest_of
from metaheac_jax.training.checkpoint import array_digest, named_leaves


class KeptCampaigns:
    """Adapted weights of campaigns, each in a file ``KEY-SHA256.npz``.

    KEY is a digest of all that the weights depend on: the general weights, the campaign's examples,
    the options, the program and its libraries. SHA256 is the digest of the file, so a damaged file
    counts as missing.
    """

    def __init__(self, folder: Path, weights: Weights, options: Any) -> None:
        """Args:
        folder: the folder, created if it does not exist.
        weights: the general weights.
        options: everything else that determines the result, as plain data.
        """
        folder.mkdir(parents=True, exist_ok=True)
        general = {name: array_digest(leaf) for name, leaf in named_leaves(weights).items()}
        self._folder = folder
        self._base = digest_of({"weights": general, "options": options, **environment()})

    def find(self, examples: Batch) -> AdaptedWeights | None:
        """The weights of a campaign with these examples, if there are any."""
        for path in self._folder.glob(f"{self._key(examples)}-*.npz"):
            content = path.read_bytes()
            if path.stem.endswith(f"-{hashlib.sha256(content).hexdigest()}"):
                with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
                    tree = unflatten_dict(dict(arrays), sep="/")
                network = jax.tree.map(jnp.asarray, tree.get("network", {}))
                return AdaptedWeights(network, tree["rows"], jnp.asarray(tree["values"]))
        return None

    def add(self, examples: Batch, adapted: AdaptedWeights) -> None:
        """Keeps a campaign's weights; they are on disk when the call returns.

        Raises:
          OSError: the weights cannot be written.
        """
        tree = jax.device_get(adapted)._asdict()
        content = io.BytesIO()
        arrays: dict[str, Any] = flatten_dict(tree, sep="/")
        np.savez(content, **arrays)
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        name = f"{self._key(examples)}-{digest}.npz"
        target = self._folder / name
        # Another process may be adapting an equal campaign.
        with locked(target, wait=silent), whole_file(target) as path:
            path.write_bytes(content.getvalue())

    def _key(self, examples: Batch) -> str:
        own = {name: array_digest(leaf) for name, leaf in named_leaves(examples).items()}
        return digest_of({"general": self._base, "examples": own})[:32]
