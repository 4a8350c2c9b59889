"""Bandits and Markov decision processes against formulas in numpy; their draws and options."""

import hashlib
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import beta, kstest
from torch.utils._pytree import tree_leaves

from estimators import BilevelProblem, OptionError, Params, create
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem
from harness.tasks import TASKS, Task
from harness.tasks.bandit import Bandit
from harness.tasks.mdp import Mdp

Array = NDArray[np.float64]
Derivatives = Callable[[Array, Any], tuple[Array, Array]]
"""Logits and a batch's targets, to the gradient and the Hessian of the return by the logits."""

WEIGHT = "1.weight"
BANDIT = "9213afd35c7c51ce2209140c501dc9be9a409a3d6ce33691c6966e290103219f"
MDP = "2cf6ec8c66638f46ca42d839416ecd873fd7edc16260e78272d8e2fe8ec3efb2"
TRANSITION = 0.10224648846374748


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def derivatives_of_bandit(logits: Array, rewards: Array) -> tuple[Array, Array]:
    """d and diag(d) - d pi^T - pi d^T."""
    (policy,), (rewards,) = softmax(logits), rewards
    d = policy * (rewards - policy @ rewards)
    return d, np.diag(d) - np.outer(d, policy) - np.outer(policy, d)


def derivatives_of_mdp(discount: float) -> Derivatives:
    """The policy gradient theorem: occupancy times policy times advantage; then its derivative.

    A logit of state u changes the policy in u, hence all values and how often states are visited.
    """

    def derivatives(logits: Array, tables: tuple[Array, Array]) -> tuple[Array, Array]:
        (transitions, rewards), policy = tables, softmax(logits)
        states, actions = policy.shape
        chain = np.einsum("sa,sat->st", policy, transitions)
        visits = np.linalg.inv(np.eye(states) - discount * chain)  # of t from s, discounted
        values = visits @ (policy * rewards).sum(1)
        advantage = rewards + discount * transitions @ values - values[:, None]
        occupancy = visits.mean(0)
        gradient = occupancy[:, None] * policy * advantage
        # Derivatives by the logit of action b in state u.
        by_value = np.einsum("su,ub->sub", visits, policy * advantage)
        turned = policy[:, :, None] * (transitions - chain[:, None])
        by_occupancy = discount * np.einsum("u,ubt,ts->sub", occupancy, turned, visits)
        by_policy = np.einsum("su,sa,ab->saub", np.eye(states), policy, np.eye(actions))
        by_policy -= np.einsum("su,sa,sb->saub", np.eye(states), policy, policy)
        by_advantage = discount * np.einsum("sat,tub->saub", transitions, by_value)
        by_advantage -= by_value[:, None]
        hessian = np.einsum("sub,sa->saub", by_occupancy, policy * advantage)
        hessian += np.einsum("s,saub,sa->saub", occupancy, by_policy, advantage)
        hessian += np.einsum("s,sa,saub->saub", occupancy, policy, by_advantage)
        size = states * actions
        return gradient.reshape(size), hessian.reshape(size, size)

    return derivatives


FAMILIES: dict[str, Derivatives] = {
    "bandit": derivatives_of_bandit,
    "bandit(arms=2, shift=0)": derivatives_of_bandit,
    "bandit(arms=7, shift=2)": derivatives_of_bandit,
    "mdp": derivatives_of_mdp(0.8),
    "mdp(shift=0.5)": derivatives_of_mdp(0.8),
    "mdp(states=6, actions=2, discount=0.95, concentration=1, world=3)": derivatives_of_mdp(0.95),
    "mdp(states=4, actions=3, discount=0)": derivatives_of_mdp(0.0),
}
each_family = pytest.mark.parametrize(("task", "derivatives"), [*FAMILIES.items()])


def policy_problem(
    task: str, depth: int, dtype: torch.dtype = torch.float64, model: str = "linear"
) -> tuple[BilevelProblem, Params]:
    cell = Cell.of(estimator="maml", task=task, model=model, depth=depth)
    return bilevel_problem(cell, 0, dtype=dtype, device="cpu", check=True)


def arrays(targets: Any) -> Any:
    return tuple(map(arrays, targets)) if isinstance(targets, tuple) else targets.numpy()


def ascent(task: str, derivatives: Derivatives, depth: int) -> tuple[Array, list[Array]]:
    """The outer loss's gradient by the table of logits after the ascent; Hessians along it."""
    drawn, (_, params) = TASKS.create(task).sample(seed=0), policy_problem(task, depth)
    support, query = arrays(drawn.support[1]), arrays(drawn.query[1])
    step_size, logits = TASKS.create(task).step_size, params[WEIGHT].numpy().T
    hessians = []
    for _ in range(depth):
        gradient, hessian = derivatives(logits, support)
        hessians.append(hessian)
        logits = logits + step_size * gradient.reshape(logits.shape)
    return -derivatives(logits, query)[0], hessians


