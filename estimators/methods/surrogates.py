"""Objectives whose first derivative is the policy gradient that is drawn; the second ones differ.

All map log-probabilities of the actions taken [n, T], rewards [n, T] and a discount gamma to a
mean over episodes. With A_t = sum_{s>=t} gamma^(s-t) r_s, the discounted return from t on, the
first derivative is sum_t gamma^t A_t grad log pi_t. box(x) = exp(x - sg(x)), sg holding constant.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

Surrogate = Callable[[Tensor, Tensor, float], Tensor]

SURROGATES = ("naive", "dice", "lvc", "loaded-dice")
"""Names of estimators, each of which has its own."""


def naive(log_probabilities: Tensor, rewards: Tensor, discount: float) -> Tensor:
    """sum_t gamma^t A_t log pi_t: its second derivative lacks the score's outer products."""
    return (_weighted_returns(rewards, discount) * log_probabilities).sum(1).mean()


def dice(log_probabilities: Tensor, rewards: Tensor, discount: float) -> Tensor:
    """sum_t gamma^t box(sum_{s<=t} log pi_s) r_t; unbiased derivatives of any order."""
    weights = _powers(rewards, discount)
    return (weights * _box(log_probabilities.cumsum(1)) * rewards).sum(1).mean()


def lvc(log_probabilities: Tensor, rewards: Tensor, discount: float) -> Tensor:
    """sum_t gamma^t (pi_t / sg(pi_t)) A_t: biased at second order, of low variance."""
    return (_weighted_returns(rewards, discount) * _box(log_probabilities)).sum(1).mean()


def loaded_dice(
    log_probabilities: Tensor, rewards: Tensor, discount: float, decay: float
) -> Tensor:
    """sum_t gamma^t [box(w_t) - box(w_t - log pi_t)] A_t, w_t = decay w_{t-1} + log pi_t."""
    loads = []
    load = torch.zeros_like(log_probabilities[:, 0])
    for step in log_probabilities.unbind(1):
        load = decay * load + step
        loads.append(load)
    w = torch.stack(loads, 1)
    boxes = _box(w) - _box(w - log_probabilities)
    return (_weighted_returns(rewards, discount) * boxes).sum(1).mean()


def surrogate_of(name: str, decay: float) -> Surrogate:
    """Return a surrogate by the name of its estimator.

    Args:
        name: one of `SURROGATES`.
        decay: of loaded-dice; others have none.
    """
    if name == "loaded-dice":
        return partial(loaded_dice, decay=decay)
    return {"naive": naive, "dice": dice, "lvc": lvc}[name]


def _box(x: Tensor) -> Tensor:
    return (x - x.detach()).exp()


def _powers(rewards: Tensor, discount: float) -> Tensor:
    """Return gamma^t, [T]."""
    times = torch.arange(rewards.shape[1], device=rewards.device, dtype=rewards.dtype)
    return rewards.new_tensor(discount) ** times


def _weighted_returns(rewards: Tensor, discount: float) -> Tensor:
    """Return gamma^t A_t, [n, T]."""
    weighted = _powers(rewards, discount) * rewards
    return weighted.flip(1).cumsum(1).flip(1)
