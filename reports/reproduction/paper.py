"""The papers, and what they report, as far as their numbers are known."""

from typing import NamedTuple


class Paper(NamedTuple):
    """A paper whose figures and tables are reproduced."""

    short: str
    full: str


BINOMIAL = Paper(
    "Zhang et al. 2026",
    'Zhang et al., "Binomial Gradient-Based Meta-Learning for Enhanced Meta-Gradient Estimation", '
    "ICLR 2026, arXiv 2604.13263",
)
ONE_STEP = Paper(
    "Bonnet et al. 2021",
    'Bonnet et al., "One Step at a Time: Pros and Cons of Multi-Step Meta-Gradient Reinforcement '
    'Learning", 2021, arXiv 2111.00206',
)

MEDIAN_ERRORS = {
    "truncated(order=4)": 1e-1,
    "binom(order=4)": 1e-4,
}
"""Approximate relative errors in Figure 3, on the sinusoid at K=5."""

ACCURACY = {
    "fomaml": (44.57, 62.97, 43.53),
    "truncated(order=2)": (44.93, 63.61, 45.93),
    "binom(order=2)": (46.23, 63.49, 46.20),
    "binom(order=3)": (46.00, 64.17, 46.43),
    "maml": (46.50, 64.23, 47.03),
}
"""Table 1, accuracy in per cent, one run of 600 test tasks each, for `TASKS`."""

TASKS = ("miniimagenet:5way-1shot", "miniimagenet:5way-5shot", "tieredimagenet:5way-1shot")
"""The columns of Table 1: K=5 in training and 10 at test, Conv4-32."""

MIXING_CUTS = 3.0
"""How many times mixing horizons cuts the variance, on Snake: Bonnet et al., abstract."""
