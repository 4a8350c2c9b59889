"""asv's own timing of the estimators that people ask for first."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, in `setup`


class Headline:
    """One estimate on the sinusoid at depth 5."""

    params = ("maml", "adjoint", "fomaml", "truncated(order=2)", "binom(order=2)")
    param_names = ("estimator",)
    version = "1"
    rounds = 1
    timeout = 120.0

    def setup(self, estimator: str) -> None:
        from harness.suite import headline

        self.estimate = headline(estimator, version=1)

    def time_sinusoid(self, estimator: str) -> None:
        del estimator
        self.estimate()
