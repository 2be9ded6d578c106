"""Small versions of the competition's four files."""

from pathlib import Path

from metaheac_jax.schema import Field, Schema

SCHEMA = Schema(
    user=(Field("age"), Field("consumptionAbility"), Field("interest1", 12), Field("kw1", 2)),
    campaign=(Field("productType"), Field("advertiserId")),
)
USERS = (
    "uid 30|age 4|consumptionAbility 2|interest1 9 8 7 6 5 4 3 2 1 0 99 98|kw1 70 60 50|os 1 2\n"
    "kw1 60|uid 10|gender 2|consumptionAbility 0\n"
    "uid 12345678901234|interest1 5|kw3 1 2 3|age 0\n"
)
ADS = "aid,advertiserId,campaignId,productType\n20,7,1,3\n5,9,2,3\n"
TRAIN = "aid,uid,label\n20,10,1\n5,30,-1\n20,30,-1\n5,10,1\n"
TRUTH = "5,12345678901234,1\n20,12345678901234,0\n"


def write(source: Path, **changes: str | bytes) -> Path:
    """Writes the four files to a directory; ``changes`` replaces the content of some."""
    names = {
        "users": "userFeature.data",
        "ads": "adFeature.csv",
        "train": "train.csv",
        "truth": "test1_truth.csv",
    }
    texts = {"users": USERS, "ads": ADS, "train": TRAIN, "truth": TRUTH} | changes
    source.mkdir(exist_ok=True)
    for key, text in texts.items():
        content = text if isinstance(text, bytes) else text.encode()
        (source / names[key]).write_bytes(content)
    return source
