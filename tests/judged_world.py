"""Five campaigns with known pools, for tests of judging."""

import dataclasses

import numpy as np
from toy import dataset

from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.dataset import Split


def split_of(test, small, campaigns=5):
    train = np.setdiff1d(np.arange(campaigns), test)
    return Split(train, np.array(test), np.isin(np.arange(campaigns), small), threshold=9)


def world(sizes=(40, 40, 40, 19, 40)):
    """Five campaigns, ids 100 to 140, with pools of these sizes, the last all negative."""
    data = dataset(users=200, campaigns=5, per_campaign=30, pool=40)
    campaign = np.repeat(np.arange(5), sizes)
    label = np.arange(len(campaign)) % 4 == 0
    label[campaign == 4] = False
    user = np.arange(len(campaign))
    stage2 = group_by_campaign(campaign, user, label, num_campaigns=5)
    return dataclasses.replace(data, stage2=stage2)
