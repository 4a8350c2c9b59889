"""Meta-training with any estimator, to see what its bias costs in accuracy.

`config` says what is trained and how, `trainer` trains, `evaluation` tests.
"""
