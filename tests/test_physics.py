"""Energies from known formulas: derivatives, units, priors, momenta, refusals."""

import math

import pytest
import torch
from problems import canonical, randn, tensor
from torch import distributions as dist

from sympgp.energies import CallableBasis, ExpressionBasis, NonlinearBasis, PhysicsEnergy
from sympgp.energies.base import LogNormal
from sympgp.energies.priors import prior_of
from sympgp.phase_space import symplectic_matrix

PENDULUM = "p**2/(2*m*l**2) - m*9.81*l*cos(q)"
PRIORS = {"m": dist.LogNormal(0.0, 0.3), "l": dist.HalfNormal(1.0)}
COUPLED = "p1**2/(2*m) + p1*p2/3 + p2**2/2 + k*(q1 - q2)**2/2 + cos(q1)*a"
COUPLED_PRIORS = {"m": dist.LogNormal(0.0, 0.3), "k": dist.Normal(2.0, 0.5), "a": 0.7}


def pendulum(q, p, m, l):  # noqa: E741
    return (p**2 / (2 * m * l**2) - m * 9.81 * l * torch.cos(q)).squeeze(-1)


def coupled(q, p, *, m, k, a):
    kinetic = p[..., 0] ** 2 / (2 * m) + p[..., 0] * p[..., 1] / 3 + p[..., 1] ** 2 / 2
    return kinetic + k * (q[..., 0] - q[..., 1]) ** 2 / 2 + a * torch.cos(q[..., 0])


class Morse(NonlinearBasis):
    """Only a value: three weights, one of them not in the momenta's part."""

    def __init__(self) -> None:
        self.num_weights = 3
        self.prior_variance = torch.ones(3, dtype=torch.float64)

    def value(self, z, w):
        depth, width, mass = (v.unsqueeze(-1) if w.dim() > 1 else v for v in w.unbind(-1))
        q, p = z.unbind(-1)
        return depth.exp() * (1 - torch.exp(-width * q)) ** 2 + 0.5 * mass.exp() * p**2


def bases():
    scaling = canonical(1), canonical(2, seed=4)
    return {
        "string": PhysicsEnergy(PENDULUM, PRIORS).in_units(scaling[0]).basis(),
        "function": PhysicsEnergy(pendulum, PRIORS).in_units(scaling[0]).basis(),
        "string-2": PhysicsEnergy(COUPLED, COUPLED_PRIORS, 2).in_units(scaling[1]).basis(),
        "function-2": PhysicsEnergy(coupled, COUPLED_PRIORS, 2).in_units(scaling[1]).basis(),
        "value": Morse(),
    }


@pytest.fixture(params=list(bases()))
def case(request):
    basis = bases()[request.param]
    dim = 4 if request.param.endswith("2") else 2
    w = 0.4 * randn(3, basis.num_weights, seed=1)
    return basis, 0.5 * randn(3, 5, dim), w


def slope_of(basis, z, w):
    return torch.func.grad(lambda x: basis.value(x, w))(z)


def test_gradients_are_those_of_the_value(case):
    basis, z, w = case
    assert not basis.linear
    expected = torch.stack(
        [torch.stack([slope_of(basis, x, v) for x in a]) for a, v in zip(z, w, strict=True)]
    )
    torch.testing.assert_close(basis.gradient_map(w)(z), expected)
    torch.testing.assert_close(basis.gradient_map(w[1])(z[1]), expected[1])
    torch.testing.assert_close(basis.gradient_map(w[:1])(z[:1]), expected[:1])
    torch.testing.assert_close(basis.gradient_map(w[1])(z[1, 0]), expected[1, 0])
    with torch.no_grad():
        torch.testing.assert_close(basis.gradient_map(w)(z), expected)
    torch.testing.assert_close(
        basis.value(z, w), torch.stack([basis.value(a, v) for a, v in zip(z, w, strict=True)])
    )


