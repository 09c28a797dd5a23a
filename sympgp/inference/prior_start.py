"""Variational inference from the prior: short windows first, then longer ones.

The mean is found first, at a small covariance: draws from the prior itself are so wild that they
say nothing of where to go. Then windows grow towards whole trajectories; at each length the
covariance starts from one linearisation about the mean, and both are trained. The hyperparameters
follow by the frozen-path evidence, and a mixture over their posterior, the jumps' size and the
spectral points is what training goes on with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from sympgp.cholesky import cholesky
from sympgp.distributed import ALONE, Ranks
from sympgp.energies.base import Hyperparameters
from sympgp.fields import HamiltonianField
from sympgp.inference.approximation import Approximation
from sympgp.inference.ascent import Schedule, ascend
from sympgp.inference.base import Report
from sympgp.inference.checkpoint import Checkpoint
from sympgp.inference.discrepancy import EXACT, autocorrelation_time, defect_posterior
from sympgp.inference.elbo import bound_of_draws
from sympgp.inference.following import Following
from sympgp.inference.gauss_newton import _stratified
from sympgp.inference.gaussian import as_component
from sympgp.inference.linearised import node_states, of_search, window_means
from sympgp.inference.search import CORRELATED, LAST_WINDOW, OSCILLATION, WORSE, Search
from sympgp.inference.start import Prepared
from sympgp.models import HamiltonianModel
from sympgp.posterior import GaussianComponent
from sympgp.shooting.density import JointDensity
from sympgp.shooting.layout import Windows
from sympgp.trajectories import Trajectories

FIRST_WINDOW, FIRST_DEFECT = 1.0, 0.3
"""Duration of the first windows, scaled, a sixth of an oscillation; and size of the jumps."""
SMALL = 0.02
"""Deviations of the first draws of the weights over those of the prior."""
MEAN_STEPS, MEAN_RATE = 200, 0.05
"""Steps for the mean alone, in standard deviations of the prior."""
STAGE_STEPS, STAGE_RATE = 100, 0.3
"""Steps at each length of the windows, and their learning rate."""
ROUNDS = 2
"""Evidence maximisations, each followed by training."""


@dataclass
class PriorStart:
    """The way from the prior to components that whole trajectories can be trained on.

    Attributes:
        model: priors of the field.
        prepared: scaled data with a smoothed path, which gives the first window states.
        schedule: draws and windows a step; its number of steps is not used.
        checkpoint: where states of trainings are kept.
        seed: of every random choice.
        report: progress.
        search: where the mean stands; its ranks share the windows in training.
        jump_gain: log evidence of jumps against none.
        joined: whether windows could grow to whole trajectories.
        window_time: duration of the last windows before jumps were measured, scaled.
        lost, drawn: draws that diverged, and all draws.
    """

    model: HamiltonianModel
    prepared: Prepared
    schedule: Schedule
    checkpoint: Checkpoint
    seed: int
    report: Report
    search: Search
    jump_gain: float = 0.0
    joined: bool = True
    window_time: float = math.inf
    lost: int = 0
    drawn: int = 0

    @classmethod
    def of(
        cls,
        model: HamiltonianModel,
        prepared: Prepared,
        data: Trajectories,
        schedule: Schedule,
        checkpoint: Checkpoint,
        seed: int,
        report: Report,
        ranks: Ranks = ALONE,
    ) -> PriorStart:
        """At the prior's mean, on the smoothed path."""
        priors = model.energy.hyperpriors(prepared.scaling.spread)
        basis = model.energy.basis({name: prior.median for name, prior in priors.items()})
        field = model.field(basis, prepared.scaling, data)
        path = prepared.path
        search = Search(
            nodes=prepared.nodes,
            noise=prepared.noise,
            step=prepared.step,
            field=field,
            theta=_prior_mean(field),
            states=path.stages[:, 0],
            noise_std=path.noise_std,
            inflation=torch.full_like(path.noise_std, 1.0 / prepared.noise.information),
            windows=Windows.of_duration(prepared.nodes, FIRST_WINDOW),
            duration=FIRST_WINDOW,
            defect_std=FIRST_DEFECT,
            max_iterations=1,
            report=report,
            ranks=ranks,
        )
        return cls(model, prepared, schedule, checkpoint, seed, report, search)

    def components(self, count: int) -> list[GaussianComponent]:
        """A mixture over hyperparameters, jumps and spectral points, to be trained further."""
        energy = self.model.energy
        priors = energy.hyperpriors(self.prepared.scaling.spread)
        hyper = {name: prior.median for name, prior in priors.items()}
        self._find_mean()
        self._grow_windows(hyper)
        self.search.refine_noise()
        jumps = self._measure_jumps(hyper, count)
        for k in range(ROUNDS):
            last = k + 1 == ROUNDS
            frozen, found = self.search.learn_hyperparameters(energy, priors, hyper, last)
            hyper = found.hyperparameters(found.mean)
            self._train(f"fitting, round {k + 1}", hyper)
        if not priors:  # nothing to draw: a formula
            count, jumps = 1, [self.search.defect_std]
        root = cholesky(found.covariance, "the covariance of the hyperparameters")
        points = _stratified(count, len(found.mean) + 1, self.seed).to(found.mean)
        ranks = points[:, -1].argsort().argsort().tolist()
        mixed = []
        for k in range(count):
            if count > 1:
                hyper = found.hyperparameters(found.mean + root @ points[k, :-1])
            own = energy if k == 0 else energy.redraw(self.seed + 7919 * k)
            one = replace(self.search, defect_std=jumps[ranks[k]])
            if count > 1:
                one.change_field(frozen, one.field.with_basis(own.basis(hyper)))
            mixed.append(one.ranks.agree(partial(of_search, one, hyper)))
        return mixed

    def _find_mean(self) -> None:
        """Raise the bound in the mean alone, from the prior's, on short windows."""
        search, name = self.search, "the mean from the prior"
        prior = search.field.prior_precision().double().rsqrt()
        known = self.checkpoint.finished(name)
        if known is None:
            q = self._prior_approximation(prior)
            q = _trained_mean(q, self._density(), self.schedule, self.seed, self._reporter(name))
            theta, start = map(search.ranks.broadcast, (q.centre, q.mean))
            known = {"theta": theta.cpu(), "start": start.cpu()}
            search.ranks.agree(partial(self.checkpoint.keep, name, known, True))
        search.theta = known["theta"].to(prior)
        self._follow(known["start"].to(prior))

    def _follow(self, start: Tensor) -> None:
        """Move to the paths from these window states, those of rank 0."""
        search = self.search
        problem = replace(search, ranks=ALONE).problem()
        states = search.ranks.agree(partial(node_states, problem, search.theta, start))
        search.states = search.ranks.broadcast(states)

    def _prior_approximation(self, prior: Tensor) -> Approximation:
        """Weights near the prior's mean, states near the smoothed path."""
        search = self.search
        mean = search.states[search.windows.start]
        count, dim = mean.shape
        shape = search.noise.shape(search.nodes.counts)
        known = shape.isinf()
        none = mean.new_zeros(count, dim, dim)
        chol = (0.5 * torch.diag(search.noise_std)).expand(count, dim, dim)
        small = SMALL * prior
        return Approximation.about(
            (search.theta, torch.diag(small), torch.diag(1.0 / small)),
            (mean, mean.new_zeros(count, dim, len(prior)), none, chol),
            Following.of(search.windows.chain, mean),
            torch.tensor([len(prior) - 1], device=prior.device),
            (shape, torch.where(known, 1.0, shape) * search.noise_std**2, search.noise.group),
            int(search.field.dissipation.truncated),
        )

    def _density(self) -> JointDensity:
        search = self.search
        return JointDensity(
            search.nodes,
            search.windows,
            search.field,
            search.noise,
            search.defect_std,
            search.step,
            inflation=search.inflation * search.noise.information,
            ranks=search.ranks,
        )

    def _train(self, name: str, hyper: Hyperparameters) -> None:
        """Move the search to the mean of a trained approximation on its windows."""
        search = self.search
        search.theta = search.ranks.broadcast(search.theta)
        component = search.ranks.agree(partial(of_search, search, hyper))
        schedule = replace(self.schedule, num_steps=STAGE_STEPS, learning_rate=STAGE_RATE)
        found = ascend(
            Approximation.of(component),
            self._density(),
            schedule,
            self.seed,
            name,
            self.checkpoint,
            self._reporter(name),
        )
        trained = as_component(found.q, component)
        search.theta = search.ranks.broadcast(trained.theta)
        search.noise_std = search.ranks.broadcast(trained.noise_std)
        self._follow(window_means(trained))
        search.iterations += found.steps
        self.lost, self.drawn = self.lost + found.lost, self.drawn + found.drawn

    def _reporter(self, name: str) -> Callable[[float], None]:
        return lambda bound: self.report(name, -bound)

    def _grow_windows(self, hyper: Hyperparameters) -> None:
        """Lengthen the windows to whole trajectories, as far as the data allow it."""
        search, nodes = self.search, self.search.nodes
        edges = zip(nodes.first[:-1], nodes.first[1:], strict=True)
        horizon = max(float(nodes.times[e - 1] - nodes.times[b]) for b, e in edges)
        duration, defect = 3.0 * FIRST_WINDOW, FIRST_DEFECT
        while True:
            before = replace(search)
            whole = 1.5 * duration >= min(horizon, LAST_WINDOW)
            search.duration = math.inf if 1.5 * duration >= horizon else duration
            search.windows = Windows.of_duration(nodes, search.duration)
            search.defect_std = 0.0 if search.windows.joined else defect
            self._train(f"windows of {duration:g}", hyper)
            if bool((search.noise_std > WORSE * before.noise_std).any()) and duration > 3.0:
                search.__dict__.update(before.__dict__, iterations=search.iterations)
                self.joined, self.window_time = False, search.duration
                return
            if whole:
                return
            duration, defect = 2.0 * duration, 0.5 * defect

    def _measure_jumps(self, hyper: Hyperparameters, count: int) -> list[float]:
        """Sizes of the jumps between windows of one oscillation, one a component."""
        search = self.search
        search.duration = min(search.duration, OSCILLATION)
        search.windows = Windows.of_duration(search.nodes, search.duration)
        white = bool((self._autocorrelation() < CORRELATED).all())
        found = defect_posterior(search.problem(), search.estimate(), EXACT if white else 0.0)
        search.defect_std = found.root_mean_square
        self.jump_gain = found.gain
        self._train("measuring model discrepancy", hyper)
        search.inflation = self._autocorrelation() / search.noise.information
        return found.strata(count)

    def _autocorrelation(self) -> Tensor:
        """Autocorrelation time of each channel's residuals, (D,)."""
        nodes = self.search.nodes
        residual = (self.search.states - nodes.values) * nodes.weights.sqrt()
        return autocorrelation_time(residual, nodes)


