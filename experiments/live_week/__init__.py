"""Simulated weeks of MetaHeac against control methods (paper section 4.3, Table 3).

The paper's test ran in production. This one runs in simulated worlds, in which the true conversion
probability of every user and campaign is known. There is a world for each of the paper's three
applications and each week, and every week has its own campaigns, users and models.

- **Campaigns.** The test campaigns of the paper's split run for a week. The general model learns
  from the other campaigns.
- **Candidates** are the users without an example in stage 1. For every campaign they are split at
  random into two buckets of equal size, one for each arm. Every campaign has its own split, because
  with a single split all campaigns that seek the same users would share their luck.
- **Each day** the models of an arm score its bucket, and the arm takes the top-scored users, as
  many as the other arm. Those of them who are active on that day see the campaign (*exposure*)
  and convert with the true probability (*conversion*). A user who saw the campaign leaves the
  bucket. *CVR* is conversions over exposures.
- **Feedback.** Every exposed user becomes an example of the campaign, labelled with the outcome.
  (`metaheac update` takes fewer of those who do not convert where few convert.)
  As in the deployed system, both models learn from these examples: every day the general model of
  an arm is trained again, and the models of the running campaigns are customised again from it. It
  is trained on all campaigns but those that tell when training stops, none of which is running. The
  general model has then seen the examples that early stopping of customising holds out, which the
  general model from before the week has not.
- **Lifts** are ratios of a week's totals over campaigns. A report has the geometric mean over the
  weeks, with the 95% interval of Student's t. Weeks are independent. Campaigns of an arm are not:
  they share the arm's general model, which learns from the arm's own feedback. In the A/A test both
  arms have the method of the treatment.

`worlds` simulates the applications, `week` runs the arms, `lifts` has the statistics, and `report`
writes the results.
"""