def test_features_are_the_derivatives_by_the_weights(case):
    basis, z, w = case
    at, v = z[0], w[0]
    features = torch.stack([torch.func.jacrev(lambda u, x=x: basis.value(x, u))(v) for x in at])
    torch.testing.assert_close(basis.features(at, v), features)
    gradients = torch.stack(
        [torch.func.jacrev(lambda u, x=x: slope_of(basis, x, u))(v) for x in at]
    )
    torch.testing.assert_close(basis.feature_gradient(at, v), gradients)
    shaped = basis.feature_gradient(z, v)
    assert shaped.shape == (*z.shape, basis.num_weights)
    torch.testing.assert_close(shaped[0], gradients)
    weights = randn(3, 2, 5, z.shape[-1], seed=7)
    expected = torch.einsum("bosd,bsdp->bop", weights, shaped)
    torch.testing.assert_close(basis.weighted_gradient(z, weights, v), expected)
    remainder = basis.gradient_map(v)(at) - gradients @ v
    torch.testing.assert_close(basis.remainder(at, v), remainder)


def test_second_derivatives_and_what_pulls_back(case):
    basis, z, w = case
    hessian = torch.stack([torch.func.hessian(lambda x: basis.value(x, w[0]))(x) for x in z[0]])
    torch.testing.assert_close(basis.hessian(z[0], w[0]), hessian)
    with torch.no_grad():
        known = basis.linearized(z, w)
        pull = randn(*z.shape, seed=9)
        pulled = known.pull_back(pull)
    torch.testing.assert_close(known.slope, basis.gradient_map(w)(z))
    torch.testing.assert_close(known.hessian[0], hessian)
    expected = torch.stack(
        [
            torch.einsum("bd,bdp->p", v, basis.feature_gradient(a, u))
            for v, a, u in zip(pull, z, w, strict=True)
        ]
    )
    torch.testing.assert_close(pulled, expected)
    assert not known.slope.requires_grad
    assert not known.hessian.requires_grad


