"""A data set in a directory: what was written is read, whole or not at all."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from toy import write_dataset

from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.dataset import Dataset, SensitiveField
from metaheac_jax.data.storage import MANIFEST, open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Schema, Vocabulary

SCHEMA = Schema((Field("age"), Field("likes", 3)), (Field("kind"),))


def world() -> Dataset:
    """Three users, two campaigns; stage 1 has a user of an audience, stage 2 has none."""
    stage1 = group_by_campaign(
        np.array([1, 0, 1]),
        np.array([2, 1, 0]),
        np.array([1, 0, 0]),
        num_campaigns=2,
        audience=np.array([True, False, False]),
    )
    stage2 = group_by_campaign(np.array([0]), np.array([2]), np.array([1]), num_campaigns=2)
    return Dataset(
        name="toy",
        schema=SCHEMA,
        vocabulary=Vocabulary((np.array([-1, 4]), np.array([7, 9]), np.array(["ad", "game"]))),
        user_ids=np.array([30, 10, 20]),
        user_rows=np.array([[0, 2, 3, 6], [1, 6, 6, 6], [1, 3, 6, 6]], np.int32),
        campaign_ids=np.array([5, 8]),
        campaign_rows=np.array([[4], [5]], np.int32),
        stage1=stage1,
        stage2=stage2,
        sensitive={"sex": SensitiveField(np.array(["f", "m"]), np.array([[1], [2], [0]], "i4"))},
    )


def file_of(folder, column) -> Path:
    [path] = folder.glob(f"{column}-*.npy")
    return path


def same(one, two) -> None:
    """Compares two datasets, or parts of them, down to dtypes."""
    for field in dataclasses.fields(one):
        if field.name in ("digest", "folder"):
            continue
        a, b = getattr(one, field.name), getattr(two, field.name)
        if dataclasses.is_dataclass(a) and not isinstance(a, Schema):
            same(a, b)
        elif isinstance(a, tuple):
            for x, y in zip(a, b, strict=True):
                np.testing.assert_array_equal(x, y)
        elif isinstance(a, dict):
            assert list(a) == list(b)
            for name in a:
                same(a[name], b[name])
        elif isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype
        else:
            assert a == b


def test_round_trip(tmp_path):
    write_dataset(world(), tmp_path / "out")
    data = open_dataset(tmp_path / "out")
    same(world(), data)
    assert isinstance(data.user_rows.stored, np.memmap)
    assert isinstance(data.sensitive["sex"].codes, np.memmap)
    assert (data.num_rows, data.num_users, data.num_campaigns) == (6, 3, 2)
    assert data.stage1.of(1) == slice(1, 3)
    written = json.loads((tmp_path / "out" / MANIFEST).read_text())["digest"]
    assert data.digest == open_dataset(tmp_path / "out", verify=False).digest == written
    assert data.stage1.counts.tolist() == [1, 2]
    assert data.stage1.positives.tolist() == [0, 1]


def test_every_file_is_named_when_missing_short_or_altered(tmp_path):
    write_dataset(world(), tmp_path / "out")
    names = json.loads((tmp_path / "out" / MANIFEST).read_text())["files"]
    assert len(names) == 4 + 3 + 4 + 3 + 2
    for name in names:
        path = tmp_path / "out" / name
        content = path.read_bytes()
        altered = content[:-1] + bytes([content[-1] ^ 1])
        for spoilt, words in ((None, "missing"), (content[:-1], "bytes"), (altered, "altered")):
            path.unlink()
            if spoilt is not None:
                path.write_bytes(spoilt)
            with pytest.raises(InputError, match=f"{path}: .*{words}"):
                open_dataset(tmp_path / "out")
            path.write_bytes(content)
    path = file_of(tmp_path / "out", "user_key")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    open_dataset(tmp_path / "out", verify=False)  # only if that is asked for