def exact_meta_gradient(task: str, derivatives: Derivatives, depth: int) -> Array:
    """A_0 ... A_{K-1} g as dense matrices, A_k = I + alpha (Hessian of the return), as a weight."""
    vector, hessians = ascent(task, derivatives, depth)
    family = TASKS.create(task)
    for hessian in reversed(hessians):
        vector = vector + family.step_size * hessian @ vector
    return vector.reshape(-1, family.outputs).T


def error(gradient: Params, exact: Array) -> float:
    apart = gradient[WEIGHT].double().numpy() - exact
    return float(np.linalg.norm(apart) / np.linalg.norm(exact))


@each_family
def test_meta_gradient_is_the_product_of_hessians_by_formula(
    task: str, derivatives: Derivatives
) -> None:
    tolerance = 1e-10 if "discount=0.95" in task else 1e-12  # by the system's condition
    for depth in (0, 1, 2, 5, 20):
        problem, params = policy_problem(task, depth)
        exact = exact_meta_gradient(task, derivatives, depth)
        assert error(create("maml")(problem, params).gradient, exact) < tolerance, depth


@pytest.mark.parametrize("task", ["bandit", "mdp"])
def test_hessians_are_indefinite_and_move_along_the_inner_loop(task: str) -> None:
    _, hessians = ascent(task, FAMILIES[task], 6)
    for hessian in hessians:
        np.testing.assert_allclose(hessian, hessian.T, atol=1e-14)
        least, *_, greatest = np.linalg.eigvalsh(hessian)
        assert least < -1e-4
        assert greatest > 1e-4
    first, *_, last = hessians
    assert np.linalg.norm(last - first) > 0.01 * np.linalg.norm(first)