def test_tangents_are_small_changes_of_the_weights(case):
    basis, z, w = case
    nominal, change = w[0], 0.3 * randn(*w.shape, seed=5)
    expected = (basis.feature_gradient(z, nominal) @ change[:, None, :, None]).squeeze(-1)
    tangent = basis.tangent_map(nominal, change)
    torch.testing.assert_close(tangent(z), expected)
    torch.testing.assert_close(basis.tangent_map(nominal, change[0])(z[0]), expected[0])
    J = symplectic_matrix(z.shape[-1] // 2)
    torch.testing.assert_close(tangent.transformed(J)(z), expected @ J.mT)
    torch.testing.assert_close(tangent.transformed(J).first()(z[:1]), expected[:1] @ J.mT)

    def second(x):
        step = 1e-6
        ends = (basis.hessian(x, nominal + s * step * change[0]) for s in (1, -1))
        return (next(ends) - next(ends)) / (2 * step)

    found = basis.tangent_hessian(z, nominal, change)
    torch.testing.assert_close(found[0], second(z[0]), atol=1e-7, rtol=1e-6)
    torch.testing.assert_close(basis.tangent_hessian(z[0], nominal, change[0]), found[0])


def test_gradient_maps_can_be_differentiated(case):
    """By weights and states, in reverse mode and inside function transforms."""
    basis, z, w = case
    pull = randn(*z.shape, seed=2)
    leaf, states = w.clone().requires_grad_(), z.clone().requires_grad_()
    J = symplectic_matrix(z.shape[-1] // 2)
    value = (pull * basis.gradient_map(leaf).transformed(J)(states)).sum()
    by_weights, by_states = torch.autograd.grad(value, (leaf, states))
    known = basis.linearized(z, w)
    torch.testing.assert_close(by_weights, known.pull_back(pull @ J))
    expected = (known.hessian @ (pull @ J).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(by_states, expected)
    forward = torch.func.jacfwd(lambda x: basis.gradient_map(w[0])(x))(z[0, 0])
    torch.testing.assert_close(forward, basis.hessian(z[0], w[0])[0])
    many = torch.func.vmap(lambda x: basis.hessian(x.unsqueeze(0), w[0]).squeeze(0))(z[0])
    torch.testing.assert_close(many, basis.hessian(z[0], w[0]))


def test_transformed_gradient_maps_multiply_from_the_left(case):
    basis, z, w = case
    plain = basis.gradient_map(w)
    J, own = symplectic_matrix(z.shape[-1] // 2), randn(3, z.shape[-1], z.shape[-1], seed=2)
    twice = plain.transformed(J).transformed(own)
    torch.testing.assert_close(twice(z), (plain(z) @ J.mT) @ own.mT)
    torch.testing.assert_close(twice.first()(z[:1]), twice(z)[:1])


@pytest.mark.parametrize("formula", [PENDULUM, pendulum])
def test_scaled_energies_are_those_in_user_units(formula):
    """``H~ = time_scale H / kappa`` at the same state, so that ``dz/ds`` is ``dx/dt`` rescaled."""
    energy, scaling = PhysicsEnergy(formula, PRIORS), canonical(1, seed=3)
    basis, x, w = energy.in_units(scaling).basis({}), randn(6, 2), randn(2, seed=1)
    own = energy.values(w)
    H = pendulum(*x.split(1, -1), **own)
    z = scaling.to_scaled(x)
    torch.testing.assert_close(basis.value(z, w), scaling.time_scale * H / scaling.kappa)
    J = symplectic_matrix(1)
    rate = energy.basis({}).gradient_map(w)(x) @ J.mT
    torch.testing.assert_close(basis.gradient_map(w)(z) @ J.mT * scaling.velocity_scale, rate)
    assert energy.hyperpriors(torch.ones(2)) == {}
    assert energy.redraw(3) is energy
    assert torch.equal(basis.prior_variance, torch.ones(2, dtype=torch.float64))
    with pytest.raises(ValueError, match="formula: expected states of 1 degree"):
        energy.in_units(canonical(2))


def test_strings_and_functions_agree():
    w = 0.5 * randn(4, 2, seed=3)
    found = bases()
    for one, other in (("string", "function"), ("string-2", "function-2")):
        z = randn(4, 6, 4 if one.endswith("2") else 2)
        torch.testing.assert_close(found[one].value(z, w), found[other].value(z, w))
    assert isinstance(found["string"], ExpressionBasis)
    assert isinstance(found["function"], CallableBasis)


def test_separability_is_read_from_the_formula():
    def separable(formula, num_dof=1):
        names = {"m": 1.0} if "m" in formula else {}
        return PhysicsEnergy(formula, names, num_dof).basis({}).separable

    assert separable("p**2/(2*m) + q**4")
    assert separable("p1**2 + p1*p2 + cos(q1 - q2)", 2)
    assert not separable("p**2/(2*m*(1 + q**2))")
    assert not separable("p1**2/2 + p2**2/2 + q1*p2 - q2*p1", 2)


def test_bases_are_rebuilt_from_their_fields():
    from dataclasses import fields

    for name in ("string", "function-2"):
        basis = bases()[name]
        again = type(basis)(**{f.name: getattr(basis, f.name) for f in fields(basis)})
        z, w = randn(5, len(basis.scale)), randn(basis.num_weights, seed=1)
        assert torch.equal(again.gradient_map(w)(z), basis.gradient_map(w)(z))


def test_known_numbers_leave_no_weights():
    basis = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": 2.0}).basis({})
    none, z = torch.zeros(0, dtype=torch.float64), randn(4, 2)
    assert basis.num_weights == 0
    assert basis.values(none) == {}
    slope = torch.stack([2.0 * z[:, 0].sin(), z[:, 1]], -1)
    torch.testing.assert_close(basis.gradient_map(none)(z), slope)
    torch.testing.assert_close(basis.remainder(z, none), slope)
    assert basis.features(z, none).shape == (4, 0)
    assert basis.feature_gradient(z, none).shape == (4, 2, 0)
    known = basis.linearized(z.expand(3, 4, 2), torch.zeros(3, 0, dtype=torch.float64))
    assert known.pull_back(known.slope).shape == (3, 0)


def test_single_precision_is_kept():
    for formula in (PENDULUM, pendulum):
        scaling = canonical(1).to(dtype=torch.float32)
        basis = PhysicsEnergy(formula, PRIORS).in_units(scaling).basis({})
        z, w = randn(4, 2).float(), randn(2).float()
        assert basis.gradient_map(w)(z).dtype == torch.float32
        assert basis.hessian(z, w).dtype == torch.float32
        assert basis.feature_gradient(z, w).dtype == torch.float32


def number(value):
    return torch.as_tensor(value, dtype=torch.float64)


DISTRIBUTIONS = [
    dist.Normal(number(1.0), number(0.3)),
    dist.LogNormal(number(0.5), number(0.3)),
    dist.HalfNormal(number(2.0)),
    dist.Uniform(number(-1.0), number(3.0)),
    dist.Exponential(number(0.7)),
    dist.Laplace(number(0.7), number(2.0)),
    dist.Cauchy(number(0.0), number(2.0)),
    dist.HalfCauchy(number(2.0)),
    dist.Gumbel(number(0.4), number(2.0)),
    dist.Weibull(number(2.0), number(1.5)),
    dist.Pareto(number(1.0), number(3.0)),
    dist.TransformedDistribution(
        dist.Normal(number(0.2), number(0.7)),
        [dist.SigmoidTransform(), dist.AffineTransform(number(1.0), number(2.0))],
    ),
]


@pytest.mark.parametrize("given", DISTRIBUTIONS, ids=lambda d: type(d).__name__)
def test_priors_put_the_weights_probability_on_the_parameter(given):
    """``F(T(w)) = Phi(w)``: the parameter has its prior's distribution, exactly."""
    prior, w = prior_of("k", given), torch.linspace(-4.0, 4.0, 33, dtype=torch.float64)
    value = prior.value(w)
    torch.testing.assert_close(given.cdf(value), 0.5 * torch.erfc(-w / math.sqrt(2.0)))
    step = 1e-6
    slope = (prior.value(w + step) - prior.value(w - step)) / (2 * step)
    torch.testing.assert_close(prior.slope(w), slope, rtol=1e-5, atol=1e-8)
    assert bool((prior.slope(tensor([0.0])) > 0).all())


@pytest.mark.parametrize("kind", [dist.HalfNormal, dist.Exponential])
def test_positive_priors_keep_their_digits_in_the_tails(kind):
    """Near zero the density is ``f(0)``, hence ``T(w) ~ Phi(w) / f(0)``; above, ``S(T) = Phi``."""
    given = kind(number(1.0))
    prior = prior_of("k", given)
    low = tensor([-12.0, -9.0])
    below = 0.5 * torch.erfc(-low / math.sqrt(2.0))
    torch.testing.assert_close(prior.value(low), below / given.log_prob(number(0.0)).exp())
    high = tensor([9.0, 12.0])
    survival = {
        dist.HalfNormal: lambda v: torch.erfc(v / math.sqrt(2.0)),
        dist.Exponential: lambda v: torch.exp(-v),
    }[kind](prior.value(high))
    torch.testing.assert_close(survival, 0.5 * torch.erfc(high / math.sqrt(2.0)), rtol=1e-6, atol=0)
    assert bool(prior.slope(torch.cat([low, high])).isfinite().all())


@pytest.mark.parametrize("given", DISTRIBUTIONS, ids=lambda d: type(d).__name__)
def test_priors_stay_finite_far_out(given):
    prior, w = prior_of("k", given), tensor([-30.0, -10.0, 10.0, 30.0])
    assert bool(prior.value(w).isfinite().all())
    assert bool(prior.slope(w).isfinite().all())
    assert prior.value(w.float()).dtype == torch.float32


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dist.Gamma(2.0, 1.0), "Gamma, the prior of 'k', has no quantile function"),
        (dist.Beta(2.0, 1.0), "Beta, the prior of 'k', has no quantile function"),
        (dist.Poisson(2.0), "has no quantile function"),
        (dist.Normal(torch.zeros(2), 1.0), r"got Normal of shape \(2,\)"),
        (dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), r"of shape \(2,\)"),
        ("one", "expected a number or a univariate distribution .* for 'k', got 'one'"),
        (True, "expected a number or a univariate"),
        (None, "expected a number or a univariate"),
        (math.nan, "expected a finite 'k'"),
    ],
)
def test_priors_that_cannot_serve_are_refused(given, message):
    with pytest.raises(ValueError, match=f"parameters: .*{message}"):
        PhysicsEnergy("p**2 + k*q**2", {"k": given})


