"""What every kind of dissipation promises, and what each one is."""

import math
from dataclasses import fields, replace

import pytest
import torch
from problems import canonical, randn, tensor

from sympgp.dissipation import (
    Conservative,
    DiagonalFriction,
    Friction,
    GradientField,
    MatrixFriction,
    PositiveCurve,
    Rayleigh,
    ScaledDissipation,
    StateDependentFriction,
    Undamped,
    undamped,
)
from sympgp.phase_space import CanonicalScaling

FAMILIES = {
    "friction": Friction(),
    "diagonal": DiagonalFriction(),
    "diagonal-everywhere": DiagonalFriction(positions=True, prior_scale=0.3),
    "matrix": MatrixFriction(),
    "fourier": StateDependentFriction(num_features=4),
    "fourier-angle": StateDependentFriction(num_features=4, periodic=(0,), seed=2),
    "rank-one": StateDependentFriction(num_features=3, rank=1),
    "network": StateDependentFriction(features="network", num_features=3),
    "rayleigh": Rayleigh(),
    "rayleigh-common": Rayleigh(common=True),
    "quadratic": Rayleigh(drag="quadratic"),
    "coulomb-common": Rayleigh(drag=["coulomb"], common=True),
    "gradient": GradientField(),
    "gradient-without-skew": GradientField(skew_scale=0.0),
    "gradient-fourier": GradientField(features="fourier", num_features=3),
    "gradient-network": GradientField(features="network", num_features=2),
}
CASES = [(name, num_dof) for name in FAMILIES for num_dof in (1, 2)]
every_kind = pytest.mark.parametrize(("name", "num_dof"), CASES)


def build(name: str, num_dof: int) -> ScaledDissipation:
    return FAMILIES[name].scaled(canonical(num_dof, seed=3))


def draws(damping: ScaledDissipation, num: int, spread: float = 1.0, seed: int = 5):
    """Parameters from the prior, or a wider one."""
    rho = spread * damping.prior_stddev * randn(num, damping.num_parameters, seed=seed)
    return rho.abs() if damping.truncated else rho


def has_matrix(name: str) -> bool:
    return not isinstance(FAMILIES[name], Rayleigh)


def test_every_family_is_here():
    kinds = {type(family).__name__ for family in FAMILIES.values()}
    import sympgp.dissipation as module

    public = {getattr(module, name) for name in module.__all__}
    families = {
        kind.__name__
        for kind in public
        if isinstance(kind, type)
        and issubclass(kind, module.Dissipation)
        and kind not in (module.Dissipation, Conservative)
    }
    assert kinds == families


@every_kind
def test_written_jacobians_are_those_of_the_force(name, num_dof):
    """Against reverse mode, state by state, and against the forward mode of the base class."""
    damping = build(name, num_dof)
    rho, z, slope = draws(damping, 3), randn(3, 4, 2 * num_dof), randn(3, 4, 2 * num_dof, seed=1)
    methods = ("state_jacobian", "slope_jacobian", "parameter_jacobian")
    for argument, method in enumerate(methods):
        found = getattr(damping, method)(z, slope, rho)
        torch.testing.assert_close(
            getattr(ScaledDissipation, method)(damping, z, slope, rho), found
        )
        for s in range(3):
            torch.testing.assert_close(getattr(damping, method)(z[s], slope[s], rho[s]), found[s])
        single = torch.func.jacrev(damping._single, argnums=argument)(z[1, 2], slope[1, 2], rho[1])
        torch.testing.assert_close(found[1, 2], single)


