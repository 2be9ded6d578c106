"""Simulated weeks of MetaHeac against control methods (paper section 4.3, Table 3).

The paper's test ran in production. This one runs in simulated worlds, which answer by the true
conversion probability of every user and campaign. There is a world for each of the paper's three
applications and each week, with its own campaigns, users and models.

- **Campaigns.** The test campaigns of the paper's split run for a week. The general model learns
  from the other campaigns.
- **Candidates** are the users without an example in stage 1. For every campaign they are split at
  random into two buckets of equal size, one for each arm.
- **Each day** an arm expands every running campaign to the users of its bucket with the highest
  scores, as many as the other arm. Those of them who are active on that day see the campaign
  (*exposure*) and may convert (*conversion*); they leave the bucket. *CVR* is conversions over
  exposures.
- **Feedback.** The answers are added to the arm's data as rows of examples. Every day, the general
  model of an arm is trained again and customised again to the running campaigns.
- **Lifts** are ratios of a week's totals over campaigns. A report has the geometric mean over the
  weeks, with the 95% interval of Student's t. Weeks are independent; campaigns of an arm are not.
  In the A/A test both arms have the method of the treatment.
"""
