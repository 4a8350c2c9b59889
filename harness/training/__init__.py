"""Meta-training with any estimator, to see what its bias costs in accuracy.

`config` has its hyperparameters, `trainer` trains, `evaluation` tests.
"""