@pytest.mark.parametrize("formula", [PENDULUM, pendulum])
def test_momenta_of_quadratic_kinetic_energies_are_exact(formula):
    energy = PhysicsEnergy(formula, PRIORS)
    q, velocity = randn(7, 1), randn(7, 1, seed=1)
    velocity[2] = math.nan
    m, length = energy.values(torch.zeros(2, dtype=torch.float64)).values()
    expected = m * length**2 * velocity
    torch.testing.assert_close(energy.momenta(q, velocity), expected, equal_nan=True)
    torch.testing.assert_close(energy.in_units(canonical()).momenta(q, velocity)[0], expected[0])


def test_momenta_solve_for_the_velocity():
    """Coupled masses that depend on the coordinates, and a relativistic kinetic energy."""
    q, velocity = randn(3, 5, 2), 0.4 * randn(3, 5, 2, seed=1)
    energy = PhysicsEnergy("(p1**2 + p2**2 - p1*p2*cos(q1 - q2))/(2 - cos(q1 - q2)**2)", {}, 2)
    p = energy.momenta(q, velocity)
    slope = energy.basis({}).gradient_map(torch.zeros(0).double())(torch.cat([q, p], -1))
    torch.testing.assert_close(slope[..., 2:], velocity)
    light = PhysicsEnergy("sqrt(1 + p**2)")
    v = tensor([[0.3], [-0.5]])
    torch.testing.assert_close(light.momenta(0.0 * v, v), v / (1 - v**2).sqrt())


