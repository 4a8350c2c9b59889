"""Trajectory optimisation whose exact meta-gradient is known in closed form."""

from dataclasses import dataclass

import torch
from torch import Tensor

from estimators import Params
from harness.tasks.formation import CONTROLS, FACTORS, Formation, Goal, weights_of
from harness.tasks.task import TASKS


@TASKS.register("trajectory")
@dataclass(frozen=True)
class Trajectory(Formation):
    r"""Steer double integrators along references and in formation, by warm-started controls.

    Minimise sum_i [q/2 |y_i - s_i|^2 + r/2 |u_i|^2 + rho/2 |y_i - d_i - mean_j (y_j - d_j)|^2],
    where y_i = Phi x_i + Gamma u_i are the positions of agent i after each of N steps from its
    start x_i, under accelerations u_i that are constant during a step, s_i is its reference and d_i
    its place in the formation. The model `linear` has the controls as its weight, and `controls`
    the logarithms of factors on q, r and rho as well. The outer loss has other references and
    r = 0, and never those factors.

    With `linear`, the Hessian is constant: H = (q I + rho P) x Gamma^T Gamma + r I, where P takes
    the mean over agents away. So the exact meta-gradient is (I - alpha H)^K g. The curvature of two
    agents or more is alpha lambda_max = alpha [r + (q + rho) |Gamma|^2], |Gamma|^2 about ((N + 1/2)
    dt)^4 / 12.4: .48 by default. It grows with the fourth power of the horizon, so that twice the
    horizon wants a fifteenth of the step size; a single agent has that of rho = 0.

    `inner="admm"` takes sweeps of the alternating direction method of multipliers instead. They
    solve the same problem, with copies c_i of y_i - d_i in the last term: minimise sum_i [q/2 |y_i
    - s_i|^2 + r/2 |u_i|^2 + rho/2 |c_i - mean_j c_j|^2] subject to c_i = y_i - d_i. The penalty of
    the augmented Lagrangian is rho too; w_i are scaled duals, zero at the start. A sweep is

        v_i = y_i - d_i + w_i,  c_i = (v_i + mean_j v_j)/2,  w_i <- v_i - c_i,
        u_i <- argmin of q/2 |y_i - s_i|^2 + r/2 |u_i|^2 + rho/2 |y_i - d_i - c_i + w_i|^2.

    It is linear in (u, w), and converges to the minimiser of the inner loss from any start; its
    eigenvalues are at most rho/(q + rho), or 1/2 where that is more.

    Source: the setting of "Learning to Coordinate", arXiv 2509.01630, made exactly solvable;
    Boyd et al., "Distributed Optimization and Statistical Learning via the Alternating Direction
    Method of Multipliers", 2011, section 7.

    Example:
        >>> Trajectory(agents=4, horizon=5).sample(seed=0).support[1].reference.shape
        torch.Size([4, 5, 2])
    """

    family = "trajectory"
    solver = "admm"
    step_size = 0.015

    def positions(self, start: Tensor, controls: Tensor) -> Tensor:
        """See `Formation.positions`; controls are accelerations."""
        place, velocity = start[:, None, :2], start[:, None, 2:]
        velocities = velocity + self.dt * controls.cumsum(1)  # after each step
        return place + self.dt * (velocities - 0.5 * self.dt * controls).cumsum(1)

    def auxiliary(self, goal: Goal) -> Params:
        """See `Formation.auxiliary`: scaled duals w, [M, N, 2]."""
        return {"duals": torch.zeros_like(goal.reference)}

    def sweep(self, goal: Goal, params: Params) -> Params:
        """See `Formation.sweep`."""
        q, r, rho = weights_of(goal, params[FACTORS])
        controls, offsets = self.by_step(params[CONTROLS]), goal.offsets.unsqueeze(1)
        ahead = self.positions(goal.start, controls) - offsets + params["duals"]
        copies = 0.5 * (ahead + ahead.mean(0))
        duals = ahead - copies
        drift = self.positions(goal.start, torch.zeros_like(controls))
        pull = q * (goal.reference - drift) + rho * (copies - duals + offsets - drift)
        times = torch.arange(self.horizon).to(drift)
        gamma = self.dt**2 * (times.unsqueeze(1) - times + 0.5).tril()  # of one coordinate
        system = (q + rho) * gamma.T @ gamma + r * torch.eye(self.horizon).to(drift)
        solved = torch.linalg.solve_ex(system, gamma.T @ pull).result  # not finite, no error
        return {CONTROLS: solved.flatten(1), "duals": duals}
