"""A simulated twin of the Tencent look-alike data, for those without the competition's files.

The recipe, a module a step (`shapes` has the constants, `world` writes the files):

1. **Users.** A user is a hidden persona z ~ N(0, I): gender, age, wealth, and so on, and six
   hobbies. A one-valued field cuts a mixture of z and noise at the field's quantiles. A list's
   length cuts such a mixture too; its values come from topics, which the persona picks (a softmax,
   pulled by the field's own ``pull`` of z), and within a topic by popularity, none twice.
2. **Campaigns.** Attributes follow an advertiser, which (mostly) has one category. A campaign is
   shown by hard targeting (one gender, a range of ages: others hardly ever) times soft targeting
   exp(tilt . z), and has a taste. Tilts and tastes are sums of a category's, an advertiser's and
   the campaign's own part, so that a campaign's attributes tell something about both.
3. **Exposures.** A user who occurs in a stage (1.12 rows on average) is shown campaigns by weight,
   balanced so that each campaign gets its quota of rows; never the same pair in both stages.
4. **Conversions.** The log-odds are linear and pairwise in x, the best linear estimate of z from
   what is observed (one-valued fields and lists' mean topics: what a network can see). One scale,
   common to all campaigns, makes the AUC of the true probability .80; an intercept a campaign
   gives its positive rate.
5. **Labels** are drawn by systematic sampling: a row is positive with exactly its probability, and
   a campaign has exactly as many positives as its probabilities sum to (up to rounding).

The constants were set from published statistics of the real data and then frozen; how methods fare
on the world played no part. The rule: pool marginals as published; loadings from the information
(MI) between fields; targeting from the MI of fields and list lengths with the campaign; pulls from
the MI of tokens and from how well tokens tell gender and age; the part of taste that is common to
all campaigns from what it does to missing lists (interest2 is missing for .34 of all users and .25
of the positive ones, interest1 for .09 and .125). ``tests/test_simulation.py`` compares figure by
figure, at a tenth of the large vocabularies, where the constants were set.
"""

from metaheac_jax.data.simulation.conversions import Truth, read_truth
from metaheac_jax.data.simulation.shapes import PERSONA, TENCENT, WECHAT, Shape
from metaheac_jax.data.simulation.world import write_world

__all__ = ["PERSONA", "TENCENT", "WECHAT", "Shape", "Truth", "read_truth", "write_world"]
