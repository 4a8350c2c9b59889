"""Presets of `metagrad train`, and the trainings of options."""

import pytest

from estimators.base.errors import OptionError
from estimators.base.registry import ESTIMATORS
from harness.training.plan import configs, preset, presets


def test_presets_expand() -> None:
    for name, about in presets().items():
        values = preset(name)
        planned = configs(values)
        settings = len(values["settings"]) * len(values["depths"])
        assert len(planned) == len(values["seeds"]) * settings * len(values["estimators"]), name
        assert {config.cell.seed for config in planned} == set(values["seeds"]), name
        assert about, name


def test_accuracy_has_every_estimator_but_the_one_that_equals_maml() -> None:
    names = {config.cell.estimator.partition("(")[0] for config in configs(preset("accuracy"))}
    assert names == {*ESTIMATORS.available()} - {"adjoint"}


def test_options_replace_values_of_a_preset() -> None:
    options = {"settings": [("sinusoid", "mlp-40-40")], "estimators": ["maml"], "seeds": [4]}
    both = configs(preset("larger") | options | {"steps": 7, "dtypes": ["float32", "float64"]})
    assert [config.cell.dtype for config in both] == ["float32", "float64"]
    for config in both:
        assert (config.cell.task, config.cell.seed) == ("sinusoid", 4)
        assert (config.steps, config.bias_every) == (7, 200)


def test_errors_name_the_preset_or_the_options_that_are_missing() -> None:
    with pytest.raises(OptionError, match="deep"):
        preset("depe")
    with pytest.raises(OptionError, match="--estimator and --task and --model"):
        configs({"depths": [5]})