def test_momenta_are_unknown_where_nothing_fixes_them():
    q, v = randn(4, 2), randn(4, 2, seed=1)
    assert PhysicsEnergy("(p1 + p2)**2 + q1**2", {}, 2).momenta(q, v) is None
    assert PhysicsEnergy("p + q**2").momenta(q[:, :1], v[:, :1]) is None
    assert PhysicsEnergy("sqrt(1 + p**2)").momenta(q[:1, :1], tensor([[1.5]])) is None


@pytest.mark.parametrize(
    ("formula", "parameters", "num_dof", "message"),
    [
        ("p**2 + k*q**2 + c*q", {"k": 1.0}, 1, "parameters: no prior or number for c, which"),
        ("p**2 + k*q**2", {"k": 1.0, "m": 2.0}, 1, "parameters: m is not in the formula"),
        ("p1**2 + q1**2", {}, 1, "formula: 'p1' is no coordinate of 1 degree.* q, p"),
        ("p**2 + q1**2", {}, 2, "formula: 'p' is no coordinate of 2 degree.* q1, q2, p1, p2"),
        ("p1**2 + q3**2", {}, 2, "formula: 'q3' is no coordinate"),
        ("k*2", {"k": 1.0}, 1, "formula: .* depends on neither q nor p"),
        ("p**2 + sin*q", {}, 1, "formula: sin without an argument"),
        ("p**2", {"q2": 1.0}, 1, "parameters: 'q2' is kept for something else"),
        ("p**2 + pi*q", {"pi": 3.0}, 1, "parameters: 'pi' is kept"),
        ("p**2", {"a b": 1.0}, 1, "parameters: expected names, got 'a b'"),
        ("p**2", {}, 0, "num_dof: expected a whole number of at least 1, got 0"),
    ],
)
def test_formulas_and_parameters_have_to_match(formula, parameters, num_dof, message):
    with pytest.raises(ValueError, match=message):
        PhysicsEnergy(formula, parameters, num_dof)


