"""Check of a problem: whether its losses are functions that can be differentiated twice.

Estimators evaluate a loss more than once at a point, and trust torch's derivatives. A loss that
draws random numbers, writes to its module, reads other parameters than it is given, or has a wrong
second derivative gives wrong estimates without an error. The check finds out, once for all problems
of a kind (module, criterion, shapes), at the price of some ten gradients.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from estimators.base.errors import OptionError
from estimators.base.failures import out_of_memory
from estimators.base.module_calls import generators_kept
from estimators.base.module_loss import ModuleLoss, versions
from estimators.base.module_state import Kind, Seen, Snapshot
from estimators.base.problem import BilevelProblem
from estimators.base.problem_trial import Trial, refuse
from estimators.base.references import is_same, references
from estimators.base.tree import Params

_MOST_KINDS = 256


def check_problem(
    problem: BilevelProblem, params: Mapping[str, Tensor], *, new: bool = False
) -> None:
    """Refuse parameters that cannot be used, and a problem whose estimates would be wrong.

    Args:
        problem: the bilevel problem.
        params: theta.
        new: whether the problem was made just now, so that nothing can have changed since.

    Raises:
        OptionError: says what is wrong, where, and what to do.
    """
    inner, outer = problem.inner_loss, problem.outer_loss
    if not (isinstance(inner, ModuleLoss) and isinstance(outer, ModuleLoss)):
        _check_all(problem, params)
        return
    seen = inner.seen if inner.seen is outer.seen else None
    kind = _kind(params), _own_kind(inner), _own_kind(outer)
    if seen and kind in seen.passed and _is_unchanged(inner, outer, seen, params, new=new):
        return
    passed = _check_all(problem, params)
    if passed and seen and (new or seen.is_current()):
        if len(seen.passed) >= _MOST_KINDS:
            seen.passed.clear()
        seen.passed.add(kind)


def _kind(params: Mapping[str, Tensor]) -> Kind:
    """Return what parameters that were found right have in common; others have something else."""
    try:
        return tuple([(n, v.shape, v.dtype, v.device) for n, v in params.items()])
    except AttributeError:
        return ()


def _is_unchanged(
    inner: ModuleLoss, outer: ModuleLoss, seen: Seen, params: Mapping[str, Tensor], *, new: bool
) -> bool:
    """Return whether there is nothing that `_check_all` would look at anew.

    Args:
        inner: of a problem that it has passed, as those of this kind.
        outer: likewise.
        seen: when it did so.
        params: theta.
        new: whether the problem was made just now.
    """
    return (
        not [v for v in params.values() if v.is_inference()]
        and not torch.is_inference_mode_enabled()
        and not [p for p in inner.state.parameters.values() if p._backward_hooks]
        and not parametrize._cache_enabled
        and (
            new
            or (
                versions(inner.batch) == inner.versions
                and versions(outer.batch) == outer.versions
                and all(map(is_same, inner.refers_to, references(inner.criterion)))
                and seen.is_current()
            )
        )
    )


def _check_all(problem: BilevelProblem, params: Mapping[str, Tensor]) -> bool:
    """Check all that `check_problem` does.

    Returns:
        Whether that was possible; what cannot be evaluated is left to the estimate.
    """
    _check_params(params)
    checked: set[int] = set()  # modules; both losses have the same as a rule
    possible = True
    for loss, twice in ((problem.inner_loss, True), (problem.outer_loss, False)):
        if not isinstance(loss, ModuleLoss):
            continue
        if id(loss.state) not in checked:
            loss.state.check_names(params)
            if loss.seen is not None:
                _refuse_changes(loss, loss.seen.snapshot, params)
            checked.add(id(loss.state))
        if loss.seen is None:
            continue
        if versions(loss.batch) != loss.versions:
            refuse("the data of a problem was written to after the problem was made: copy it")
        passed, kind = loss.state.checked_kinds, (_kind(params), *_own_kind(loss))
        settings = loss.state.settings
        if (settings, *kind, True) in passed or (settings, *kind, twice) in passed:
            continue
        if _check(loss, params, twice=twice):
            if len(passed) >= _MOST_KINDS:
                passed.clear()
            passed.add((loss.state.settings, *kind, twice))
        else:
            possible = False
    return possible


def _check_params(params: Mapping[str, Tensor]) -> None:
    """Refuse what is no dictionary of real tensors, and tensors that can have no gradient."""
    if not isinstance(params, Mapping):
        raise OptionError(f"params must be a dict of tensors, not a {type(params).__name__}")
    if not params:
        raise OptionError("there are no parameters to adapt: does none require a gradient?")
    for name, value in params.items():
        if not isinstance(name, str):
            raise OptionError(f"params must have names as keys, not {name!r}")
        if not isinstance(value, Tensor) or not value.is_floating_point():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise OptionError(
                f"parameter {name!r} must be a tensor of real floating-point numbers, not {kind}"
                + ("; take its real and imaginary parts as two" if "complex" in str(kind) else "")
            )
        if value.is_inference():
            raise OptionError(f"parameter {name!r} was made within torch.inference_mode()")
    if not any(value.numel() for value in params.values()):
        raise OptionError("there are no parameters to adapt: all are empty")
    if torch.is_inference_mode_enabled():
        raise OptionError("there are no gradients within torch.inference_mode(): leave it")


def _own_kind(loss: ModuleLoss) -> Kind:
    modes: tuple[bool, ...] = ()
    if isinstance(loss.criterion, nn.Module):
        modes = tuple([part.training for part in loss.criterion.modules()])
    return loss.kind, modes, *[_shape(part) for part in loss.batch]


def _shape(data: object) -> object:
    return (data.shape[1:], data.dtype) if isinstance(data, Tensor) else type(data)


def _refuse_changes(loss: ModuleLoss, seen: Snapshot, params: Mapping[str, Tensor]) -> None:
    """Refuse what was changed after the problem was made: it sees things as they are now."""
    state = loss.state
    hooked = [name for name, value in state.parameters.items() if value._backward_hooks]
    if hooked:
        refuse(
            f"parameter {hooked[0]!r} has a hook on its gradient, which estimators leave out: do "
            "what it does in the criterion or in the outer optimiser"
        )
    if parametrize._cache_enabled:
        refuse(
            "within parametrize.cached() all iterates would have the weights of the first: leave it"
        )
    if not state.fits():
        refuse(
            "the module was given other parts or parameters after a problem was made: make it anew"
        )
    if _criterion_changed(loss, dict(params)):
        refuse(
            "what the criterion refers to was changed after a problem was made, which sees it "
            "as it is now: bind what differs from task to task by functools.partial"
        )
    changed = [at for at in state.changed(seen) if at not in state.written_by_forward]
    if changed and _matters(loss, seen, changed, dict(params)):
        part, name = changed[0]
        refuse(
            f"{name!r} of {state.title(part)} was changed after a problem was made, which sees the "
            "module as it is now: estimate problems one by one, or make a tensor that differs from "
            "task to task a buffer, of which each problem keeps a copy"
        )


def _criterion_changed(loss: ModuleLoss, params: Params) -> bool:
    """Return whether a criterion refers to other things than before, but for what calls change."""
    now = references(loss.criterion)
    if all(map(is_same, loss.refers_to, now)):
        return False
    with torch.no_grad(), loss.state.attributes_kept():
        loss(params)
    after = references(loss.criterion)
    each = zip(loss.refers_to, now, after, strict=False)
    return any(not is_same(made, one) and is_same(one, two) for made, one, two in each)


def _matters(
    loss: ModuleLoss, seen: Snapshot, changed: list[tuple[str, str]], params: Params
) -> bool:
    """Return whether changed attributes make another loss; those that a call changes do not."""
    state = loss.state
    with torch.no_grad(), state.attributes_kept():
        now = loss(params)
        with state.attributes_of(seen):
            before = state.snapshot()
            then = loss(params)
            state.written_by_forward.update(state.changed(before))
    changed = [at for at in changed if at not in state.written_by_forward]
    current = state.snapshot()
    in_place = any(at in seen and seen[at][0] is current[at][0] for at in changed)
    return bool(changed) and (in_place or not torch.allclose(now, then, rtol=1e-6, equal_nan=True))


def _check(loss: ModuleLoss, params: Mapping[str, Tensor], *, twice: bool) -> bool:
    """Refuse a loss that is no differentiable function of the parameters that it is given.

    What cannot be evaluated at all is left to the estimate, which will say why.

    Returns:
        Whether it could be evaluated.

    Raises:
        OptionError: it is none.
    """
    state = loss.state
    for dtype in (torch.float64, None):
        try:
            with torch.enable_grad(), generators_kept(loss.module), state.attributes_kept():
                before = state.snapshot()
                Trial(loss, params, dtype).run(twice=twice)
                state.written_by_forward.update(state.changed(before))
        except OptionError:
            raise
        except Exception as error:
            if out_of_memory(error):
                refuse("there is too little memory to check the problem")
            if "use_reentrant" in str(error):
                raise OptionError("activation checkpoints need use_reentrant=False here") from error
        else:
            return True
    return False
