"""Registries of things that are created from text: estimators, tasks and models."""

import ast
import difflib
import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from types import NoneType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

from estimators.base.errors import OptionError

if TYPE_CHECKING:
    from estimators.base.estimator import Estimator

T = TypeVar("T")
_SUCCESSORS = {"binom-calibrated": "binom-chebyshev"}  # of estimators that were retired
_SPEC = re.compile(r"\s*([\w:-]+)\s*(?:\((.*)\))?\s*", re.DOTALL)


@dataclass(frozen=True)
class Spec:
    """A name and its options, as in `binom(order=2)`.

    Attributes:
        name: the registered name.
        options: keyword options; numbers, strings, booleans or None.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """Read a specification; nothing in the text is executed.

        Args:
            text: `name` or `name(key=value, ...)` with literal values.

        Returns:
            The name and its options.

        Raises:
            OptionError: the text is not of that form.
        """
        match = _SPEC.fullmatch(text)
        problem = OptionError(
            f"cannot read {text!r}; write it like name or name(option=value), text in quotes"
        )
        if not match:
            raise problem
        try:
            call = ast.parse(f"_({match[2] or ''})", mode="eval").body
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
                raise problem
            names = [keyword.arg for keyword in call.keywords]
            if None in names or len(set(names)) < len(names):
                raise problem
            options = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            raise problem from None
        return cls(match[1], options)

    def __str__(self) -> str:
        if not self.options:
            return self.name
        inside = ", ".join(f"{key}={value!r}" for key, value in sorted(self.options.items()))
        return f"{self.name}({inside})"


class Registry(Generic[T]):
    """Factories by name, and what they create by specification.

    Args:
        kind: of thing, for messages ("estimator").
        entry_point_group: where other distributions may register theirs; a failing one is
            reported when its name is used.
        package: whose modules register the built-in ones; they are imported at the first use.
    """

    def __init__(self, kind: str, entry_point_group: str, package: str = "") -> None:
        self.kind = kind
        self._group = entry_point_group
        self._package = package
        self._loaded = not package
        self._factories: dict[str, tuple[Callable[..., T], dict[str, Any]]] = {}

    def register(self, name: str, **preset: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Register the decorated class or function under a name.

        Args:
            name: letters, digits, `-`, `_` and `:`.
            **preset: options fixed under this name.

        Returns:
            A decorator that returns its argument.

        Raises:
            OptionError: the name is taken.
        """
        if name in self._factories:
            raise OptionError(f"{self.kind} {name!r} is registered already; choose another name")

        def decorate(factory: Callable[..., T]) -> Callable[..., T]:
            self._factories[name] = (factory, preset)
            return factory

        return decorate

    def available(self) -> list[str]:
        """Return all names, those of entry points included, sorted."""
        self._load_built_in()
        external = {point.name for point in entry_points(group=self._group)}
        return sorted(external | set(self._factories))

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the options that a name takes, with their types and defaults.

        Args:
            name: a registered name.

        Raises:
            OptionError: the name is unknown; the message has the nearest ones.
        """
        factory, preset = self._factory(name)
        parameters = inspect.signature(factory, eval_str=True).parameters
        return {key: value for key, value in parameters.items() if key not in preset}

    def canonical(self, text: str) -> str:
        """Return the one spelling of a specification: options sorted, defaults left out.

        Args:
            text: a specification.

        Raises:
            OptionError: the text, the name or an option is wrong.
        """
        return str(self._checked(Spec.parse(text)))

    def create(self, text: str, **options: Any) -> T:
        """Create an object from its specification.

        Args:
            text: `binom(order=2)`, or just the name.
            **options: further options.

        Returns:
            The result of the registered factory.

        Raises:
            OptionError: the text, the name or an option is wrong.
        """
        spec = Spec.parse(text)
        twice = sorted(spec.options.keys() & options.keys())
        if twice:
            raise OptionError(f"{spec.name}: option {twice[0]!r} is given twice")
        spec = self._checked(Spec(spec.name, spec.options | options))
        factory, preset = self._factory(spec.name)
        return factory(**preset, **spec.options)

    def _factory(self, name: str) -> tuple[Callable[..., T], dict[str, Any]]:
        self._load_built_in()
        if name not in self._factories:
            for point in entry_points(group=self._group, name=name):
                try:
                    self._factories[name] = (point.load(), {})
                except Exception as error:
                    raise OptionError(
                        f"{self.kind} {name!r} of {point.value} cannot be loaded: {error}"
                    ) from error
        if name not in self._factories:
            if name in _SUCCESSORS:
                raise OptionError(f"{name} was retired; {_SUCCESSORS[name]} took its place")
            raise OptionError(unknown(self.kind, name, self.available()))
        return self._factories[name]

    def built_in_modules(self) -> list[str]:
        """Return the names of the modules that register the built-in ones."""
        modules = iter_modules(import_module(self._package).__path__, f"{self._package}.")
        return [module.name for module in modules if not module.ispkg]

    def _load_built_in(self) -> None:
        if not self._loaded:
            for module in self.built_in_modules():
                import_module(module)
            self._loaded = True

    def _checked(self, spec: Spec) -> Spec:
        """Check names and types of options, and return the canonical specification.

        Where several names stand for one factory, the name that fixes most of the options is
        taken; options equal to their default are left out.

        Raises:
            OptionError: a name or a type is wrong, or an option is missing.
        """
        parameters = self.options(spec.name)
        options: dict[str, Any] = {}
        for key, value in spec.options.items():
            if key not in parameters:
                raise OptionError(f"{spec.name}: {unknown('option', key, sorted(parameters))}")
            options[key] = _typed(spec.name, key, value, parameters[key].annotation)
        for key, parameter in parameters.items():
            if parameter.default is inspect.Parameter.empty and key not in options:
                raise OptionError(f"{spec.name}: option {key!r} is missing: {spec.name}({key}=...)")
        factory, preset = self._factory(spec.name)
        defaults = {k: p.default for k, p in inspect.signature(factory).parameters.items()}
        chosen = defaults | preset | options
        name, fixed = max(
            (
                (name, fixed)
                for name, (other, fixed) in self._factories.items()
                if other is factory and all(chosen[key] == fixed[key] for key in fixed)
            ),
            key=lambda pair: len(pair[1]),
        )
        free = {k: v for k, v in chosen.items() if k not in fixed and v != defaults[k]}
        return Spec(name, free)


def _typed(name: str, key: str, value: Any, expected: Any) -> Any:
    if NoneType in get_args(expected):
        if value is None:
            return None
        kinds = [kind for kind in get_args(expected) if kind is not NoneType]
        expected = kinds[0] if len(kinds) == 1 else expected
    if expected is float and type(value) is int:
        with suppress(OverflowError):
            return float(value)
    if expected in (int, float, bool, str) and type(value) is not expected:
        what = {int: "a whole number", float: "a number", bool: "True or False", str: "a string"}
        raise OptionError(f"{name}: {key}={value!r} must be {what[expected]}")
    return value


def unknown(kind: str, name: str, known: list[str]) -> str:
    """Return the message for a wrong name, with the nearest right ones."""
    near = difflib.get_close_matches(name, known, n=3)
    if near:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(near)}?"
    return f"unknown {kind} {name!r}; there is {', '.join(known) or 'none'}"


ESTIMATORS: Registry["Estimator"] = Registry(
    "estimator", "metagrad.estimators", package="estimators"
)
register = ESTIMATORS.register
available = ESTIMATORS.available
create = ESTIMATORS.create