def square(q, p):
    return (p**2 + q**2).sum(-1)


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (lambda q, p, k: p**2 + k * q**2, r"expected energies of shape \(3,\).*got \(3, 1\)"),
        (lambda q, p, k: (p**2 + k * q**2).sum(), r"expected energies of shape \(3,\).*got \(\)"),
        (lambda q, p, k: 1.0, "expected a tensor of energies, got float"),
        (lambda q, p, k: (k * square(q, p)).detach(), "expected a differentiable result"),
        (lambda q, p, k: k * square(q.detach(), p.detach()), "depends on q or p differentiably"),
        (lambda q, p, k: square(q, p) > 0, "expected real numbers, got torch.bool"),
        (lambda q, p, k: k * square(q, p) / q.shape[0], "every state to be treated by itself"),
        (lambda q, p, k: k * square(q, p) * (1 if k > 0 else 2), "for several draws at once"),
        (lambda q, p, k: k * torch.cos(q) @ p.mT, "expected energies of shape|cannot be evaluated"),
        (lambda q, p, k: q.missing, "cannot be evaluated at q and p"),
        (lambda q: q, "expected a function of q, p and the parameters"),
    ],
)
def test_functions_that_are_no_energy_are_refused(formula, message):
    with pytest.raises(ValueError, match=f"formula: .*({message})"):
        PhysicsEnergy(formula, {"k": dist.LogNormal(0.0, 1.0)})


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        (lambda q, p, k, c: k * c * square(q, p), "no prior or number for c"),
        (lambda q, p: square(q, p), "k is not in the formula"),
        (lambda q, p, k: square(q, p), "the formula does not depend on 'k' differentiably"),
        (lambda q, p, **own: own["k"] * square(q, p) * own["c"], None),
    ],
)
def test_functions_have_to_take_the_parameters(formula, message):
    message = f"parameters: .*{message}" if message else "formula: cannot be evaluated.*'c'"
    with pytest.raises(ValueError, match=message):
        PhysicsEnergy(formula, {"k": dist.LogNormal(0.0, 1.0)})


def test_functions_may_take_defaults_and_any_keywords():
    prior = {"k": dist.LogNormal(0.0, 1.0), "c": 2.0}
    open_ended = PhysicsEnergy(lambda q, p, **own: own["k"] * square(q, p) * own["c"], prior)
    default = PhysicsEnergy(lambda q, p, k, c=5.0: k * square(q, p) * c, {"k": prior["k"]})
    w, z = torch.zeros(1, dtype=torch.float64), randn(3, 2)
    torch.testing.assert_close(open_ended.basis({}).value(z, w), 2.0 * square(*z.split(1, -1)))
    torch.testing.assert_close(default.basis({}).value(z, w), 5.0 * square(*z.split(1, -1)))


@pytest.mark.parametrize(
    "formula", ["p**2/2 + k*log(q)", lambda q, p, k: (p**2 / 2 + k * q.log()).squeeze(-1)]
)
def test_formulas_are_tried_on_the_data(formula):
    energy = PhysicsEnergy(formula, {"k": dist.LogNormal(0.0, 1.0)})
    x = tensor([[0.5, 1.0], [math.nan, 1.0], [2.0, -1.0]])
    energy.check(x)
    energy.check(tensor([[math.nan, 1.0]]))
    with pytest.raises(ValueError, match=r"formula: the energy is not finite at 1 of 3 states.*-2"):
        energy.check(torch.cat([x, tensor([[-2.0, 0.3]])]))
    with pytest.raises(ValueError, match="formula: expected states of 1 degree"):
        energy.check(randn(3, 4))
    root = PhysicsEnergy("p**2/2 + sqrt(q)")
    with pytest.raises(ValueError, match="its gradient is not finite at 1 of 1"):
        root.check(tensor([[0.0, 1.0]]))


def test_weights_are_needed():
    with pytest.raises(ValueError, match="w: expected weights"):
        bases()["string"].features(randn(3, 2))


def test_hyperpriors_of_the_package_are_priors_of_parameters():
    median = LogNormal(tensor(2.0), 0.5)
    energy = PhysicsEnergy("p**2/2 - k*cos(q)", {"k": median})
    again = PhysicsEnergy(
        "p**2/2 - k*cos(q)", {"k": dist.LogNormal(tensor(math.log(2.0)), tensor(0.5))}
    )
    assert energy.priors == again.priors
    object.__setattr__(median, "median", 2.0)  # a number, which has no type to be checked by
    assert PhysicsEnergy("p**2/2 - k*cos(q)", {"k": median}).priors == again.priors
    for wrong in (tensor([1.0, 1.0]), tensor(-1.0)):
        with pytest.raises(ValueError, match="parameters: expected one positive median of 'k'"):
            PhysicsEnergy("p**2/2 - k*cos(q)", {"k": LogNormal(wrong, 0.5)})