@every_kind
@pytest.mark.parametrize("spread", [1.0, 10.0, 1000.0])
def test_energy_never_grows(name, num_dof, spread):
    """``g . d >= 0`` at all states, slopes and parameters, extreme ones among them."""
    damping = build(name, num_dof)
    rho, z = draws(damping, 40, spread), 10.0 * randn(40, 30, 2 * num_dof)
    sizes = torch.logspace(-6, 3, 30, dtype=torch.float64)[:, None]
    slope = sizes * randn(40, 30, 2 * num_dof, seed=1)
    force = damping.force(z, slope, rho)
    power = (slope * force).sum(-1)
    assert bool(torch.isfinite(force).all())
    assert bool((power >= -1e-13 * (slope.norm(dim=-1) * force.norm(dim=-1))).all())
    assert (power > 0).double().mean() > 0.4
    at_rest = damping.force(z, 0.0 * slope, rho)
    assert bool((at_rest == 0).all())


@every_kind
def test_matrices_are_positive_semidefinite_and_make_the_force(name, num_dof):
    damping = build(name, num_dof)
    rho, z, slope = draws(damping, 4), randn(4, 6, 2 * num_dof), randn(4, 6, 2 * num_dof, seed=1)
    if not has_matrix(name):
        assert not damping.constant
        with pytest.raises(TypeError, match="RayleighDamping: the force is no matrix"):
            damping.matrix(rho, z)
        return
    matrix = damping.matrix(rho, z)
    if damping.constant:
        torch.testing.assert_close(damping.matrix(rho), matrix)
        matrix = matrix.unsqueeze(1).expand(4, 6, -1, -1)
    else:
        with pytest.raises(ValueError, match="z: expected states"):
            damping.matrix(rho)
    assert matrix.shape == (4, 6, 2 * num_dof, 2 * num_dof)
    symmetric = 0.5 * (matrix + matrix.mT)
    eigenvalues = torch.linalg.eigvalsh(symmetric)
    assert bool((eigenvalues >= -1e-13 * eigenvalues[..., -1:]).all())
    if not isinstance(FAMILIES[name], GradientField):
        torch.testing.assert_close(matrix, symmetric)
    torch.testing.assert_close(
        (matrix @ slope.unsqueeze(-1)).squeeze(-1), damping.force(z, slope, rho)
    )


@every_kind
def test_draws_in_a_batch_are_those_one_by_one(name, num_dof):
    damping = build(name, num_dof)
    rho, z, slope = draws(damping, 3), randn(3, 4, 2 * num_dof), randn(3, 4, 2 * num_dof, seed=1)
    force, shown = damping.force(z, slope, rho), damping.coefficients(rho)
    torch.testing.assert_close(damping.bound(rho)(z, slope), force)
    for s in range(3):
        torch.testing.assert_close(damping.force(z[s], slope[s], rho[s]), force[s])
        torch.testing.assert_close(damping.bound(rho[s])(z[s], slope[s]), force[s])
        torch.testing.assert_close(damping.coefficients(rho[s]), shown[s])
        if has_matrix(name):
            torch.testing.assert_close(damping.matrix(rho[s], z[s]), damping.matrix(rho, z)[s])
    stacked = damping.coefficients(rho.reshape(3, 1, -1).expand(3, 2, -1))
    torch.testing.assert_close(stacked[:, 1], shown)
    # one vector of parameters takes states in any number of axes
    torch.testing.assert_close(damping.force(z, slope, rho[1])[1], force[1])


def in_other_units(scaling: CanonicalScaling, by_q, by_p, by_time) -> CanonicalScaling:
    units = torch.cat([by_q, by_p])
    return CanonicalScaling.from_spread(
        units * scaling.center,
        units * scaling.spread * scaling.scale,
        by_time * scaling.time_scale,
        by_time * scaling.time_origin,
    )


