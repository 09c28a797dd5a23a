"""Times of the field and of rollouts beside their floors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from sympgp.benchmarks.speed_problems import fourier_basis, fourier_field, random_weights
from sympgp.benchmarks.speed_record import Measurement
from sympgp.benchmarks.speed_session import Session, Timed
from sympgp.compiled import CompileWarning, asked, at_hand
from sympgp.energies.fourier_gradient import compiled_pass
from sympgp.fields import BoundField, TrajectoryField
from sympgp.inference import GaussNewton, fit
from sympgp.integrators import RK4, DivergenceWarning
from sympgp.models import SSGP
from sympgp.posterior import Posterior
from sympgp.rollouts import solve_rollouts
from sympgp.systems import Pendulum

GEMMS, EAGER = "two bare GEMMs", "eager GEMM + sin + cos + GEMM"
STAGES = 4
"""Of an RK4 step, whose parameter sensitivities are summed with weights."""


def measure_field(session: Session) -> None:
    """The field, its Jacobian and its parameter sensitivities at many points."""
    points, features, num_dof = session.sizes.evaluation
    session.say(f"field at {points:,} points, {features} features")
    field = fourier_field(num_dof, features)
    theta = random_weights(field)
    z = _normal(points, 2 * num_dof)
    bound = field.bind(theta)
    actions = {**floors(fourier_basis(field).frequencies, z), "field": lambda: bound(0.0, z)}
    one_pass = compiled(bound, z)
    if one_pass is None:
        session.note("field, compiled: left out, since no compiler is at hand, or it is not wanted")
    else:
        actions["field, compiled"] = partial(one_pass, 0.0, z)
    found = session.time(actions)
    size = f"{points:,} points x {features} features, D = {2 * num_dof}"

    def row(name: str, floor: str, most: float | None = None) -> Measurement:
        aim = None if most is None else session.aim("ratio", most)
        times = found.seconds
        return Measurement(
            "field",
            name,
            size,
            times[name],
            times.get(floor),
            floor,
            aim,
            points,
            "points",
            repeats=found.repeats,
        )

    session.add(row(GEMMS, ""), row(EAGER, GEMMS), row("field", EAGER, 1.2))
    if one_pass is not None:
        session.add(row("field, compiled", GEMMS, 1.5))
    _measure_jacobians(session, size)


def floors(omega: Tensor, z: Tensor) -> dict[str, Callable[[], object]]:
    """What evaluations of the field are compared with, every operand in memory already.

    ``(B, D) @ (D, M)`` and ``(B, M) @ (M, D)`` into memory that is there; and the same as one
    writes it, with a sine and a cosine between.

    Args:
        omega: (M, D).
        z: (B, D).
    """
    into, out = omega.mT.contiguous(), omega.contiguous()
    phase = z @ into
    wide, narrow = torch.empty_like(phase), torch.empty_like(z)

    def bare() -> Tensor:
        torch.mm(z, into, out=wide)
        return torch.mm(phase, out, out=narrow)

    def eager() -> Tensor:
        here = z @ into
        here.cos()
        return here.sin() @ out

    return {GEMMS: bare, EAGER: eager}


def _measure_jacobians(session: Session, size: str) -> None:
    """Jacobians, and weighted sums of parameter sensitivities over the stages of a step."""
    points, features, num_dof = session.sizes.evaluation
    dim = 2 * num_dof
    field = fourier_field(num_dof, features)
    theta, omega = random_weights(field), fourier_basis(field).frequencies.contiguous()
    z = _normal(points, dim)
    stages, weights = z.view(-1, STAGES, dim), _normal(points // STAGES, dim, STAGES, dim)
    into, phase = omega.mT.contiguous(), z @ omega.mT
    outer = (omega[:, :, None] * omega[:, None, :]).flatten(1)
    flat = weights.reshape(-1, dim)
    found = session.time(
        {
            "Jacobian's GEMMs": lambda: (z @ into, phase @ outer),
            "Jacobian": lambda: field.jacobian(z, theta),
            "sensitivities' GEMMs": lambda: (z @ into, flat @ into),
            "sensitivities": lambda: field.weighted_parameter_jacobian(stages, weights, theta),
        }
    )
    times = found.seconds
    for name, what in (
        ("Jacobian", "Jacobian"),
        ("sensitivities", "parameter sensitivities, summed over 4 stages"),
    ):
        floor = f"{name}'s GEMMs".replace("sensitivities's", "sensitivities'")
        session.add(
            Measurement(
                "field",
                what,
                size,
                times[name],
                times[floor],
                "its bare GEMMs",
                amount=points,
                unit="points",
                repeats=found.repeats,
            )
        )


def compiled(bound: BoundField | TrajectoryField, z: Tensor) -> BoundField | TrajectoryField | None:
    """The field compiled, which has done so; None where there is none."""
    if asked() is False or not at_hand(z.device.type):
        return None
    one_pass = bound.compiled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CompileWarning)
        one_pass(0.0, z)
    return None if z.device.type in compiled_pass.failed else one_pass


def _normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def measure_rollouts(session: Session) -> None:
    """Draws of a fitted pendulum from many initial states, beside evaluations of their field."""
    draws, starts, steps, features = session.sizes.rollouts
    session.say(f"rollouts: {draws:,} draws x {starts} initial states x {steps} steps")
    posterior = fitted_pendulum(features)
    x0 = Pendulum().sample_initial(starts, seed=1)
    step = 0.05
    times = step * torch.arange(steps + 1, dtype=torch.float64)
    (part,) = posterior.sample(draws, seed=0).parts
    z0 = posterior.scaling.to_scaled(x0).expand(draws, -1, -1).contiguous()
    scaled = (posterior.scaling.to_scaled_time(times)).tolist()
    method = RK4(step=1.001 * (scaled[1] - scaled[0]))
    actions: dict[str, Callable[[], object]] = {"field": partial(part.field, 0.0, z0)}
    one_pass = compiled(part.field, z0)
    if one_pass is not None:
        actions["field, compiled"] = partial(one_pass, 0.0, z0)

    def whole() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DivergenceWarning)  # they take as long as others
            posterior.rollout(x0, times, num_samples=draws, integrator=RK4(step=1.001 * step))

    evaluations = session.time(actions).seconds
    quickest = min(evaluations, key=lambda name: evaluations[name])
    ready = part.field if one_pass is None or quickest == "field" else one_pass
    found = session.time(
        {
            "solver alone": lambda: solve_rollouts(ready, z0, scaled, method),
            "posterior.rollout": whole,
        }
    )
    floor, floor_of = 4 * steps * evaluations[quickest], f"{4 * steps:,} evaluations ({quickest})"
    _add_rollouts(session, found, floor, floor_of)


def _add_rollouts(session: Session, found: Timed, floor: float, floor_of: str) -> None:
    draws, starts, steps, features = session.sizes.rollouts
    for what, seconds in found.seconds.items():
        session.add(
            Measurement(
                "rollouts",
                what,
                f"{draws:,} draws x {starts} states x {steps} RK4 steps, {features} features",
                seconds,
                floor,
                floor_of,
                session.aim("ratio", 2.0),
                draws * starts,
                "rollouts",
                repeats=found.repeats,
            )
        )


def fitted_pendulum(features: int) -> Posterior:
    """One Gaussian over the field of a damped pendulum: what is in it does not matter here."""
    data = Pendulum(friction=0.05).simulate(5, rate=5, duration=10, noise_std=0.1, seed=0)
    engine = GaussNewton(num_components=1, hyperparameter_rounds=1)
    return fit(SSGP(1, features), data, inference=engine, progress=False)
