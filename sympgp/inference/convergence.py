"""Whether Markov chains have converged, in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sympgp.inference.chains import Chain, Tuning

LARGEST_RHAT, LEAST_ESS = 1.02, 400.0
"""R-hat and effective sample size that are asked for. Vehtari et al. (2021) ask for 1.01 and 400;
of dozens of quantities with 400 effective draws the largest R-hat is above 1.01 by chance."""
FEWEST, SAME = 8, 1e-9
"""Draws of a chain below which nothing can be said of it, and the relative deviation of what is
constant."""


@dataclass(frozen=True)
class Convergence:
    """The worst of several quantities.

    Attributes:
        rhat: largest R-hat; NaN where there is only one chain, or too few draws.
        rhat_of: of what.
        ess: smallest effective sample size, of the bulk or of the tails.
        ess_of: of what.

    Source: Vehtari, Gelman, Simpson, Carpenter and Bürkner, *Rank-normalization, folding, and
    localization: an improved R-hat*, Bayesian Analysis 16 (2021).
    """

    rhat: float = math.nan
    rhat_of: str = ""
    ess: float = math.nan
    ess_of: str = ""

    @classmethod
    def of(cls, quantities: dict[str, Float[Tensor, "chains draws"]]) -> Convergence:
        """Rank-normalised split R-hat and effective sample sizes, by ArviZ."""
        varying = {
            name: x
            for name, x in quantities.items()
            if float(x.std()) > SAME * float(x.abs().max())
        }
        if not varying or next(iter(varying.values())).shape[1] < FEWEST:
            return cls()
        import arviz
        import xarray

        names = list(varying)
        values = torch.stack(list(varying.values()), -1).detach().cpu().numpy()
        data = xarray.Dataset({"x": (("chain", "draw", "quantity"), values)})
        with np.errstate(divide="ignore", invalid="ignore"):  # a chain that does not move
            sizes = [arviz.ess(data, method=kind)["x"].values for kind in ("bulk", "tail")]
            rhat = torch.as_tensor(arviz.rhat(data)["x"].values)
        ess = torch.as_tensor(np.minimum(*sizes))
        least = int(ess.nan_to_num(nan=math.inf).argmin())
        if len(values) < 2:
            return cls(ess=float(ess[least]), ess_of=names[least])
        worst = int(rhat.nan_to_num(nan=0.0).argmax())
        return cls(float(rhat[worst]), names[worst], float(ess[least]), names[least])

    def details(self) -> tuple[str, ...]:
        """The figures, where there are any."""
        if math.isnan(self.rhat):
            return ()
        return (
            f"Markov chains: R-hat at most {self.rhat:.3f} ({self.rhat_of}), effective sample size "
            f"at least {self.ess:.0f} ({self.ess_of})",
        )

    def notes(self) -> tuple[str, ...]:
        """What to worry about."""
        said = []
        if self.rhat > LARGEST_RHAT:
            said.append(
                f"the chains do not agree: R-hat of {self.rhat_of} is {self.rhat:.3f}, and at most "
                f"{LARGEST_RHAT} is wanted; take more draws, or a longer warm-up"
            )
        if self.ess < LEAST_ESS:
            said.append(
                f"few independent draws: the effective sample size of {self.ess_of} is "
                f"{self.ess:.0f}, and {LEAST_ESS:.0f} are wanted; take more draws"
            )
        if math.isnan(self.rhat):
            said.append(
                "whether the chains have converged cannot be told from one chain, or from so few "
                "draws"
            )
        return tuple(said)


def notes_on_transitions(chains: Sequence[Chain], tuning: Tuning) -> tuple[str, ...]:
    """Divergences and trajectories that were cut short."""
    total = sum(len(chain.draws) for chain in chains)
    lost = sum(sum(chain.diverging) for chain in chains)
    longest = 2**tuning.max_tree_depth - 1
    cut = sum(steps >= longest for chain in chains for steps in chain.num_steps)
    said = []
    if lost:
        said.append(
            f"{lost} of {total} transitions diverged: parts of the posterior are too narrow for "
            "the sampler's step and may be missing from the draws; raise target_accept (now "
            f"{tuning.target_accept:g})"
        )
    if cut:
        said.append(
            f"{cut} of {total} transitions ended at max_tree_depth={tuning.max_tree_depth} before "
            "they turned round: draws are more alike than they need be; try adapt_metric=True "
            "with a longer warm-up, or a larger depth"
        )
    return tuple(said)