@every_kind
def test_user_units_do_not_matter(name, num_dof):
    """With one kappa the scaled force is the same; coefficients follow the units."""
    scaling = canonical(num_dof, seed=3)
    by_q = torch.full((num_dof,), 3.0).double()
    if "common" not in name and name != "friction":
        by_q = torch.linspace(0.2, 3.0, num_dof).double()
    if "angle" in name:  # the unit of angles is part of the family
        by_q = torch.ones(num_dof).double()
    other = in_other_units(scaling, by_q, 0.7 / by_q, tensor(5.0))
    here, there = FAMILIES[name].scaled(scaling), FAMILIES[name].scaled(other)
    rho, z, slope = draws(here, 3), randn(3, 4, 2 * num_dof), randn(3, 4, 2 * num_dof, seed=1)
    torch.testing.assert_close(there.prior_stddev, here.prior_stddev)
    torch.testing.assert_close(there.start(), here.start())
    torch.testing.assert_close(there.force(z, slope, rho), here.force(z, slope, rho))
    if has_matrix(name) and name != "friction" and not name.startswith("diagonal"):
        found, expected = there.coefficients(rho[0]), here.coefficients(rho[0])
        units = torch.cat([by_q, 0.7 / by_q])[-len(found) :] / math.sqrt(0.7)
        torch.testing.assert_close(found, torch.outer(units, units) * expected)


@every_kind
def test_starts_are_weak_and_not_zero(name, num_dof):
    damping = build(name, num_dof)
    start = damping.start()
    assert start.shape == damping.prior_stddev.shape
    slope = randn(50, 2 * num_dof)
    slope = slope / slope[:, num_dof:].square().mean(-1, keepdim=True).sqrt()
    share = (slope * damping.force(randn(50, 2 * num_dof, seed=1), slope, start)).sum(-1)
    share = share / (num_dof * slope.square().mean(-1))
    assert share.max() < 0.5
    assert share.median() > 0.005
    sensitivity = damping.parameter_jacobian(slope, slope, start).abs().amax((0, 1))
    assert (sensitivity > 1e-3).double().mean() > 0.2


@every_kind
def test_single_precision_stays_single(name, num_dof):
    scaling = canonical(num_dof, seed=3)
    single = FAMILIES[name].scaled(scaling.to(dtype=torch.float32))
    double = FAMILIES[name].scaled(scaling)
    rho, z, slope = draws(double, 3), randn(3, 4, 2 * num_dof), randn(3, 4, 2 * num_dof, seed=1)
    low = (z.float(), slope.float(), rho.float())
    for method in ("force", "state_jacobian", "slope_jacobian", "parameter_jacobian"):
        found = getattr(single, method)(*low)
        assert found.dtype == torch.float32
        expected = getattr(double, method)(z, slope, rho)
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
    assert single.coefficients(low[2]).dtype == single.start().dtype == torch.float32


@every_kind
def test_a_kind_is_made_again_from_its_fields(name, num_dof):
    family = FAMILIES[name]
    own = {field.name: getattr(family, field.name) for field in fields(family)}
    assert type(family)(**own) == family
    damping = build(name, num_dof)
    again = type(damping)(**{f.name: getattr(damping, f.name) for f in fields(damping)})
    rho, z = draws(damping, 2), randn(2, 3, 2 * num_dof)
    assert torch.equal(again.force(z, z, rho), damping.force(z, z, rho))


@every_kind
def test_without_dissipation_the_parameters_stay_and_energy_is_kept(name, num_dof):
    damping = build(name, num_dof)
    still = undamped(damping)
    rho, z, slope = draws(damping, 3), randn(3, 4, 2 * num_dof), randn(3, 4, 2 * num_dof, seed=1)
    force = still.force(z, slope, rho)
    assert (slope * force).sum(-1).abs().max() < 1e-13
    assert torch.equal(still.prior_stddev, damping.prior_stddev)
    assert still.truncated == damping.truncated
    assert still.coefficients(rho).shape == damping.coefficients(rho).shape
    torch.testing.assert_close(still.bound(rho)(z, slope), force)
    for method in ("state_jacobian", "slope_jacobian", "parameter_jacobian"):
        found = getattr(still, method)(z, slope, rho)
        expected = getattr(ScaledDissipation, method)(still, z, slope, rho)
        torch.testing.assert_close(found, expected)
    if not isinstance(FAMILIES[name], GradientField) or name == "gradient-without-skew":
        assert not force.any()
        assert not still.coefficients(rho).any()
        assert still.constant
        assert still.matrix(rho).shape == (3, 2 * num_dof, 2 * num_dof)
    else:  # the skew part turns the flow as before
        assert force.abs().max() > 0.01
        found, whole = still.coefficients(rho), damping.coefficients(rho)
        torch.testing.assert_close(found, 0.5 * (whole - whole.mT))


