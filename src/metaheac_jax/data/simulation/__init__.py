"""A simulated twin of the Tencent look-alike data, as the three tables that `prepare` reads.

The steps, in the modules `population` (1 to 3) and `truth` (4 and 5, and the answers of users who
are shown a campaign); `shapes` has the constants, and `world` writes the tables:

1. **Users.** A user has a hidden persona z ~ N(0, I): gender, age, wealth, and so on, and six
   hobbies. A one-valued field is a mixture of z and noise, cut at the field's quantiles. The length
   of a list is cut from a mixture in the same way. Its values are distinct; each is drawn from a
   topic by popularity. The topic is drawn from a softmax of the field's ``pull`` times z.
2. **Campaigns.** Attributes depend on the advertiser; most advertisers have one category. The
   exposure weight is hard targeting (one gender, a range of ages) times soft targeting
   exp(tilt . z). A campaign's taste decides who converts. Tilts and tastes are sums of terms of the
   category, the advertiser and the campaign, so a campaign's attributes are informative about both.
3. **Exposures.** A user who occurs in a stage is shown campaigns, drawn by weight. Weights are
   balanced so that each campaign gets its quota of examples. No pair occurs in both stages.
4. **Conversions.** The log-odds are linear and pairwise in x, the best linear estimate of z from
   the observed features (one-valued fields and mean topics of lists). One scale for all campaigns
   sets the AUC of the true probability; one intercept per campaign sets its positive rate.
5. **Labels** are drawn by systematic sampling: the probability of a positive is exact for each
   example, and a campaign's number of positives is the sum of its probabilities, up to rounding.

The constants are set from published statistics of the real data, never from the results of methods:
loadings from the mutual information between fields, targeting from that of fields and list lengths
with the campaign, and the taste that all campaigns share from the fractions of missing lists.
``tests/data/test_simulation.py`` compares each statistic.
"""
