"""Specifications, their errors, and the examples in the docstrings."""

import doctest
import importlib
import inspect
import pkgutil
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

import estimators
from estimators import BilevelProblem, OptionError, Params, available, create
from estimators.base import registry
from estimators.base.registry import ESTIMATORS, Registry, Spec

BUILT_IN = ["adjoint", "fomaml", "hf-maml", "imaml", "maml", "mixed", "reptile"]
MODULES = [estimators.__name__] + [
    module.name for module in pkgutil.iter_modules(estimators.__path__, "estimators.")
]
WITH_EXAMPLES = [
    name for name in MODULES if "Example:" in inspect.getsource(importlib.import_module(name))
]


def half_square(params: Params) -> torch.Tensor:
    return 0.5 * params["w"].square().sum()


def ball(radius: float) -> str:
    return f"ball {radius}"


@pytest.fixture
def shapes() -> Registry[str]:
    made: Registry[str] = Registry("shape", "tests.shapes")

    def box(width: int, depth: float = 2.0, label: str = "box") -> str:
        return f"{label} {width} x {depth}"

    made.register("box")(box)
    made.register("flat-box", depth=0.5)(box)
    return made


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("maml", "maml", {}),
        ("maml()", "maml", {}),
        ("  binom ( order = 2, ) ", "binom", {"order": 2}),
        ("a-b:c_1(x=-1.5e3, y='(,)', z=None, t=True)", "a-b:c_1", None),
    ],
)
def test_specification_is_read(text: str, name: str, options: dict[str, object] | None) -> None:
    spec = Spec.parse(text)
    assert spec.name == name
    assert spec.options == (
        {"x": -1500.0, "y": "(,)", "z": None, "t": True} if options is None else options
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "()",
        "binom(",
        "binom)",
        "binom order",
        "binom(2)",
        "binom(*[2])",
        "binom(**{'order': 2})",
        "binom(order)",
        "binom(order=)",
        "binom(order:=2)",
        "binom(order=1, order=2)",
        "binom(order=1)(order=2)",
        "binom(order=1).x(order=2)",
        "binom(order=two)",
        "binom(order=1 if True else 2)",
        "binom(order=f'{1}')",
        "binom(order={[]})",
        "binom(order=" + "-" * 100_000 + "1)",
        "binom(order=1\0)",
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="cannot read"):
        create(text)


def test_code_in_text_is_refused_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for text in (
        "binom(order=__import__('os').system('touch ran'))",
        "binom(order=open('ran', 'w'))",
        "binom(order=[open('ran', 'w') for _ in '1'])",
        "binom(order=(lambda: open('ran', 'w'))())",
        "binom(open('ran', 'w'))",
    ):
        with pytest.raises(OptionError, match="cannot read"):
            create(text)
        assert not list(tmp_path.iterdir()), text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("maml()", "maml"),
        (" binom ( order=2 ) ", "binom(order=2)"),
        ("imaml(lam=5, cg_steps=3)", "imaml(cg_steps=3, lam=5.0)"),
        ("imaml(lam=100, cg_steps=5)", "imaml"),
        ("imaml(tolerance=1e-10, lam=2.50)", "imaml(lam=2.5)"),
    ],
)
def test_canonical_text(text: str, canonical: str) -> None:
    assert ESTIMATORS.canonical(text) == canonical
    assert ESTIMATORS.canonical(canonical) == canonical
    assert create(canonical) == create(text)


def test_options_may_be_given_apart_from_the_text_but_not_twice() -> None:
    assert create("imaml(lam=5)", cg_steps=3) == create("imaml(lam=5.0, cg_steps=3)")
    assert create("imaml", lam=5) != create("imaml")
    with pytest.raises(OptionError, match="'order' is given twice"):
        create("binom(order=1)", order=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("binomm(order=1)", "unknown estimator 'binomm'; did you mean binom?"),
        ("fomalm", "did you mean fomaml or "),
        ("zzz", "unknown estimator 'zzz'; there is adjoint, anil, binom, "),
        ("binom(ordr=1)", "binom: unknown option 'ordr'; did you mean order?"),
        ("maml(order=1)", "maml: unknown option 'order'; there is checkpoint, compiled"),
        ("binom", r"binom: option 'order' is missing: binom\(order=\.\.\.\)"),
        ("binom(order=1.0)", "binom: order=1.0 must be a whole number"),
        ("binom(order='1')", "binom: order='1' must be a whole number"),
        ("binom(order=True)", "binom: order=True must be a whole number"),
        ("binom(order=None)", "binom: order=None must be a whole number"),
        ("imaml(lam='5')", "imaml: lam='5' must be a number"),
        ("imaml(lam=True)", "imaml: lam=True must be a number"),
        ("binom(order=-1)", r"binom: order=-1 is outside 0\.\.K"),
        ("truncated(order=-1)", r"truncated: order=-1 is outside 0\.\.K"),
        ("imaml(lam=0)", "imaml: lam=0.0 must be positive"),
        ("imaml(lam=-1)", "imaml: lam=-1.0 must be positive"),
        ("imaml(cg_steps=0)", "imaml: cg_steps=0 must be 1 or more"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create(text)


def test_order_beyond_the_depth_is_refused() -> None:
    for name in ("binom", "truncated"):
        estimator = create(name, order=3)
        assert estimator.unsupported_reason(3) is None
        with pytest.raises(OptionError, match=rf"{name}: order=3 is outside 0\.\.2"):
            estimator(BilevelProblem(half_square, half_square, 0.1, 2), {"w": torch.ones(2)})
    with pytest.raises(OptionError, match="steps=-1"):
        BilevelProblem(half_square, half_square, 0.1, -1)


def test_every_module_on_the_shelf_is_registered() -> None:
    assert set(BUILT_IN) <= set(available())
    assert available() == sorted(available())
    modules = {
        f"estimators.{type(create(name)).__module__.rpartition('.')[2]}" for name in BUILT_IN
    }
    assert modules <= set(ESTIMATORS.built_in_modules()) <= set(MODULES)


def test_preset_options_are_fixed(shapes: Registry[str]) -> None:
    assert shapes.available() == ["box", "flat-box"]
    assert list(shapes.options("flat-box")) == ["width", "label"]
    assert shapes.create("flat-box(width=1)") == "box 1 x 0.5"
    assert shapes.create("box(width=1, label='crate')") == "crate 1 x 2.0"
    with pytest.raises(OptionError, match="flat-box: unknown option 'depth'"):
        shapes.create("flat-box(width=1, depth=3.0)")
    with pytest.raises(OptionError, match="box: label=3 must be a string"):
        shapes.create("box(width=1, label=3)")


def test_canonical_name_is_the_one_that_fixes_most(shapes: Registry[str]) -> None:
    assert shapes.canonical("box(width=1, depth=0.5)") == "flat-box(width=1)"
    assert shapes.canonical("flat-box(width=1)") == "flat-box(width=1)"
    assert shapes.canonical("box(width=1, depth=2)") == "box(width=1)"
    assert shapes.create("box(width=1, depth=0.5)") == "box 1 x 0.5"


def test_name_is_registered_once(shapes: Registry[str]) -> None:
    with pytest.raises(OptionError, match="shape 'box' is registered already"):
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
    with pytest.raises(OptionError, match="shape 'broken' of no_such_module:shape cannot be load"):
        shapes.create("broken")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    examples = [found for found in doctest.DocTestFinder().find(module) if found.examples]
    assert len(examples) == inspect.getsource(module).count("Example:\n")
    runner = doctest.DocTestRunner()
    for example in examples:
        assert runner.run(example).failed == 0