def _prior_mean(field: HamiltonianField) -> Tensor:
    """Weights of zero, and dissipation where it acts: some kinds are at rest at zero."""
    theta = torch.zeros_like(field.prior_precision().double())
    if not field.dissipation.truncated:
        theta[field.num_weights :] = field.dissipation.start()
    return theta


def _trained_mean(
    q: Approximation,
    density: JointDensity,
    schedule: Schedule,
    seed: int,
    report: Callable[[float], None],
) -> Approximation:
    """Ascent in the mean of weights, friction and states; steps shrink to nothing at the end."""
    generator = torch.Generator().manual_seed(seed)
    # Steps are in standard deviations of the prior, which are those of q over SMALL.
    shift = torch.zeros_like(q.shift, requires_grad=True)
    states = torch.zeros_like(q.state_shift, requires_grad=True)
    optimizer = torch.optim.Adam([shift, states], lr=MEAN_RATE, betas=(0.9, 0.99))
    for step in range(MEAN_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 * MEAN_RATE * (1.0 + math.cos(math.pi * step / MEAN_STEPS))
        own = q.having({"shift": shift / SMALL, "state_shift": states})
        draws = own.sample(schedule.draws_a_step, generator)
        terms = bound_of_draws(own.detached(), density, draws)
        bound = torch.stack(list(terms.values())).sum(0)
        alive = bound.isfinite()
        if bool(alive.any()):
            optimizer.zero_grad()
            loss = -torch.where(alive, bound, 0.0).sum() / alive.sum()
            loss.backward()
            optimizer.step()
            report(-float(loss.detach()))
    return q.having({"shift": shift / SMALL, "state_shift": states}).detached().whitened()
