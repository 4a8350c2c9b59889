"""Meta-training with any estimator: what its bias costs in accuracy.

`recipe` says what is trained and how, `trainer` does it, `evaluation` judges it.
"""
