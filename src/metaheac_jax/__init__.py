"""MetaHeac (KDD 2021) in JAX: look-alike audience expansion by second-order meta-learning.

The way of the data: files -> `Dataset` -> samplers -> row-local ids -> network -> meta-step ->
general model (offline) -> customised model, scores, audience (online). Each name below is the
front door of its module; the modules hold the rest.
"""

from metaheac_jax.baselines import MLP, LogisticRegression
from metaheac_jax.checkpoint import Checkpoints
from metaheac_jax.data.dataset import Dataset, Examples, open_dataset, write_dataset
from metaheac_jax.data.sampling import CampaignSampler, ExampleSampler, campaign_examples
from metaheac_jax.errors import InputError
from metaheac_jax.fields import UserFields, field_vectors, user_fields
from metaheac_jax.losses import Batch, build_loss
from metaheac_jax.meta import build_meta_gradient, build_meta_step, inner_update
from metaheac_jax.metrics import auc, judge, top
from metaheac_jax.network import MetaHeac
from metaheac_jax.official import from_official
from metaheac_jax.offline import General, initialise, train
from metaheac_jax.online import Customised, build_customise, build_score
from metaheac_jax.presets import OFFICIAL, PAPER, Preset
from metaheac_jax.rows import RowIndex, build_row_step, select_rows, table_adam
from metaheac_jax.schema import Field, Schema, Vocabulary

__all__ = [
    "MLP",
    "OFFICIAL",
    "PAPER",
    "Batch",
    "CampaignSampler",
    "Checkpoints",
    "Customised",
    "Dataset",
    "ExampleSampler",
    "Examples",
    "Field",
    "General",
    "InputError",
    "LogisticRegression",
    "MetaHeac",
    "Preset",
    "RowIndex",
    "Schema",
    "UserFields",
    "Vocabulary",
    "auc",
    "build_customise",
    "build_loss",
    "build_meta_gradient",
    "build_meta_step",
    "build_row_step",
    "build_score",
    "campaign_examples",
    "field_vectors",
    "from_official",
    "initialise",
    "inner_update",
    "judge",
    "open_dataset",
    "select_rows",
    "table_adam",
    "top",
    "train",
    "user_fields",
    "write_dataset",
]
