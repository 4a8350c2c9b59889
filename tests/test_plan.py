"""Presets, axes, and what cannot be measured."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from estimators import OptionError
from harness.environment.gpus import missing_device
from harness.matrix.plan import Axes, expand, override, preset, refuse_impossible
from harness.support.presets import about

SMALL = Axes(
    settings=(("sinusoid", "mlp-40-40"),),
    depths=(1, 3),
    estimators=("maml", "fomaml"),
    ordered=("binom",),
    orders=(1, 2),
)
NO_CHANGE: dict[str, Any] = {"task": None, "model": None}


def test_presets_expand() -> None:
    sizes = {
        "quick": 3 * 3 * (5 + 2 * 3),
        "full": 9 * sum(12 + 4 * (depth + 1) for depth in (1, 2, 3, 5, 10, 20, 50)),
        "engines": 4 * 2 * 13,
        "gpu": 5 * 4 * (8 + 2 * 3),
        "batching": 3 * 4 * 7,
        "batching-compiled": 3 * 3 * 10,
        "fig3": 4 * (2 + 4 * 4),
        "fig3-paper": 2 * 8 * (2 + 4 * 4),
        "fig4": 4 + 2 * 4,
        "fig4-paper": 2 * 2 * (8 + 2 * 4),
        "training": 3 * 4 * (2 + 3 * 3),
        "products": 2 * 2 * 2 * (5 + 4 * 3),
        "horizons": 3 * 3 * 11,
        "worlds": 4 * 2 * (4 + 2 * 3) + 2 * 2 * 17 + 2 * 4 * (6 + 2 * 3) + 2 * 2 * (4 + 2 * 2),
    }
    for name, size in sizes.items():
        assert len({plan.cell.id for plan in expand(preset(name))}) == size, name
        assert about("harness.matrix")[name]
    full = expand(preset("full"))
    skipped = {plan.cell.estimator.partition("(")[0] for plan in full if plan.skip}
    assert skipped == {"hybrid"}  # whose window is wider than the least depths
    with pytest.raises(OptionError, match=r"'quik'.* quick"):
        preset("quik")


def test_options_replace_the_values_of_all_parts_of_a_preset() -> None:
    planned = expand(override(preset("worlds"), **NO_CHANGE, depths=[2], num_tasks=1))
    assert {(plan.cell.depth, plan.cell.num_tasks) for plan in planned} == {(2, 1)}
    assert {plan.cell.task for plan in planned} >= {"bandit", "mdp(horizon=10)", "unicycle"}


def test_quick_holds_what_everybody_asks_for() -> None:
    planned = expand(preset("quick"))
    cells = {(p.cell.task, p.cell.model, p.cell.depth, p.cell.estimator): p.skip for p in planned}
    for setting in [("sinusoid", "mlp-40-40"), ("glyphs:5way-1shot", "conv4-32")]:
        for depth in (1, 5, 10):
            for estimator in ("maml", "adjoint", "fomaml", "imaml", "reptile"):
                assert cells[*setting, depth, estimator] == ""
            for name in ("truncated", "binom"):
                for order in (1, 2, 4):
                    fits = cells[*setting, depth, f"{name}(order={order})"] == ""
                    assert fits == (order <= depth)
    assert {(p.cell.num_tasks, p.cell.device, p.cell.dtype) for p in planned} == {
        (8, "cpu", "float32")
    }


def test_misfits_are_kept_with_their_reason() -> None:
    planned = expand(SMALL)
    assert len(planned) == 2 * 4
    reasons = {(p.cell.estimator, p.cell.depth): p.skip for p in planned if p.skip}
    assert reasons == {
        ("binom(order=2)", 1): "binom: order=2 is outside 0..1 (the depth is 1)",
    }


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_absent_devices_are_kept_with_their_reason() -> None:
    planned = expand(replace(SMALL, devices=("cpu", "cuda", "cuda:1"), ordered=()))
    skips = {(plan.cell.device, plan.skip) for plan in planned}
    assert skips == {
        ("cpu", ""),
        *((device, missing_device(device)) for device in ("cuda:0", "cuda:1")),
    }
    assert all(plan.skip for plan in expand(preset("gpu")))
    with pytest.raises(OptionError, match="nothing to measure: cuda:0: "):
        refuse_impossible(expand(preset("gpu")), named=False)


def test_cells_are_in_the_order_of_the_axes_and_single() -> None:
    planned = expand(replace(SMALL, estimators=("maml", "imaml", "imaml(lam=100)"), ordered=()))
    assert [(p.cell.depth, p.cell.estimator) for p in planned] == [
        (depth, estimator) for depth in (1, 3) for estimator in ("maml", "imaml")
    ]


def test_meta_training_is_the_last_axis() -> None:
    axes = replace(SMALL, depths=(3,), estimators=("maml",), ordered=(), seeds=(0, 1))
    planned = expand(replace(axes, trained=(0, 400)))
    assert [(p.cell.seed, p.cell.trained) for p in planned] == [(0, 0), (0, 400), (1, 0), (1, 400)]
    assert {plan.cell.trained for plan in expand(axes)} == {0}
    assert {p.cell.trained for p in expand(override(axes, **NO_CHANGE, trained=[7]))} == {7}


def test_what_a_user_names_takes_the_place_of_the_preset() -> None:
    axes = preset("quick")
    assert override(axes, **NO_CHANGE, estimators=[], depths=None, step_size=None) == axes
    changed = override(
        axes,
        task="quadratic",
        model="linear",
        estimators=["maml"],
        depths=[2, 3],
        devices=["cpu"],
        dtypes=["float64"],
        seeds=[4],
        num_tasks=2,
        step_size=0.5,
    )
    (first, second) = expand(changed)
    assert first.cell.id == "quadratic/linear/K2/alpha0.5/maml/cpu/float64/seed4/tasks2"
    assert second.cell.depth == 3
    only_depth = expand(override(axes, **NO_CHANGE, depths=[4]))
    assert len(only_depth) == 3 * 11
    assert {plan.cell.depth for plan in only_depth} == {4}
    for one in ({"task": "sinusoid"}, {"model": "linear"}):
        with pytest.raises(OptionError, match="--task and --model go together"):
            override(axes, **NO_CHANGE | one)


def test_a_named_estimator_must_fit_somewhere() -> None:
    axes = replace(SMALL, estimators=("maml", "truncated(order=4)"), ordered=())
    refuse_impossible(expand(axes), named=False)
    with pytest.raises(OptionError, match=r"nothing to measure: truncated: order=4 is outside 0.."):
        refuse_impossible(expand(axes), named=True)
    refuse_impossible(expand(replace(axes, depths=(1, 4))), named=True)


def test_impossible_axes_are_refused() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"depths": ()}, "nothing to measure"),
        ({"estimators": ("maaml",)}, "'maaml'"),
        ({"settings": (("sinusoid", "conv4-16"),)}, "does not fit task sinusoid"),
    ]
    for changes, message in cases:
        with pytest.raises(OptionError, match=message):
            expand(replace(SMALL, **changes))
