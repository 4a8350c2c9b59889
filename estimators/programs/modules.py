"""Programs over an inner loop of any depth: loops around traced steps.

Loops are torch's `scan`, which is compiled once whatever its length is. A body must not return
what it was given, hence the clones; and must emit something, hence the numbers of the steps.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan_op
from torch.utils._pytree import tree_flatten, tree_unflatten

from estimators.programs.trace import Descent, Traced

Tensors = Sequence[Tensor]
INNER, OUTER = 0, 1


class Program(nn.Module):
    """A function of tensors, the last two of whose arguments are what the losses hold.

    Args:
        descent: what it is made of.
        held: tensors that the losses hold.

    Attributes:
        steps: the graphs that it is made of, by name.
        places: for inner and outer loss, where among the tensors held are those that it takes.
    """

    def __init__(self, descent: Descent, held: Tensors) -> None:
        super().__init__()
        self.descent, self.form = descent, descent.form
        self.steps: dict[str, Traced] = {}
        self.places: tuple[list[int], list[int]] = ([], [])
        self._held = held

    @property
    def given(self) -> tuple[tuple[Tensor | Tensors, str | None], ...]:
        """An example of each argument but the last two.

        With a name for the length of its first dimension, or that of the vectors in a list, where
        that differs from call to call.
        """
        raise NotImplementedError

    @property
    def examples(self) -> tuple[list[Tensor], list[Tensor]]:
        """Examples of the last two arguments."""
        inner, outer = ([self._held[i].contiguous() for i in each] for each in self.places)
        return inner, outer

    def add(self, name: str, traced: Traced, which: int) -> None:
        """Have a graph as a part, which takes tensors that the inner or outer loss holds."""
        self.steps[name] = traced
        self.add_module(f"_{name}", traced.graph)
        places = self.places[which]
        places += [place for place in traced.inputs if place not in places]

    def call(self, name: str, arguments: Tensors, held: Tensors, which: int) -> tuple[Tensor, ...]:
        """Call a graph."""
        own = [held[self.places[which].index(place)] for place in self.steps[name].inputs]
        result: tuple[Tensor, ...] = getattr(self, f"_{name}")(*arguments, *own)
        return result


class Exact(Program):
    """The inner loop, the outer gradient, and its way back through chosen steps.

    Args:
        descent: the kind of inner loop; with a proximal term there is no way back.
        held: tensors that the losses hold.
    """

    def __init__(self, descent: Descent, held: Tensors) -> None:
        super().__init__(descent, held)
        state, size = descent.vector(), descent.number()
        constants, more = descent.constants(), descent.more()
        others = constants if descent.form.rest else []
        step = [size, *constants, *more]
        self.add("step", descent.traced(descent.step, [state, *step], held), INNER)
        self.add("outer", descent.traced(descent.outer, [state, *others], held), OUTER)
        if not self.form.proximal:
            back = [state, descent.vector(), *step]
            self.add("back", descent.traced(descent.pull_back, back, held), INNER)

    @property
    def given(self) -> tuple[tuple[Tensor | Tensors, str | None], ...]:
        """See `Program.given`."""
        descent, sizes = self.descent, self.descent.number().repeat(3)
        path = torch.arange(1, 3, device=sizes.device)
        weights = [sizes.clone(), descent.number()] if self.form.mixed else []
        fixed = ((descent.constants(), None), (descent.more(), None))
        return ((descent.vector(), None), (sizes, "K"), (path, "L"), *fixed, (weights, "K"))

    def forward(
        self,
        state: Tensor,
        sizes: Tensor,
        path: Tensor,
        constants: Tensors,
        more: Tensors,
        weights: Tensors,
        inner: Tensors,
        outer: Tensors,
    ) -> tuple[Tensor, ...]:
        """Run it.

        Args:
            state: where the loop begins.
            sizes: alpha at each step [K].
            path: the steps to go back through, the last one first [L].
            constants: step sizes by parameter, or parameters that steps leave alone.
            more: further arguments of a step.
            weights: of the outer gradients before each step [K], and of the last one, where they
                are added.
            inner: tensors that the inner loss holds.
            outer: tensors that the outer loss holds.

        Returns:
            The outer loss, the last state, the states before it [K, n], the outer gradient, and
            what becomes of it on the way back, the last also by the constants.
        """
        others = constants if self.form.rest else ()

        def ahead(now: Tensors, size: Tensor, fixed: Any) -> tuple[Tensors, Tensor]:
            constants, more, inner = fixed
            then = self.call("step", (*now, size, *constants, *more), inner, INNER)
            return then, now[0].clone()

        (end,), states = loop(ahead, [state], sizes, (constants, more, inner))
        loss, g, *changes = self.call("outer", (end, *others), outer, OUTER)
        if self.form.proximal:
            return loss, end, states, g
        if self.form.sizes:
            changes = [torch.zeros_like(constants[0])]

        def back(found: Tensors, k: Tensor, fixed: Any) -> tuple[Tensors, Tensor]:
            states, sizes, constants, more, weights, others, inner, outer = fixed
            now, size = _at(states, k), _at(sizes, k)
            arguments = (now, found[0], size, *constants, *more)
            vector, *by_constants = self.call("back", arguments, inner, INNER)
            if self.form.mixed:
                g_now = self.call("outer", (now, *others), outer, OUTER)[1]
                vector = vector + _at(weights[0], k) * g_now
            sums = [one + other for one, other in zip(found[1:], by_constants, strict=True)]
            return (vector, *sums), k.clone()

        start = weights[1] * g if self.form.mixed else g.clone()
        fixed = states, sizes, constants, more, weights[:1], others, inner, outer
        found, _ = loop(back, [start, *changes], path, fixed)
        return loss, end, states, g, *found


class Cascade(Program):
    """Levels of the expansion, carried back through some steps: u_l <- u_l - alpha H_k u_{l-1}.

    Args:
        descent: the kind of inner loop.
        held: tensors that the losses hold.
    """

    def __init__(self, descent: Descent, held: Tensors) -> None:
        super().__init__(descent, held)
        arguments = [descent.vector() for _ in range(1 + self.form.levels)]
        self.add("products", descent.traced(descent.products, arguments, held), INNER)

    @property
    def given(self) -> tuple[tuple[Tensor | Tensors, str | None], ...]:
        """See `Program.given`."""
        vector, sizes = self.descent.vector(), self.descent.number().repeat(3)
        path = torch.arange(1, 3, device=sizes.device)
        levels = vector.repeat(self.form.levels, 1)
        states = vector.repeat(3, 1)
        return (states, "K"), (sizes, "K"), (path, "L"), (vector, None), (levels, None)

    def forward(
        self,
        states: Tensor,
        sizes: Tensor,
        path: Tensor,
        base: Tensor,
        levels: Tensor,
        inner: Tensors,
        outer: Tensors,
    ) -> tuple[Tensor, ...]:
        """Run it.

        Args:
            states: phi_k [K, n].
            sizes: alpha at each step [K].
            path: the steps to go back through, the last one first [L].
            base: u_0.
            levels: u_1, u_2, ... [levels, n].
            inner: tensors that the inner loss holds.
            outer: none.
        """
        del outer

        def back(found: Tensors, k: Tensor, fixed: Any) -> tuple[Tensors, Tensor]:
            states, sizes, base, inner = fixed
            (levels,) = found
            vectors = [base, *levels.unbind()[:-1]]
            products = self.call("products", (_at(states, k), *vectors), inner, INNER)
            return [levels - _at(sizes, k) * torch.stack(products)], k.clone()

        return tuple(loop(back, [levels], path, (states, sizes, base, inner))[0])


class Product(Program):
    """One Hessian-vector product.

    Args:
        descent: the kind of inner loop.
        held: tensors that the losses hold.
    """

    def __init__(self, descent: Descent, held: Tensors) -> None:
        super().__init__(descent, held)
        arguments = [descent.vector(), descent.vector()]
        self.add("products", descent.traced(descent.products, arguments, held), INNER)

    @property
    def given(self) -> tuple[tuple[Tensor | Tensors, str | None], ...]:
        """See `Program.given`."""
        return (self.descent.vector(), None), (self.descent.vector(), None)

    def forward(
        self, state: Tensor, vector: Tensor, inner: Tensors, outer: Tensors
    ) -> tuple[Tensor, ...]:
        """Return the product at a state."""
        del outer
        return self.call("products", (state, vector), inner, INNER)


def loop(
    body: Callable[[Tensors, Tensor, Any], tuple[Tensors, Tensor]],
    carry: Tensors,
    rows: Tensor,
    fixed: Any,
) -> tuple[list[Tensor], Tensor]:
    """Call a body for each row.

    `scan` itself would trace the body in a way that takes seconds.

    Args:
        body: is given what it carries, a row, and what is fixed; returns what it carries on, and
            its result.
        carry: what it carries at first.
        rows: along the first dimension.
        fixed: tensors in tuples or lists.

    Returns:
        What it carries at last, and the results along a first dimension.
    """
    leaves, structure = tree_flatten(fixed)
    once = {id(leaf): leaf for leaf in leaves}  # `scan` refuses a tensor that is given twice
    places = [[*once].index(id(leaf)) for leaf in leaves]
    count = len(carry)

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        own = tensors[count + 1 :]
        rest = tree_unflatten([own[place] for place in places], structure)
        then, result = body(tensors[:count], tensors[count], rest)
        return (*then, result)

    *end, results = scan_op(flat, [*carry], [rows], tuple(once.values()))
    return end, results


def _at(rows: Tensor, k: Tensor) -> Tensor:
    """Return one row; indexing by a tensor would look at its value."""
    return rows.index_select(0, k.view(1)).squeeze(0)