@pytest.mark.parametrize("task", ["bandit", "mdp(shift=0.5)"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_engines_and_batching_agree_with_the_formulas(
    task: str, dtype: torch.dtype, tolerance: float
) -> None:
    problem, params = policy_problem(task, 4, dtype)
    exact = exact_meta_gradient(task, FAMILIES[task], 4)
    for spec in (
        *(f"adjoint(engine='{engine}')" for engine in ("reverse", "forward", "func")),
        *(f"binom(batching='{batching}', order=4)" for batching in ("loop", "vmap")),
    ):
        assert error(create(spec)(problem, params).gradient, exact) < tolerance, spec


def test_a_network_of_all_states_is_a_policy_too() -> None:
    problem, params = policy_problem("mdp", 3, model="mlp-40-40(init='torch')")
    exact, others = create("maml")(problem, params), create("adjoint(engine='forward')")
    for name, value in others(problem, params).gradient.items():
        torch.testing.assert_close(value, exact.gradient[name], rtol=1e-8, atol=1e-12)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
@pytest.mark.parametrize("task", ["bandit", "mdp"])
def test_compiled_policies_are_right_or_refused(
    task: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("METAGRAD_CACHE", str(tmp_path))
    problem, params = policy_problem(task, 3)
    result = None
    with suppress(OptionError):  # torch 2.13 compiles no linear systems within loops
        result = create("maml(compiled=True)")(problem, params)
    exact = exact_meta_gradient(task, FAMILIES[task], 3)
    assert result is None or error(result.gradient, exact) < 1e-12
    assert result is not None or task == "mdp"


def digest(*data: Any) -> str:
    tensors = tree_leaves(data)
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in tensors)).hexdigest()


def test_a_seed_and_a_split_name_a_task() -> None:
    for name in ("bandit", "mdp"):
        family = TASKS.create(name)

        def one(seed: int, split: str = "train", name: str = name) -> str:
            task = TASKS.create(name).sample(seed, split)
            return digest(task.support, task.query)

        assert one(1) == one(1) == digest(family.sample(1).support, family.sample(1).query)
        others = {one(1), one(2), one(1, "test"), one(1, "validation")}
        assert len(others) == 4, name
        with pytest.raises(OptionError, match="split='exam'"):
            family.sample(0, "exam")


def test_policies_are_the_same_for_ever() -> None:
    assert digest(Bandit().sample(0).support, Bandit().sample(0).query) == BANDIT
    _, rewards = Mdp(shift=1.0).sample(0).query[1]
    assert digest(rewards) == MDP
    # Quantiles of the gamma distribution may differ in their last bits between versions of scipy.
    transitions, _ = Mdp(concentration=1.0).sample(0).query[1]
    assert float(transitions[3, 2, 1]) == pytest.approx(TRANSITION, rel=1e-9)


def test_tasks_of_a_world_differ_in_rewards_only() -> None:
    def tables(seed: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        transitions, rewards = Mdp(**options).sample(seed).support[1]
        return transitions, rewards

    (here, mine), (also, yours), (elsewhere, again) = tables(0), tables(1), tables(0, world=1)
    assert torch.equal(here, also)
    assert not torch.equal(mine, yours)
    assert not torch.equal(here, elsewhere)
    assert torch.equal(mine, again)
    before = here.clone()
    here.zero_()  # a task's own copy
    assert torch.equal(tables(0)[0], before)


def rewards_of(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    one, other = (tree_leaves(batch[1])[-1] for batch in (task.support, task.query))
    return one, other


@pytest.mark.parametrize(("name", "low"), [("bandit(arms=50", -0.5), ("mdp(states=20", 0.0)])
def test_rewards_are_uniform_and_shifted_by_as_much_as_asked(name: str, low: float) -> None:
    for shift in (0.0, 0.25, 3.0):
        tasks = [TASKS.create(f"{name}, shift={shift})").sample(seed) for seed in range(20)]
        pairs = [rewards_of(task) for task in tasks]
        rewards = torch.cat([support.flatten() for support, _ in pairs])
        apart = torch.cat([(query - support).flatten() for support, query in pairs])
        assert kstest(rewards.numpy(), "uniform", (low, 1)).pvalue > 0.01
        if shift:
            assert kstest(apart.numpy() / shift, "uniform", (-0.5, 1)).pvalue > 0.01
            assert abs(np.corrcoef(rewards, apart)[0, 1]) < 0.1
        else:
            assert not apart.any()
        assert torch.equal(pairs[3][0], rewards_of(TASKS.create(f"{name})").sample(3))[0])


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("concentration", [5e-324, 1e-300, 0.001, 0.3, 1.0, 40.0, 1e6, 1e308])
def test_rows_of_transitions_are_distributions(concentration: float) -> None:
    family = Mdp(states=7, actions=3, concentration=concentration)
    transitions, _ = family.sample(0).support[1]
    assert transitions.shape == (7, 3, 7)
    assert bool((transitions >= 0).all())
    torch.testing.assert_close(transitions.sum(-1), torch.ones(7, 3).double(), rtol=0, atol=1e-14)
    likeliest = transitions.amax(-1)
    if concentration < 1e-3:
        assert bool((likeliest == 1).all())
    if concentration >= 1e6:
        assert float((transitions - 1 / 7).abs().max()) < 1e-3


@pytest.mark.parametrize("concentration", [0.05, 0.5, 2.0])
def test_transitions_have_the_marginal_of_a_dirichlet_distribution(concentration: float) -> None:
    states = 4
    family = Mdp(states=states, actions=300, concentration=concentration)
    transitions, _ = family.sample(0).support[1]
    marginal = beta(concentration, (states - 1) * concentration)
    for state in range(states):  # entries of a row depend on one another, rows do not
        assert kstest(transitions[:, :, state].flatten().numpy(), marginal.cdf).pvalue > 0.01
    likeliest = torch.bincount(transitions.argmax(-1).flatten(), minlength=states)
    assert int(likeliest.min()) > 0.85 * states * 300 / states


def test_wrong_options_are_refused() -> None:
    for text, message in (
        ("bandit(arms=1)", "bandit: arms=1"),
        ("bandit(arms=2.5)", "bandit: arms=2.5"),
        ("bandit(shift=-1)", "bandit: shift=-1.0"),
        ("bandit(shift=1e999)", "bandit: shift=inf"),
        ("mdp(states=1)", "mdp: states=1 and actions=5"),
        ("mdp(actions=1)", "mdp: states=20 and actions=1"),
        ("mdp(discount=1)", "mdp: discount=1.0"),
        ("mdp(discount=-0.1)", "mdp: discount=-0.1"),
        ("mdp(concentration=0)", "mdp: concentration=0.0"),
        ("mdp(concentration=1e999)", "mdp: concentration=inf"),
        ("mdp(world=-1)", "mdp: world=-1"),
        ("mdp(shift=-0.5)", "mdp: shift=-0.5"),
    ):
        with pytest.raises(OptionError, match=re.escape(message)):
            TASKS.create(text)
    nan = float("nan")
    for make in (
        lambda: Bandit(shift=nan),
        lambda: Mdp(shift=nan),
        lambda: Mdp(discount=nan),
        lambda: Mdp(concentration=nan),
    ):
        with pytest.raises(OptionError, match="=nan"):
            make()
