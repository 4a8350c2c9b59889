"""asv's own timing of the estimators that people ask for first."""

import json
import os
from pathlib import Path

AXES = json.loads(Path(__file__).with_name("axes.json").read_text(encoding="utf-8"))

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, in `setup`


class Headline:
    """One estimate on the sinusoid at depth 5."""

    params = AXES["headline"]
    param_names = ("estimator",)
    version = "1"
    rounds = 1
    timeout = 120.0

    def setup(self, estimator: str) -> None:
        try:
            from harness.suite import headline

            self.estimate = headline(estimator, version=1)
        except (ImportError, ValueError) as error:  # an older commit, without suite or estimator
            raise NotImplementedError(f"{estimator} is not known at this commit") from error

    def time_sinusoid(self, estimator: str) -> None:
        del estimator
        self.estimate()
