"""Trajectory optimisation of nonlinear dynamics, whose inner Hessian varies."""

from dataclasses import dataclass

import torch
from torch import Tensor

from harness.tasks.formation import Formation
from harness.tasks.task import TASKS


@TASKS.register("unicycle")
@dataclass(frozen=True)
class Unicycle(Formation):
    r"""Steer unicycles along references and in formation, by warm-started controls.

    The losses are those of `trajectory`, of positions that follow from accelerations a_t and turn
    rates w_t by h_{t+1} = h_t + dt w_t, v_{t+1} = v_t + dt a_t, y_{t+1} = y_t + dt v_{t+1} (cos
    h_{t+1}, sin h_{t+1}). So the inner Hessian varies along the inner loop, and is indefinite far
    from references. alpha lambda_max is .4 to 1 by default; N and rho set it as for `trajectory`.

    Source: the setting of "Learning to Coordinate", arXiv 2509.01630, reduced to its least.

    Example:
        >>> Unicycle(agents=4, horizon=5).sample(seed=0).support[1].reference.shape
        torch.Size([4, 5, 2])
    """

    family = "unicycle"
    step_size = 0.01

    def positions(self, start: Tensor, controls: Tensor) -> Tensor:
        """See `Formation.positions`; controls are accelerations and turn rates."""
        place, along, across = start[:, None, :2], start[:, 2:3], start[:, 3:]
        speed, heading = torch.hypot(along, across), torch.atan2(across, along)
        accelerated, turned = (self.dt * controls.cumsum(1)).unbind(-1)
        speed, heading = speed + accelerated, heading + turned
        steps: Tensor = torch.stack([speed * heading.cos(), speed * heading.sin()], dim=-1)
        return place + self.dt * steps.cumsum(1)
