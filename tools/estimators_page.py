"""Writes docs/estimators.md from the registry and the docstrings of the estimators.

python -m tools.estimators_page
"""

import inspect
import re
from math import isnan
from pathlib import Path
from textwrap import dedent

from estimators import Estimator, create
from estimators.base.registry import ESTIMATORS

PAGE = Path(__file__).parent.parent / "docs" / "estimators.md"
DEPTH = 10
REQUIRED = {"order": 2, "window": 4, "terms": 5, "products": 2, "rate": 0.8, "q": 0.2, "n": 8}
"""Values, in the table, of options that have no default."""

INTRODUCTION = f"""# Estimators

`python -m tools.estimators_page` writes this page from the registry and the docstrings.

theta are the initial parameters, phi_k those after k of K inner steps of step size alpha, H_k is
the Hessian of the inner loss at phi_k, A_k = I - alpha H_k, and g the gradient of the outer loss at
phi_K. [library.md](library.md) helps to choose.

The table has the cost of one estimate at K = {DEPTH}; `Estimator.cost` gives it at any depth.
Gradients: all work, in gradients of the inner loss; HVPs: Hessian-vector products; serial: how many
of these must wait for one another. Of random estimators, in the mean over draws.

| estimator | estimate | gradients | HVPs | serial |
|---|---|---|---|---|
"""


def page() -> str:
    """Return the page."""
    names = ESTIMATORS.available()
    kinds = {name: type(_example(name)) for name in names}
    text = INTRODUCTION + "".join(map(_row, names))
    for kind in dict.fromkeys(kinds.values()):
        text += _section(kind, [name for name in names if kinds[name] is kind])
    bases = {base for kind in kinds.values() for base in kind.__mro__} - set(kinds.values())
    shared = [base for base in bases if issubclass(base, Estimator) and base is not Estimator]
    text += "\n# Shared options\n"
    for base in sorted(shared, key=lambda base: base.__name__):
        text += f"\n## {base.__name__}\n\n{_text(base)}\n"
    return text


def _specification(name: str) -> str:
    """Return the name with the options that it needs, as `binom(order=2)`."""
    options = ESTIMATORS.options(name).values()
    needed = [f"{one.name}={REQUIRED[one.name]}" for one in options if one.default is one.empty]
    return f"{name}({', '.join(needed)})" if needed else name


def _example(name: str) -> Estimator:
    return create(_specification(name))


def _row(name: str) -> str:
    estimator = _example(name)
    cost = estimator.cost(DEPTH)
    assert cost, name
    gradients = cost.in_gradients()
    columns = (
        f"`{_specification(name)}`",
        _text(type(estimator)).partition("\n")[0].rstrip("."),
        "depends on the model" if isnan(gradients) else f"{gradients:.3g}",
        f"{cost.hvps:.3g}",
        f"{cost.serial_depth:.3g}",
    )
    return f"| {' | '.join(map(str, columns))} |\n"


def _section(kind: type[Estimator], names: list[str]) -> str:
    options = {name: ", ".join(map(str, ESTIMATORS.options(name).values())) for name in names}
    calls = ", ".join(f"`{name}({text})`" for name, text in options.items())
    return f"\n## {', '.join(names)}\n\n{calls}\n\n{_text(kind)}\n"


def _text(kind: type[Estimator]) -> str:
    """Return a docstring as Markdown, its attributes as a list, without its example."""
    text = f"{inspect.getdoc(kind)}\n\n".partition("\nExample:\n")[0]
    text = re.sub(r"\nAttributes:\n(.*?)\n\n", _list, text, flags=re.DOTALL)
    return text.replace("<", "&lt;").replace("\nCost:", "\n\nCost:").strip()


def _list(block: re.Match[str]) -> str:
    lines = dedent(block[1]).splitlines()
    items = (re.sub(r"^(\w+):", r"- `\1`:", re.sub(r"^    ", "  ", line)) for line in lines)
    return "\n" + "\n".join(items) + "\n\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
