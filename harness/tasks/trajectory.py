"""Trajectory optimisation whose exact meta-gradient is known in closed form."""

from dataclasses import dataclass

from torch import Tensor

from harness.tasks.formation import Formation
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

    Source: the setting of "Learning to Coordinate", arXiv 2509.01630, made exactly solvable.

    Example:
        >>> Trajectory(agents=4, horizon=5).sample(seed=0).support[1].reference.shape
        torch.Size([4, 5, 2])
    """

    family = "trajectory"
    step_size = 0.015

    def positions(self, start: Tensor, controls: Tensor) -> Tensor:
        """See `Formation.positions`; controls are accelerations."""
        place, velocity = start[:, None, :2], start[:, None, 2:]
        velocities = velocity + self.dt * controls.cumsum(1)  # after each step
        return place + self.dt * (velocities - 0.5 * self.dt * controls).cumsum(1)
