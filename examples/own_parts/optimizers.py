"""An optimiser that updates each number by itself, so that one instance serves a whole pack."""

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023 (arXiv:2302.06675), algorithm 2."""

    def __init__(
        self, params, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0, capturable: bool = False
    ) -> None:
        # All arithmetic stays in tensors, so a CUDA graph may hold a step: ``capturable`` only says so.
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "capturable": capturable})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            first, second = group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                momentum: Tensor = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                update = torch.lerp(weight.grad, momentum, first).sign_()
                weight.sub_(group["lr"] * (update + group["weight_decay"] * weight))
                momentum.lerp_(weight.grad, 1 - second)