def test_nothing_dissipated_stays_so():
    still = undamped(Conservative().scaled(canonical(2)))
    assert still.num_parameters == 0
    assert not still.matrix(torch.zeros(0).double()).any()


def user_slope(scaling, slope):
    """``dH/dx`` from ``dH~/dz``."""
    return scaling.energy_scale * slope / scaling.scale


def user_force(scaling, damping, slope, rho, z=None):
    """What is taken from dx/dt."""
    z = torch.zeros_like(slope) if z is None else z
    return scaling.velocity_scale * damping.force(z, slope, rho)


@pytest.mark.parametrize("positions", [False, True])
def test_diagonal_friction_in_user_units(positions):
    """``dx_i/dt`` loses ``eta_i dH/dx_i``."""
    scaling, slope = canonical(2, seed=3), randn(5, 4)
    damping = DiagonalFriction(positions=positions).scaled(scaling)
    rho = draws(damping, 1)[0]
    eta = damping.coefficients(rho)
    assert eta.shape == (4 if positions else 2,)
    full = eta if positions else torch.cat([torch.zeros(2).double(), eta])
    torch.testing.assert_close(
        user_force(scaling, damping, slope, rho), full * user_slope(scaling, slope)
    )


@pytest.mark.parametrize("name", ["matrix", "fourier", "network", "gradient", "gradient-fourier"])
def test_matrices_in_user_units(name):
    """``dx/dt`` loses ``D dH/dx``, where the matrix varies at the centre of the data."""
    scaling, slope = canonical(2, seed=3), randn(5, 4)
    damping = FAMILIES[name].scaled(scaling)
    rho = draws(damping, 1)[0]
    block = damping.coefficients(rho)
    full = torch.zeros(4, 4).double()
    full[4 - len(block) :, 4 - len(block) :] = block
    expected = user_slope(scaling, slope) @ full.mT
    torch.testing.assert_close(user_force(scaling, damping, slope, rho), expected)


@pytest.mark.parametrize("common", [False, True])
def test_drag_is_the_gradient_of_its_function_in_user_units(common):
    """``F = grad D(v)`` with the formulas of D, v = dH/dp, D convex and least at rest."""
    scaling = canonical(2, seed=3)
    family = Rayleigh(common=common, smoothing=0.1)
    damping = family.scaled(scaling)
    rho, slope = draws(damping, 1)[0], randn(5, 4)
    c = damping.coefficients(rho)
    assert c.shape == ((3,) if common else (3, 2))
    assert bool((c > 0).all())
    scale_q, spread_q = scaling.scale[:2], scaling.spread[:2]
    typical = scale_q * spread_q / scaling.time_scale
    eps = 0.1 * (typical.norm() if common else typical)

    def rayleigh(v):
        squared = v.square().sum() if common else v.square()
        terms = (squared / 2, (squared + eps**2).sqrt(), squared**1.5 / 3)
        return sum((c[k] * terms[k]).sum() for k in range(3))

    velocity = user_slope(scaling, slope)[:, 2:]
    expected = torch.stack([torch.func.grad(rayleigh)(v) for v in velocity])
    found = user_force(scaling, damping, slope, rho)
    torch.testing.assert_close(found[:, 2:], expected)
    assert not found[:, :2].any()
    for v in velocity:
        curvature = torch.func.hessian(rayleigh)(v)
        assert torch.linalg.eigvalsh(curvature).min() > 0


@pytest.mark.parametrize("drag", ["linear", "coulomb", "quadratic"])
def test_every_drag_at_the_typical_speed_is_the_linear_one(drag):
    """So that one prior serves them all."""
    damping = Rayleigh(drag=drag, smoothing=1e-3).scaled(canonical(1, seed=3))
    slope = torch.cat([tensor([0.0]), damping.typical])[None]
    force = damping.force(slope, slope, tensor([0.0]))
    assert (force[0, 1] / damping.typical[0]).item() == pytest.approx(0.1, rel=1e-5)


