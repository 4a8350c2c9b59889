"""Presets of `metagrad train`, and what cannot be trained."""

import pytest

from estimators.base.errors import OptionError
from estimators.base.registry import ESTIMATORS
from harness.training.plan import configs, preset, presets


@pytest.mark.parametrize("name", presets())
def test_presets_expand(name: str) -> None:
    named = preset(name)
    found = configs(named)
    settings = len(named["settings"]) * len(named["depths"])
    assert len(found) == len(named["seeds"]) * settings * len(named["estimators"])
    assert {recipe.cell.seed for recipe in found} == set(named["seeds"])
    assert presets()[name]


def test_accuracy_has_every_estimator_but_the_one_that_is_maml_by_another_way() -> None:
    trained = {recipe.cell.estimator.partition("(")[0] for recipe in configs(preset("accuracy"))}
    assert trained == {*ESTIMATORS.available()} - {"adjoint"}


def test_what_a_user_names_stands_in_the_place_of_the_presets() -> None:
    (recipe,) = configs(
        preset("larger")
        | {
            "settings": [("sinusoid", "mlp-40-40")],
            "estimators": ["maml"],
            "seeds": [0],
            "steps": 7,
        }
    )
    assert (recipe.cell.task, recipe.steps, recipe.bias_every) == ("sinusoid", 7, 200)


def test_slips_are_told() -> None:
    with pytest.raises(OptionError, match="unknown preset 'depe'; did you mean deep"):
        preset("depe")
    with pytest.raises(OptionError, match="name a preset, or --estimator and --task and --model"):
        configs({"depths": [5]})
