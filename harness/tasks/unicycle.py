"""Trajectory optimisation of nonlinear dynamics, whose inner Hessian varies."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from estimators import Params
from harness.tasks.formation import CONTROLS, FACTORS, Formation, Goal, weights_of
from harness.tasks.task import TASKS

block_diag: Any = torch.block_diag  # it has no types


@TASKS.register("unicycle")
@dataclass(frozen=True)
class Unicycle(Formation):
    r"""Steer unicycles along references and in formation, by warm-started controls.

    The losses are those of `trajectory`, of positions that follow from accelerations a_t and turn
    rates w_t by v_{t+1} = v_t + dt a_t, h_{t+1} = h_t + dt w_t, y_{t+1} = y_t + dt v_{t+1} (cos
    h_{t+1}, sin h_{t+1}). So the inner Hessian varies along the inner loop, and is indefinite far
    from references. alpha lambda_max is .4 to 1 by default; N and rho set it as for `trajectory`.

    `inner="ilqr"` takes sweeps of the iterative linear-quadratic regulator instead, on all agents
    together. A sweep linearises the dynamics along the trajectory, computes the feedback that is
    optimal for these and the loss (a Riccati recursion), and rolls the unicycles out under it. No
    solve is singular, since r is positive; steps are full, without a line search, and need not
    settle over long horizons. At a minimiser of the inner loss the sweep's Jacobian is that of a
    step of Gauss and Newton, I - G^{-1} H, where H is the Hessian and G that of the loss with
    linearised positions; its eigenvalues are .1 to .3 by default.

    Source: the setting of "Learning to Coordinate", arXiv 2509.01630, reduced to its least; Li and
    Todorov, "Iterative Linear Quadratic Regulator Design for Nonlinear Biological Movement
    Systems", ICINCO 2004.

    Example:
        >>> Unicycle(agents=4, horizon=5).sample(seed=0).support[1].reference.shape
        torch.Size([4, 5, 2])
    """

    family = "unicycle"
    solver = "ilqr"
    step_size = 0.01

    def positions(self, start: Tensor, controls: Tensor) -> Tensor:
        """See `Formation.positions`; controls are accelerations and turn rates."""
        return self._rolled_out(_first(start), controls)[..., :2]

    def sweep(self, goal: Goal, params: Params) -> Params:
        """See `Formation.sweep`."""
        q, r, rho = weights_of(goal, params[FACTORS])
        controls, m = self.by_step(params[CONTROLS]), self.agents
        first = _first(goal.start)
        after = self._rolled_out(first, controls)
        before = torch.cat([first.unsqueeze(1), after[:, :-1]], dim=1)
        places = after[..., :2] - goal.offsets.unsqueeze(1)
        pulls = q * (after[..., :2] - goal.reference) + rho * (places - places.mean(0))
        seen = torch.eye(2, 4).to(controls)  # of a state: its position
        apart = torch.eye(m).to(controls) - 1 / m
        bend = torch.kron(q * torch.eye(m).to(controls) + rho * apart, seen.T @ seen)

        value, slope, policies = torch.zeros_like(bend), torch.zeros_like(bend[0]), []
        for t in reversed(range(self.horizon)):
            value, slope = value + bend, slope + (pulls[:, t] @ seen).flatten()
            a: Tensor = block_diag(*self._transitions(after[:, t]))
            b = self.dt * a.reshape(4 * m, m, 4)[..., 2:].flatten(1)
            cross, now = b.T @ value @ a, b.T @ slope + r * controls[:, t].flatten()
            strength = b.T @ value @ b + r * torch.eye(2 * m).to(controls)
            solved = torch.linalg.solve_ex(strength, torch.cat([now.unsqueeze(1), cross], 1))
            change, gain = -solved.result[:, 0], -solved.result[:, 1:]
            value, slope = a.T @ value @ a + cross.T @ gain, a.T @ slope + cross.T @ change
            policies.append((change, gain))

        state, chosen = first, []
        for t, (change, gain) in enumerate(reversed(policies)):
            feedback = gain @ (state - before[:, t]).flatten()
            chosen.append(controls[:, t] + (change + feedback).reshape(m, 2))
            state = self._rolled_out(state, chosen[-1].unsqueeze(1))[:, 0]
        return {CONTROLS: torch.stack(chosen, dim=1).flatten(1)}

    def _rolled_out(self, state: Tensor, controls: Tensor) -> Tensor:
        """Return position, speed and heading after each of n steps from a state, [M, n, 4]."""
        motion = state[:, None, 2:] + self.dt * controls.cumsum(1)
        speed, heading = motion.unbind(-1)
        steps = torch.stack([speed * heading.cos(), speed * heading.sin()], dim=-1)
        places = state[:, None, :2] + self.dt * steps.cumsum(1)
        return torch.cat([places, motion], dim=-1)

    def _transitions(self, after: Tensor) -> Tensor:
        """Return the derivatives of the states after a step by those before it, [M, 4, 4].

        Controls count as much as dt times the speed and the heading before the step.
        """
        *_, speed, heading = after.unbind(-1)
        cos, sin = heading.cos(), heading.sin()
        moves = torch.stack([cos, -speed * sin, sin, speed * cos], dim=-1).reshape(-1, 2, 2)
        return torch.eye(4).to(after) + self.dt * pad(moves, (2, 0, 0, 2))


def _first(start: Tensor) -> Tensor:
    """Return position, speed and heading at positions and velocities [M, 4]."""
    along, across = start[:, 2], start[:, 3]
    motion = torch.stack([torch.hypot(along, across), torch.atan2(across, along)], dim=-1)
    return torch.cat([start[:, :2], motion], dim=-1)
