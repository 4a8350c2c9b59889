"""Specifications, their errors, and the examples in the docstrings."""

import doctest
import importlib
import inspect
import pkgutil
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import estimators
from estimators import OptionError, available, create
from estimators.base import registry
from estimators.base.registry import ESTIMATORS, Registry, Spec

BUILT_IN = ["adjoint", "fomaml", "hf-maml", "imaml", "maml", "mixed", "reptile"]
MODULES = [estimators.__name__] + [
    module.name for module in pkgutil.iter_modules(estimators.__path__, "estimators.")
]
WITH_EXAMPLES = [
    name for name in MODULES if "Example:" in inspect.getsource(importlib.import_module(name))
]


def ball(radius: float) -> str:
    return f"ball {radius}"


@pytest.fixture
def shapes() -> Registry[str]:
    shape_registry: Registry[str] = Registry("shape", "tests.shapes")

    def box(width: int, depth: float = 2.0, label: str = "box") -> str:
        return f"{label} {width} x {depth}"

    shape_registry.register("box")(box)
    shape_registry.register("flat-box", depth=0.5)(box)
    return shape_registry


def test_specification_is_read_and_written_in_one_way() -> None:
    spec = Spec.parse("a-b:c_1(x=-1.5e3, y='(,)', z=None, t=True)")
    assert spec == Spec("a-b:c_1", {"x": -1500.0, "y": "(,)", "z": None, "t": True})
    for text, canonical in (
        ("maml()", "maml"),
        (" binom ( order=2, ) ", "binom(order=2)"),
        ("imaml(lam=5, cg_steps=3)", "imaml(cg_steps=3, lam=5.0)"),
        ("imaml(lam=100, cg_steps=5)", "imaml"),
        ("imaml(tolerance=1e-10, lam=2.50)", "imaml(lam=2.5)"),
    ):
        assert ESTIMATORS.canonical(text) == canonical
        assert ESTIMATORS.canonical(canonical) == canonical
        assert create(canonical) == create(text)


def test_other_text_is_refused_and_code_in_it_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = ["", "()", "binom(", "binom)", "binom order", "binom(order=1)(order=2)"]
    wrong += ["binom(order=1).x(order=2)", "binom(open('ran', 'w'))"]
    arguments = ["2", "*[2]", "**{'order': 2}", "order", "order=", "order:=2", "order=1, order=2"]
    values = ["two", "1 if True else 2", "f'{1}'", "{[]}", "-" * 100_000 + "1", "1\0"]
    values += ["__import__('os').system('touch ran')", "open('ran', 'w')"]
    values += ["[open('ran', 'w') for _ in '1']", "(lambda: open('ran', 'w'))()"]
    arguments += [f"order={value}" for value in values]
    for text in wrong + [f"binom({argument})" for argument in arguments]:
        with pytest.raises(OptionError, match="cannot read"):
            create(text)
        assert not list(tmp_path.iterdir()), text


def test_options_may_be_given_apart_from_the_text_but_not_twice() -> None:
    assert create("imaml(lam=5)", cg_steps=3) == create("imaml(lam=5.0, cg_steps=3)")
    assert create("imaml", lam=5) != create("imaml")
    with pytest.raises(OptionError, match="'order'"):
        create("binom(order=1)", order=1)


def test_mistakes_are_named() -> None:
    for text, message in (
        ("binomm(order=1)", "'binomm'.* binom[?]"),
        ("fomalm", "'fomalm'.* fomaml or "),
        ("zzz", "'zzz'.* adjoint, anil, binom, "),
        ("binom(ordr=1)", "binom: .*'ordr'.* order[?]"),
        ("maml(order=1)", "maml: .*'order'.* checkpoint, compiled"),
        ("binom", r"binom: .*'order'.* binom\(order=\.\.\.\)"),
        ("binom(order=1.0)", "binom: order=1.0 must be a whole number"),
        ("binom(order='1')", "binom: order='1' must be a whole number"),
        ("binom(order=True)", "binom: order=True must be a whole number"),
        ("binom(order=None)", "binom: order=None must be a whole number"),
        ("imaml(lam='5')", "imaml: lam='5' must be a number"),
        (f"imaml(lam={10**400})", f"imaml: lam={10**400} must be a number"),
        ("imaml(lam=True)", "imaml: lam=True must be a number"),
        ("binom(order=-1)", r"binom: order=-1 .*0\.\.K"),
        ("truncated(order=-1)", r"truncated: order=-1 .*0\.\.K"),
        ("lazy(beta=True)", "lazy: beta=True must be a number"),
        ("imaml(lam=0)", "imaml: lam=0.0 must be positive"),
        ("imaml(lam=-1)", "imaml: lam=-1.0 must be positive"),
        ("imaml(cg_steps=0)", "imaml: cg_steps=0 must be 1 or more"),
    ):
        with pytest.raises(OptionError, match=message):
            create(text)


def test_every_module_on_the_shelf_is_registered() -> None:
    assert set(BUILT_IN) <= set(available())
    assert available() == sorted(available())
    modules = {
        f"estimators.{type(create(name)).__module__.rpartition('.')[2]}" for name in BUILT_IN
    }
    assert modules <= set(ESTIMATORS.built_in_modules()) <= set(MODULES)


def test_preset_options_are_fixed_and_the_canonical_name_fixes_most(shapes: Registry[str]) -> None:
    assert shapes.available() == ["box", "flat-box"]
    assert list(shapes.options("flat-box")) == ["width", "label"]
    assert shapes.create("flat-box(width=1)") == "box 1 x 0.5"
    assert shapes.create("box(width=1, label='crate')") == "crate 1 x 2.0"
    assert shapes.canonical("box(width=1, depth=0.5)") == "flat-box(width=1)"
    assert shapes.canonical("flat-box(width=1)") == "flat-box(width=1)"
    assert shapes.canonical("box(width=1, depth=2)") == "box(width=1)"
    with pytest.raises(OptionError, match=r"flat-box: .*'depth'"):
        shapes.create("flat-box(width=1, depth=3.0)")
    with pytest.raises(OptionError, match="box: label=3 must be a string"):
        shapes.create("box(width=1, label=3)")
    with pytest.raises(OptionError, match="'box' is registered already"):
        shapes.register("box")


def test_other_distributions_add_theirs(
    shapes: Registry[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [
        EntryPoint("ball", f"{__name__}:ball", "tests.shapes"),
        EntryPoint("broken", "no_such_module:shape", "tests.shapes"),
    ]

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        return [point for point in points if point.group == group and name in (None, point.name)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert shapes.available() == ["ball", "box", "broken", "flat-box"]
    assert shapes.canonical("ball(radius=2)") == "ball(radius=2.0)"
    assert shapes.create("ball(radius=2)") == "ball 2.0"
    assert shapes.create("box(width=1)") == "box 1 x 2.0"
    with pytest.raises(OptionError, match="'broken' of no_such_module:shape"):
        shapes.create("broken")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    examples = [each for each in doctest.DocTestFinder().find(module) if each.examples]
    assert len(examples) == inspect.getsource(module).count("Example:\n")
    runner = doctest.DocTestRunner()
    for example in examples:
        assert runner.run(example).failed == 0
