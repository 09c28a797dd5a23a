"""The first example of ``sympgp demo``: a simulated pendulum whose truth is known."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from sympgp import SSGP, Friction, Posterior, Rollouts, Trajectories, fit, plots
from sympgp.cli import pictures
from sympgp.cli.text import count, describe_data
from sympgp.systems import Pendulum

FRICTION, NOISE, DURATION, HORIZON = 0.1, 0.1, 10.0, 20.0
SEED = 0
SYSTEM = Pendulum(friction=FRICTION)


def simulate() -> Trajectories:
    """Three noisy trajectories at irregular times, a fifth of the values missing."""
    return SYSTEM.simulate(
        3, rate=4, duration=DURATION, noise_std=NOISE, missing=0.2, irregular=True, seed=SEED
    )


def truth(trajectory: int, times: Tensor) -> Tensor:
    """The true states (T, 2) behind one of these trajectories."""
    x0 = SYSTEM.sample_initial(3, seed=SEED)[trajectory]
    from_start = torch.cat([torch.zeros(1, dtype=torch.float64), times])
    return SYSTEM.exact(x0, from_start)[0, 1:]


def run(out: Path, progress: bool) -> list[Path]:
    """Simulate, fit, compare with the truth, draw; return the files written."""
    data = simulate()
    click.echo(f"1. A simulated pendulum with friction: {describe_data(data)},")
    click.echo(f"   irregular times, noise of standard deviation {NOISE:g}")
    posterior = fit(SSGP(num_features=100, dissipation=Friction()), data, progress=progress)
    last = float(data.times[0][-1])
    times = torch.linspace(last, HORIZON, pictures.POINTS, dtype=torch.float64)
    ahead = posterior.forecast(times, trajectory=0)
    _report(posterior, ahead)
    files = [out / name for name in ("pendulum.pt", "pendulum_forecast.nc")]
    posterior.save(files[0])
    ahead.to_netcdf(files[1])
    return files + _draw(posterior, ahead, out)


def _report(posterior: Posterior, ahead: Rollouts) -> None:
    friction = posterior.dissipation()
    mean, stddev = float(friction.mean), float(friction.stddev)
    click.echo(
        f"   friction: true {FRICTION:g}, posterior {mean:.3f} +- {stddev:.3f} "
        f"({abs(mean - FRICTION) / stddev:.1f} standard deviations from the truth)"
    )
    noise = ", ".join(f"{value:.3f}" for value in posterior.noise_std.tolist())
    click.echo(f"   noise of q and p: true {NOISE:g} and {NOISE:g}, posterior {noise}")
    inside = total = 0
    for i, path in enumerate(posterior.fitted()):
        hits = covered(path, truth(i, path.times))
        inside, total = inside + int(hits.sum()), total + hits.numel()
    click.echo(
        f"   true states inside the 90% bands at the times of the data: {inside} of {total} values"
    )
    hits = covered(ahead, truth(0, ahead.times))
    error = (ahead.mean[0] - truth(0, ahead.times)).square().mean().sqrt()
    click.echo(
        f"   forecast of the first trajectory from t = {float(ahead.times[0]):.1f} to "
        f"{HORIZON:g}: root mean square error {float(error):.3f},"
    )
    click.echo(f"   true states inside the 90% bands: {int(hits.sum())} of {hits.numel()} values")
    if ahead.diverged.any():
        click.echo(f"   {count(int(ahead.diverged.sum()), 'draw')} diverged and are left out")


def covered(rollouts: Rollouts, states: Tensor, kind: str = "latent") -> Tensor:
    """Which values of (T, 2n) lie inside the 90% band of the first trajectory."""
    lower, upper = rollouts.band(0.9, kind)
    return (lower[0] <= states) & (states <= upper[0])


def _draw(posterior: Posterior, ahead: Rollouts, out: Path) -> list[Path]:
    before = pictures.fitted(posterior, 0)
    whole = pictures.join(before, ahead)
    files = [out / f"pendulum_{name}.png" for name in ("bands", "phase", "energy")]
    true_states = truth(0, whole.times)
    pictures.save(plots.bands(whole, posterior.data[0], truth=true_states), files[0])
    pictures.save(plots.phase_portrait(posterior), files[1])
    reference = posterior.scaling.center
    energy = SYSTEM.hamiltonian(truth(0, ahead.times)) - SYSTEM.hamiltonian(reference)
    pictures.save(plots.energy(ahead, truth=energy), files[2])
    return files
