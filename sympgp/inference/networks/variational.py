"""Mean-field variational inference: independent normal laws of all unknowns."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.inference.base import Report
from sympgp.inference.networks.bank import Bank, trained_bank
from sympgp.inference.networks.base import PAIRS_A_STEP, Context, NetworkEngine
from sympgp.inference.networks.descent import BLOCK, Unknowns
from sympgp.inference.networks.trajectories import Trained
from sympgp.inference.networks.unconstrained import Unconstrained
from sympgp.posterior.component import normal

RATE = 0.03
"""Rate of Adam at the start, for means in units of their deviations and for their logarithms."""
DRAWS = 200
"""Draws of the posterior."""


@dataclass(frozen=True, kw_only=True)
class MeanFieldVI(NetworkEngine):
    """``q = prod_i N(mean_i, std_i^2)`` over weights, dissipation, noise and window states.

    Maximises ``E_q log p(data, unknowns) - E_q log q`` with reparameterised draws in opposite
    pairs, from the trained network and the deviations that would be best if the model were linear
    there. One draw is one function for all data of a step. Of correlated unknowns the deviations
    are those given all others, so that bands tend to be too narrow.

    Args:
        num_vi_steps: steps of Adam after the training.
        draws_a_step: an even number.
        num_draws: draws that are kept.

    Raises:
        ValueError: a number below one or odd draws, or as :class:`NetworkEngine` says.

    Sources: Blundell, Cornebise, Kavukcuoglu and Wierstra, *Weight uncertainty in neural
    networks*, ICML 2015; Kingma and Welling, ICLR 2014, for the draws.

    Example:
        >>> MeanFieldVI(num_vi_steps=500).draws_a_step
        8
    """

    num_vi_steps: int = 1500
    draws_a_step: int = 8
    num_draws: int = DRAWS

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_vi_steps", "num_draws", "draws_a_step"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}: expected a whole number of at least 1, got {value!r}")
        if self.draws_a_step % 2:
            raise ValueError(f"draws_a_step: expected an even number, got {self.draws_a_step}")

    def infer(self, trained: Trained, context: Context) -> Bank:
        """Draws of q, trained from the network that is there."""
        known = trained_bank(trained)
        begin = trained.unknowns.rows(torch.zeros(1, dtype=torch.long))
        law = MeanField.about(Unconstrained.of(known.density, begin), begin)
        generator = torch.Generator().manual_seed(context.seed)
        law, lost = law.raised(
            self.num_vi_steps,
            self.draws_a_step,
            PAIRS_A_STEP if self.batch_size is None else self.batch_size,
            generator,
            context.report,
        )
        notes: tuple[str, ...] = ()
        if lost:
            notes = (f"{lost} of {self.num_vi_steps} steps of mean-field inference diverged",)
        with torch.no_grad():
            own, _ = law.unknowns.unpacked(law.sample(self.num_draws, generator))
        return Bank(
            known.density,
            own.theta,
            own.noise_std(known.density.noise),
            own.start,
            known.steps + self.num_vi_steps,
            known.converged,
            known.notes + notes,
            spacing=known.spacing,
        )


@dataclass(frozen=True)
class MeanField:
    """Independent normals of the entries of a vector.

    Attributes:
        unknowns: what the vectors stand for.
        mean, log_std: (N,).
    """

    unknowns: Unconstrained
    mean: Float[Tensor, " unknowns"]
    log_std: Float[Tensor, " unknowns"]

    @classmethod
    def about(cls, unknowns: Unconstrained, begin: Unknowns) -> MeanField:
        """About one row, with the deviations of the linear model, each entry given all others."""
        mean = unknowns.packed(begin)[0].detach()
        return cls(unknowns, mean, -0.5 * unknowns.curvature(mean).log())

    def sample(self, num: int, generator: torch.Generator) -> Float[Tensor, "draws unknowns"]:
        """Draws."""
        return self.mean + self.log_std.exp() * normal((num, len(self.mean)), self.mean, generator)

    def raised(
        self, steps: int, draws: int, batch: int, generator: torch.Generator, report: Report
    ) -> tuple[MeanField, int]:
        """After so many steps of Adam on the evidence lower bound; and how many were left out.

        Raises:
            FloatingPointError: all of them.
        """
        unit = self.log_std.exp()
        shift = torch.zeros_like(self.mean).requires_grad_(True)
        log_std = self.log_std.clone().requires_grad_(True)
        optimiser = torch.optim.Adam([shift, log_std], lr=RATE)
        total, lost = self.unknowns.density.num_items, 0
        for step in range(steps):
            fall = 0.5 * (1.0 + math.cos(math.pi * step / steps))
            for group in optimiser.param_groups:
                group["lr"] = fall * RATE
            white = normal((draws // 2, len(self.mean)), self.mean, generator)
            x = self.mean + unit * shift + log_std.exp() * torch.cat([white, -white])
            chosen = None
            if self.unknowns.shape is None and batch < total:
                chosen = torch.randperm(total, generator=generator)[:batch].to(x.device)
            value = self.unknowns.log_prob(x, chosen)
            alive = value.detach().isfinite()
            bound = torch.where(alive, value, 0.0).sum() / draws + log_std.sum()
            shift.grad, log_std.grad = torch.autograd.grad(-bound, [shift, log_std])
            # A draw that is left out still has no derivative where it overflowed.
            if bool(shift.grad.isfinite().all() & log_std.grad.isfinite().all()):
                optimiser.step()
            else:
                lost += 1
            if step % BLOCK == 0:
                report("mean-field inference", -float(bound.detach()))
        if lost == steps:
            raise FloatingPointError(
                "mean-field inference: every step met draws that diverged; train longer first "
                "(num_steps) or look for values in other units in the data"
            )
        mean = (self.mean + unit * shift).detach()
        return MeanField(self.unknowns, mean, log_std.detach()), lost
