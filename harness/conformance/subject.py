"""The estimator under test, and results that all checks on it share."""

from functools import cached_property

import torch
from torch import Tensor, nn

from estimators import BilevelProblem, Estimator, MetaGradient, OptionError, Params, create
from estimators.base.registry import ESTIMATORS
from harness.conformance.cases import SYNTHETIC, TASKS, Case, case
from harness.conformance.messages import NotApplicable, Violation, error_line

DEEPEST = 32  # where the search for a depth that suits the estimator ends
_SMALL = TASKS[:4]  # stand in where all synthetic cases are refused
_COMPILED = ("mlp", "uneven")  # each costs a compiled program seconds to minutes


class Subject:
    """An estimator under test."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.estimator = self.create()
        self._results: dict[str, MetaGradient | BaseException] = {}

    def create(self) -> Estimator:
        """Create a new instance of the estimator."""
        try:
            created: object = create(self.text)
        except OptionError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise OptionError(f"{self.text} cannot be created ({reason})") from error
        if not isinstance(created, Estimator):
            raise OptionError(
                f"{self.text} makes a {type(created).__name__}; its class must be a subclass of "
                "estimators.Estimator"
            )
        return created

    @property
    def spec(self) -> str:
        """The canonical specification."""
        return ESTIMATORS.canonical(self.text)

    @property
    def compiled(self) -> bool:
        """Whether each new problem means waiting for a compiler."""
        return getattr(self.estimator, "compiled", False) is True

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """1 and 3 where the estimator supports them; else the depth nearest to 3."""
        fitting = [k for k in range(1, DEEPEST + 1) if not self.estimator.unsupported_reason(k)]
        if not fitting:
            raise Violation(
                f"unsupported_reason() names every depth from 1 to {DEEPEST}, the last one since: "
                f"{self.estimator.unsupported_reason(DEEPEST)}"
            )
        deep = min(fitting, key=lambda k: (abs(k - 3), k))
        return (deep,) if self.compiled or 1 not in fitting else tuple(sorted({1, deep}))

    @property
    def depth(self) -> int:
        """The depth of checks that need only one."""
        return self.depths[-1]

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the cases; tasks of the harness where all small cases are refused."""
        if self.compiled:
            return _COMPILED
        refused = all(isinstance(self.result(name), OptionError) for name in SYNTHETIC)
        return (*SYNTHETIC, *_SMALL) if refused else SYNTHETIC

    def cases(self, *only: str) -> list[str]:
        """Return the cases on which an ordinary call succeeds, for further checks."""
        good = [name for name in self.names if isinstance(self.result(name), MetaGradient)]
        if not good:
            raise NotApplicable("no call ends well; see the first check")
        return [name for name in only if name in good] or good

    def result(self, name: str) -> MetaGradient | BaseException:
        """Return the result or the error of an ordinary call on a case in float64; cached."""
        if name not in self._results:
            try:
                self._results[name] = self.run(case(name))
            except (Exception, SystemExit) as error:
                self._results[name] = error
        return self._results[name]

    def run(
        self,
        example: Case,
        problem: BilevelProblem | None = None,
        params: Params | None = None,
        *,
        seed: int = 0,
    ) -> MetaGradient:
        """Call the estimator, with a generator of a seed."""
        params = copied(example.params) if params is None else params
        problem = example.problem(self.depth) if problem is None else problem
        result = self.estimator(problem, params, generator=seeded(seed))
        check_result(result, problem, params)
        return result

    def has_own_objective(self, example: Case) -> bool:
        """Return whether it follows another objective than the outer loss after K steps."""
        try:
            own = self.estimator.own_exact_gradient(
                example.problem(self.depth), copied(example.params)
            )
        except (Exception, SystemExit) as error:  # there is a check for it
            line = error_line(error, self.estimator)
            raise NotApplicable(f"own_exact_gradient: {line}") from error
        return own is not None


def seeded(seed: int) -> torch.Generator:
    """Return a generator on the CPU."""
    return torch.Generator("cpu").manual_seed(seed)


def copied(params: Params) -> Params:
    """Return copies that no graph leads to."""
    return {name: value.detach().clone() for name, value in params.items()}


def as_parameters(example: Case) -> Params:
    """Return copies of a case's parameters that require gradients."""
    return {name: nn.Parameter(value) for name, value in copied(example.params).items()}


def check_finite(name: str, tensors: Params, where: str = "") -> None:
    """Check that all numbers of some tensors are finite."""
    for key, value in tensors.items():
        if not value.isfinite().all():
            raise Violation(f"{name}[{key!r}] is not finite{where}")


def type_name(dtype: torch.dtype) -> str:
    """Return the name of a type of numbers, as float64."""
    return str(dtype).removeprefix("torch.")


def check_result(result: object, problem: BilevelProblem, params: Params) -> None:
    """Check everything about a result that does not need its numbers."""
    if not isinstance(result, MetaGradient):
        raise Violation(f"it returns a {type(result).__name__}, not a MetaGradient")
    check_tensors("gradient", result.gradient, params)
    check_tensors("adapted", result.adapted, params)
    loss = result.outer_loss
    if not isinstance(loss, Tensor) or loss.shape != ():
        what = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise Violation(f"outer_loss is {what}; it must be a tensor without dimensions")
    for what in ("hvps", "serial_depth"):
        count = getattr(result, what)
        if type(count) is not int:
            raise Violation(f"{what} is a {type(count).__name__}; it must be an int")
    if not 0 <= result.serial_depth <= result.hvps:
        raise Violation(
            f"serial_depth={result.serial_depth} and hvps={result.hvps}; the products that wait "
            "for one another are 0 or more, and no more than all"
        )
    sizes = result.step_size_gradient
    if sizes is not None:
        if not isinstance(problem.step_size, dict):
            raise Violation("step_size_gradient must be None where the step size is one number")
        check_tensors("step_size_gradient", sizes, problem.step_size)


def check_tensors(what: str, tensors: object, like: Params) -> None:
    """Check that tensors are keyed, shaped and typed as others are."""
    if not isinstance(tensors, dict):
        raise Violation(f"{what} is a {type(tensors).__name__}; it must be a dict of tensors")
    if list(tensors) != list(like):
        raise Violation(
            f"{what} has the keys {_listed(tensors)}; it must have those of the parameters, in "
            f"their order: {_listed(like)}"
        )
    for name, value in like.items():
        mine = tensors[name]
        if not isinstance(mine, Tensor):
            raise Violation(f"{what}[{name!r}] is a {type(mine).__name__}, not a tensor")
        if mine.shape != value.shape:
            shapes = f"{tuple(mine.shape)}, its parameter of {tuple(value.shape)}"
            raise Violation(f"{what}[{name!r}] is of shape {shapes}")
        if mine.dtype != value.dtype:
            types = f"is {type_name(mine.dtype)}, its parameter {type_name(value.dtype)}"
            raise Violation(f"{what}[{name!r}] {types}")


def _listed(keys: dict[str, Tensor]) -> str:
    return ", ".join(map(str, keys)) or "(none)"
