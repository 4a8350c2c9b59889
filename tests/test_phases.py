"""Phases of an estimate: in the right order, from every estimator, and at no cost otherwise."""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from estimators import BilevelProblem, Params, create
from estimators.base.phases import Phase, phase, watched
from harness.cell import Cell
from harness.matrix.problems import bilevel_problem

LETTERS = {Phase.INNER_LOOP: "i", Phase.OUTER_GRADIENT: "o", Phase.META_GRADIENT: "m"}


def changes(work: Callable[[], object]) -> str:
    """Return a letter for each phase that begins: i(nner), o(uter gradient), m(eta-gradient)."""
    letters: list[str] = []
    with watched(lambda which: letters.append(LETTERS[which])):
        work()
    return "".join(letters)


def sinusoid(depth: int, dtype: torch.dtype = torch.float32) -> tuple[BilevelProblem, Params]:
    cell = Cell.of(estimator="maml", task="sinusoid", model="mlp-40-40", depth=depth)
    return bilevel_problem(cell, 0, dtype=dtype, device="cpu")


def test_innermost_phase_counts_and_the_enclosing_one_comes_back() -> None:
    def work() -> None:
        with phase(Phase.OUTER_GRADIENT):
            with phase(Phase.INNER_LOOP), phase(Phase.INNER_LOOP):
                pass
            with phase(Phase.META_GRADIENT):
                pass

    def failing() -> None:
        with pytest.raises(ZeroDivisionError), phase(Phase.INNER_LOOP):
            raise ZeroDivisionError

    outer: list[Phase] = []
    with watched(outer.append):
        assert changes(work) == "oiomom"
        assert changes(failing) == "im"
        assert not outer  # an inner watcher takes over, and gives back
        with phase(Phase.OUTER_GRADIENT):
            pass
    work()
    assert outer == [Phase.OUTER_GRADIENT, Phase.META_GRADIENT]


def test_every_estimator_reports_its_phases() -> None:
    for estimators, depth, phases in (
        (("maml", "adjoint", "fomaml", "anil"), 0, "om"),
        (("maml", "adjoint", "fomaml", "anil", "reptile", "imaml"), 3, "im" * 3 + "om"),
        (("truncated(order=0)", "truncated(order=2)", "binom(order=2)"), 3, "im" * 3 + "om"),
        (("binom-released(order=1)", "binom-chebyshev(order=1)"), 3, "im" * 3 + "om"),
        (("hybrid(order=1, window=2)", "neumann(terms=2, lam=50.0)"), 3, "im" * 3 + "om"),
        (("maml(checkpoint='sqrt')",), 3, "im" * 3 + "om" + "im" * 3),  # steps are taken again
        (("mixed",), 3, "im" * 3 + "om" * 3),
        (("drmad", "lazy", "lazy(gamma=0.5)"), 3, "im" * 3 + "om"),
        (("contrastive",), 3, "om" + "im" * 6 + "om"),
    ):
        arguments = sinusoid(depth)
        for spec in estimators:
            assert changes(partial(create(spec), *arguments)) == phases, (spec, depth)


class Observed(torch.autograd.Function):
    """The identity; says when it is differentiated."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, tell: Callable[[], None]) -> Tensor:
        ctx.tell = tell
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.tell()
        return gradients[0], None


@pytest.mark.parametrize(
    ("estimator", "unused"),
    [
        *[(name, unused) for name in ("maml", "truncated(order=2)") for unused in (None, "a", "b")],
        *[(f"anil(head={head!r})", unused) for head, unused in ("ab", "ba")],
        *[(f"anil(head={head!r})", None) for head in "ab"],
    ],
)
def test_outer_gradient_ends_in_the_middle_of_one_backward_pass(
    estimator: str, unused: str | None
) -> None:
    now = [Phase.META_GRADIENT]
    seen: list[tuple[str, Phase]] = []

    def watch(which: Phase) -> None:
        now[0] = which

    def differentiated(name: str) -> None:
        seen.append((f"{name} backward", now[0]))

    def loss(name: str, left_out: str | None = None) -> Callable[[Params], Tensor]:
        def evaluated(params: Params) -> Tensor:
            seen.append((f"{name} forward", now[0]))
            used = [value for key, value in params.items() if key != left_out]
            product = torch.stack([value.prod() for value in used]).prod()
            observed: Tensor = Observed.apply(product, partial(differentiated, name))  # type: ignore[no-untyped-call]
            return observed**2

        return evaluated

    problem = BilevelProblem(loss("inner"), loss("outer", unused), step_size=0.1, steps=2)
    with watched(watch):
        create(estimator)(problem, {"a": torch.ones(2), "b": torch.ones(3)})
    inner, outer, rest = Phase.INNER_LOOP, Phase.OUTER_GRADIENT, Phase.META_GRADIENT
    assert seen == [
        *[("inner forward", inner), ("inner backward", inner)] * 2,
        *[("outer forward", outer), ("outer backward", outer)],
        *[("inner backward", rest)] * 2,
    ]
    assert now == [Phase.META_GRADIENT]


def test_work_between_inner_steps_is_no_inner_loop() -> None:
    problem, params = sinusoid(2)
    now = [Phase.META_GRADIENT]
    with watched(now.append):
        between = [now[-1] for _ in problem.states(params)]
    assert between == [Phase.META_GRADIENT] * 3

    def estimator_of_others() -> None:
        *_, end = problem.trajectory(params)
        problem.outer_gradient(end)

    assert changes(estimator_of_others) == "imimom"


def test_watching_changes_no_bit() -> None:
    arguments = sinusoid(3)
    for spec in ("maml", "truncated(order=1)", "anil", "binom(order=1)"):
        unwatched = create(spec)(*arguments)
        with watched(lambda which: None):
            seen = create(spec)(*arguments)
        for one, other in ((unwatched.gradient, seen.gradient), (unwatched.adapted, seen.adapted)):
            assert all(torch.equal(one[name], other[name]) for name in one), spec


def test_other_threads_are_not_watched() -> None:
    work, arguments = create("fomaml"), sinusoid(1)
    thread = threading.Thread(target=lambda: work(*arguments))

    def run() -> None:
        thread.start()
        thread.join()

    assert changes(run) == ""
