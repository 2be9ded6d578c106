"""Many campaigns, cheaply: what adapting only heads costs in AUC, and what it saves in time.

``python -m experiments.many_campaigns`` trains a general model, customises the test campaigns in
both ways of `settings.Adapts`, and times scoring, customising and expanding.
"""