@pytest.mark.parametrize("common", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_drag_has_derivatives_at_rest(common, dtype):
    scaling = canonical(2).to(dtype=dtype)
    damping = Rayleigh(common=common).scaled(scaling)
    rest, rho = torch.zeros(1, 4, dtype=dtype), damping.start()
    for kind in (damping, ScaledDissipation):
        own = () if kind is damping else (damping,)
        assert not kind.parameter_jacobian(*own, rest, rest, rho).any()
        jacobian = kind.slope_jacobian(*own, rest, rest, rho)[0]
        assert bool(torch.isfinite(jacobian).all())
        assert not jacobian[:2].any()
        assert jacobian[2:, 2:].diagonal().min() > 0


def test_common_drag_goes_against_the_velocity():
    """The Euclidean norm of user velocities: no direction is special, whatever the scales."""
    scaling = canonical(3, seed=3)
    damping = Rayleigh(common=True).scaled(scaling)
    slope = randn(6, 6)
    force = user_force(scaling, damping, slope, damping.start())[:, 3:]
    ratio = force / user_slope(scaling, slope)[:, 3:]
    torch.testing.assert_close(ratio, ratio[:, :1].expand(-1, 3))


@pytest.mark.parametrize("name", ["fourier", "gradient-fourier"])
def test_entries_have_one_prior_variance_at_all_states(name):
    damping = build(name, 2)
    num = damping.factors.num_entries
    z = 3.0 * randn(5, 4)
    every = torch.eye(num).double().expand(5, num, num)
    slopes = damping.functions.pull_back(every, z, damping.start())
    variance = (slopes**2 * damping.prior_stddev**2).sum(-1)
    torch.testing.assert_close(variance, variance[:1].expand_as(variance))
    assert variance[0, 0].item() == pytest.approx(0.25)


def test_friction_of_an_angle_is_periodic():
    scaling = canonical(2, seed=3)
    damping = StateDependentFriction(periodic=(1,), num_features=6).scaled(scaling)
    rho, z = draws(damping, 1, 3.0)[0], randn(5, 4)
    turned = z + 2 * math.pi * torch.eye(4).double()[1] / scaling.scale
    torch.testing.assert_close(damping.matrix(rho, turned), damping.matrix(rho, z))
    halfway = damping.matrix(rho, 0.5 * (z + turned))
    assert (halfway - damping.matrix(rho, z)).abs().max() > 1e-2


def test_rank_is_that_of_the_factor():
    damping = StateDependentFriction(rank=2).scaled(canonical(3))
    matrix = damping.matrix(draws(damping, 1)[0], randn(4, 6))
    values = torch.linalg.svdvals(matrix)
    assert bool((values[:, 2:] < 1e-12 * values[:, :1]).all())
    assert bool((values[:, 1] > 1e-6).all())


def test_matrices_vary_with_the_state_and_with_the_seed():
    one, other = (StateDependentFriction(seed=s).scaled(canonical(1)) for s in (0, 1))
    rho, z = draws(one, 1)[0], randn(6, 2)
    assert one.matrix(rho, z)[:, 1, 1].std() > 0.01
    assert not torch.allclose(one.matrix(rho, z), other.matrix(rho, z))


def test_positive_numbers_are_exponential_below_their_scale_and_linear_above():
    curve = PositiveCurve(scale=2.0, median=0.1, steepness=1.5)
    values = curve.value(tensor([0.0, -5.0, -6.0, 20.0, 21.0, -1000.0]))
    assert values[0].item() == pytest.approx(0.1)
    assert (values[1] / values[2]).log().item() == pytest.approx(1.5, rel=1e-3)
    assert (values[4] - values[3]).item() == pytest.approx(3.0)
    assert bool((values >= 0).all())
    assert not curve.slope(tensor([-1000.0])).isnan().any()


@pytest.mark.parametrize("found", [0.2, 0.05, 0.01, 0.0])
@pytest.mark.parametrize("squared", [False, True])
def test_a_normal_approximation_serves_friction_that_data_determine_or_bound(found, squared):
    """Of ``eta = found +- 0.005``, against the posterior on a grid."""
    curve = PositiveCurve.of_root(1.0) if squared else PositiveCurve.of_friction(1.0)
    power, error = 1 + squared, 0.005
    rho = torch.linspace(-6, 6, 200_001, dtype=torch.float64)
    eta = curve.value(rho) ** power
    log_density = -0.5 * ((eta - found) / error) ** 2 - 0.5 * rho**2
    exact = log_density.softmax(0)
    best = rho[log_density.argmax()]
    lever = power * curve.value(best) ** (power - 1) * curve.slope(best)
    about = (-0.5 * (lever**2 / error**2 + 1.0) * (rho - best) ** 2).softmax(0)
    mean, approximate = (exact * eta).sum(), (about * eta).sum()
    assert abs(approximate - mean) < 0.6 * error
    if found > 3 * error:
        spread = ((about * (eta - approximate) ** 2).sum()).sqrt()
        assert spread.item() == pytest.approx(error, rel=0.1)


def test_undamped_stands_for_any_family():
    still = Undamped(2, (3, 1), tensor([1.0, 2.0]))
    rho = torch.zeros(5, 2).double()
    assert still.coefficients(rho).shape == (5, 3, 1)
    assert still.start().tolist() == [0.0, 0.0]
    assert not still.truncated
    assert replace(still, truncated=True).truncated


BAD = [
    (lambda: DiagonalFriction(prior_scale=-1.0), "prior_scale: expected a positive number, got -1"),
    (lambda: MatrixFriction(prior_scale=math.inf), "prior_scale: expected a positive number"),
    (lambda: StateDependentFriction(features="spline"), "features: expected one of 'fourier'"),
    (lambda: StateDependentFriction(num_features=0), "num_features: expected an integer of"),
    (lambda: StateDependentFriction(rank=0), "rank: expected an integer of at least 1, got 0"),
    (lambda: StateDependentFriction(rank=3).scaled(canonical(2)), "rank: expected at most 2"),
    (lambda: StateDependentFriction(prior_scale=0.0), "prior_scale: expected a positive"),
    (lambda: StateDependentFriction(lengthscale=0.0), "lengthscale: expected a positive number"),
    (lambda: StateDependentFriction(seed=-1), "seed: expected an integer of at least 0, got -1"),
    (lambda: StateDependentFriction(period=0.0), "period: expected a positive number"),
    (lambda: StateDependentFriction(periodic=(-1,)), "periodic: expected an integer"),
    (
        lambda: StateDependentFriction(periodic=(2,)).scaled(canonical(2)),
        r"periodic: expected coordinates below 2, got \(2,\)",
    ),
    (
        lambda: StateDependentFriction(features="network", periodic=(0,)),
        "periodic: a network has no angles",
    ),
    (lambda: Rayleigh(drag="cubic"), "drag: expected one of 'linear', 'coulomb', 'quadratic', got"),
    (lambda: Rayleigh(drag=()), "drag: expected different kinds of drag"),
    (lambda: Rayleigh(drag=("linear", "linear")), "drag: expected different kinds of drag"),
    (lambda: Rayleigh(smoothing=0.0), "smoothing: expected a positive number"),
    (lambda: Rayleigh(prior_scale=-2.0), "prior_scale: expected a positive number"),
    (lambda: GradientField(skew_scale=-0.1), "skew_scale: expected a number of at least zero"),
    (lambda: GradientField(prior_scale=0.0), "prior_scale: expected a positive number"),
    (lambda: GradientField(features="rbf"), "features: expected one of 'fourier', 'network'"),
    (lambda: GradientField(periodic=(0,)), "periodic: only features='fourier' have angles"),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
