"""Kolmogorov-Arnold networks: splines, derivatives, grids, pruning, names, and whole fits."""

import math
from dataclasses import replace

import jaxtyping
import matplotlib.pyplot as plt
import pytest
import torch
from problems import canonical, randn, tensor

import sympgp as sg
from sympgp.energies import (
    FittedFormula,
    KANBasis,
    KANEnergy,
    KANFunction,
    NonlinearBasis,
    PhysicsEnergy,
    Symbol,
    fit_formula,
    fit_function,
)
from sympgp.energies.splines import bsplines, greville
from sympgp.plots.kan import kan as kan_picture
from sympgp.posterior.parts import plain, rebuilt

LOW, HIGH = tensor([-1.0, 0.5]), tensor([2.0, 1.5])


def network(hidden=(5,), dim: int = 2, grid: int = 4, **options) -> KANFunction:
    """A network over the square of half-width 2."""
    two = 2.0 * torch.ones(dim, dtype=torch.float64)
    return KANFunction.on_box(-two, two, hidden, grid, **options)


def thinned(kan: KANFunction, seed: int = 0) -> KANFunction:
    """Without a third of its edges."""
    every = torch.arange(kan.edge_ends[-1])
    return replace(kan, edges=every[randn(len(every), seed=seed) > -0.4])


KINDS = {
    "one layer": network(()),
    "two layers": network((5,)),
    "three layers": network((3, 4), order=2),
    "thinned": thinned(network((4, 3), dim=4)),
    "angle": network((4,), periodic=(0,), waves=tensor([1.3])),
}


def places(num: int = 40) -> torch.Tensor:
    """Inputs of both channels, inside and beyond their grids."""
    share = torch.linspace(-0.4, 1.4, num, dtype=torch.float64).unsqueeze(-1)
    return LOW + share * (HIGH - LOW)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_splines_reproduce_constants_and_lines_everywhere(order):
    (values,) = bsplines(places(), LOW, HIGH, 5, order)
    torch.testing.assert_close(values.sum(-1), torch.ones_like(places()))
    line = values @ greville(5, order, LOW)
    middle, half = 0.5 * (LOW + HIGH), 0.5 * (HIGH - LOW)
    torch.testing.assert_close(middle + half * line, places())


@pytest.mark.parametrize("order", [2, 3, 4])
def test_splines_reproduce_polynomials_of_their_order(order):
    x = (LOW + torch.linspace(0.0, 1.0, 50, dtype=torch.float64)[:, None] * (HIGH - LOW))[:, :1]
    (values,) = bsplines(x, LOW[:1], HIGH[:1], 4, order)
    target = x**order - 0.3 * x
    weights = torch.linalg.lstsq(values[:, 0], target).solution
    torch.testing.assert_close(values[:, 0] @ weights, target)


def test_splines_are_positive_and_have_small_supports():
    x = places(201)
    inside = (x > LOW) & (x < HIGH)
    (values,) = bsplines(x, LOW, HIGH, 6, 3)
    assert bool((values[inside] >= 0).all())
    assert int((values[inside] > 0).sum(-1).max()) <= 4


@pytest.mark.parametrize("order", [2, 3, 4])
def test_written_derivatives_of_splines_are_those_of_the_values(order):
    x, weights = places().requires_grad_(), randn(2, 5 + order)
    value, first, second = bsplines(x, LOW, HIGH, 5, order, 2)
    (slope,) = torch.autograd.grad((value * weights).sum(), x, create_graph=True)
    torch.testing.assert_close((first * weights).sum(-1), slope)
    (curve,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close((second * weights).sum(-1), curve)


def test_beyond_the_grid_splines_are_tangents():
    ends, step = torch.stack([LOW, HIGH]), tensor([[-1.0], [1.0]])
    value, slope = bsplines(ends, LOW, HIGH, 5, 3, 1)
    (beyond,) = bsplines(ends + 0.7 * step, LOW, HIGH, 5, 3)
    torch.testing.assert_close(beyond, value + 0.7 * step.unsqueeze(-1) * slope)


class Differentiated(KANBasis):
    """The same with every derivative taken automatically."""

    features = NonlinearBasis.features
    feature_gradient = NonlinearBasis.feature_gradient
    weighted_gradient = NonlinearBasis.weighted_gradient
    gradient_map = NonlinearBasis.gradient_map
    hessian = NonlinearBasis.hessian
    linearized = NonlinearBasis.linearized


@pytest.mark.parametrize("kan", KINDS.values(), ids=KINDS)
def test_written_derivatives_are_those_of_the_value(kan):
    basis = KANBasis(kan, kan.unit_variance)
    reference = Differentiated(kan, kan.unit_variance)
    z, w = 2.0 * randn(3, 6, kan.dim), randn(3, kan.num_weights, seed=1)
    close = torch.testing.assert_close
    close(basis.features(z, w[0]), reference.features(z, w[0]))
    close(basis.feature_gradient(z, w[0]), reference.feature_gradient(z, w[0]))
    rows = randn(3, 5, 6, kan.dim, seed=2)
    close(basis.weighted_gradient(z, rows, w[0]), reference.weighted_gradient(z, rows, w[0]))
    close(basis.gradient_map(w)(z), reference.gradient_map(w)(z))
    close(basis.hessian(z[0], w[0]), reference.hessian(z[0], w[0]))
    found, expected = basis.linearized(z, w), reference.linearized(z, w)
    close(found.slope, expected.slope)
    close(found.hessian, expected.hessian)
    close(found.pull_back(z), expected.pull_back(z))
    value, slope, hessian = kan.jet(z, w)
    close(value, basis.bound(w)(z))
    close(slope, kan.gradient(z, w))
    close(hessian, expected.hessian)


@pytest.mark.parametrize("kan", KINDS.values(), ids=KINDS)
def test_every_draw_has_its_own_function(kan):
    z, w = randn(3, 6, kan.dim), randn(3, kan.num_weights, seed=1)
    one_by_one = torch.stack([kan(state, row) for state, row in zip(z, w, strict=True)])
    torch.testing.assert_close(kan(z, w), one_by_one)
    torch.testing.assert_close(torch.func.vmap(kan)(z, w), one_by_one)
    slopes = KANBasis(kan, kan.unit_variance).gradient_map(w)
    J = randn(3, kan.dim, kan.dim, seed=2)
    torch.testing.assert_close(slopes.transformed(J)(z), slopes(z) @ J.mT)
    torch.testing.assert_close(slopes.first()(z[:1]), slopes(z)[:1])


def test_edges_are_base_functions_and_splines():
    """By the formula, edge by edge."""
    kan = network((3,))
    z, w = 2.0 * randn(7, 2), randn(kan.num_weights, seed=1)
    x, first = z, 0
    for layer, (below, above) in enumerate([(2, 3), (3, 1)]):
        sums = torch.zeros(7, above, dtype=torch.float64)
        for i in range(below):
            for o in range(above):
                own = w[first : first + kan.per_edge]
                first += kan.per_edge
                lower, upper = (bound[i : i + 1] for bound in kan.ranges(layer))
                (splines,) = bsplines(x[:, i : i + 1], lower, upper, kan.grid, kan.order)
                base = x[:, i] / (1.0 + (-x[:, i]).exp())
                sums[:, o] += own[0] * base + splines[:, 0] @ (kan.root @ own[1:])
        x = sums
    torch.testing.assert_close(kan(z, w), x[:, 0])


def test_the_prior_of_splines_is_that_of_a_smooth_process():
    """A Matern-5/2 covariance, up to what grids blur and the coefficients' own small share."""
    x = torch.linspace(-1.8, 1.8, 9, dtype=torch.float64).unsqueeze(-1)
    distance = math.sqrt(5.0) * (x - x.mT).abs() / 2.0
    expected = (1.0 + distance + distance.square() / 3.0) * (-distance).exp()
    errors = []
    for grid in (5, 10, 40):
        kan = network((), dim=1, grid=grid)
        features = kan.features(x, torch.zeros(kan.num_weights, dtype=torch.float64))[:, 1:]
        errors.append(float((features @ features.mT - expected).abs().max()))
    assert errors[0] < 0.1 and errors[1] < 0.03 and errors[2] < 0.005


def test_the_last_layer_is_linear_and_comes_last():
    kan = network((3, 4))
    z, w = randn(6, 2), randn(kan.num_weights)
    last, moved = kan.last_layer, torch.zeros(kan.num_weights, dtype=torch.float64)
    moved[last] = randn(4 * kan.per_edge, seed=1)
    assert last.stop == kan.num_weights
    change = kan(z, w + moved) - kan(z, w)
    torch.testing.assert_close(kan(z, w + 3.0 * moved) - kan(z, w), 3.0 * change)
    torch.testing.assert_close(change, kan.features(z, w) @ moved)


@pytest.mark.parametrize("kan", [network((4,)), thinned(network((4, 5)))])
def test_dropout_takes_hidden_nodes_away(kan):
    factors = kan.dropout(0.4, 200, torch.Generator().manual_seed(0))
    kept = torch.full_like(factors, 1.0 / 0.6)
    inner = slice(kan.layer_edges[0] * kan.per_edge, None)
    assert bool((factors[:, : inner.start] == 1.0).all())
    after = factors[:, inner]
    assert bool(((after == 0.0) | (after == kept[:, inner])).all())
    assert float(after.mean()) == pytest.approx(1.0, abs=0.1)
    nodes = kan.coefficients(factors[0] * torch.ones_like(factors[0]))[1]
    dropped = (nodes == 0.0).all(-1)
    present = kan.present(1)
    for node in range(kan.widths[1]):
        own = dropped[node][present[node]]
        assert bool(own.all()) or not bool(own.any())


@pytest.mark.parametrize("grid", [8, 12])
def test_nested_grids_keep_every_function(grid):
    kan = network((3, 2), grid=4)
    w, z = randn(2, kan.num_weights), 3.0 * randn(2, 50, 2, seed=1)
    finer, weights = kan.refined(grid, w)
    assert finer.grid == grid
    torch.testing.assert_close(finer(z, weights), kan(z, w))
    torch.testing.assert_close(finer.hessian(z, weights), kan.hessian(z, w), atol=1e-6, rtol=1e-6)


def test_adapted_grids_keep_functions_at_the_data():
    kan = network((3,), grid=4)
    w, z = 0.5 * randn(kan.num_weights), 0.6 * randn(80, 2, seed=1)
    finer, weights = kan.refined(40, w, z, adapt=True)
    inputs = [x for x, _ in finer.edge_values(z, weights)]
    for layer, x in enumerate(inputs):
        lower, upper = finer.ranges(layer)
        assert bool((x > lower - 1e-3).all() and (x < upper + 1e-3).all())
    torch.testing.assert_close(finer(z, weights), kan(z, w), atol=1e-3, rtol=0)
    with pytest.raises(ValueError, match="z: expected states"):
        kan.refined(8, w, adapt=True)


def test_the_penalty_is_the_size_and_the_entropy_of_the_edges():
    kan = network((3,))
    z, w = randn(40, 2), randn(2, kan.num_weights, seed=1)
    expected = torch.zeros(2, dtype=torch.float64)
    for s in range(2):
        for _, values in kan.edge_values(z, w[s]):
            sizes = (values - values.mean(0)).abs().mean(0)
            shares = sizes / sizes.sum()
            expected[s] += sizes.sum() - 0.7 * (shares * shares.log()).sum()
    torch.testing.assert_close(kan.penalty(z, w, 0.7), expected)
    torch.testing.assert_close(kan.penalty(z, w[0], 0.7), expected[0])
    nothing = torch.zeros(kan.num_weights, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(kan.penalty(z, nothing), nothing)
    assert bool(slope.isfinite().all())


def test_constants_cost_nothing():
    kan = network((3,))
    z, w = randn(40, 2), randn(kan.num_weights, seed=1)
    shifted = kan.coefficients(w)
    # the constant of a last edge only: those of others move what comes after
    shifted[1] = torch.cat([shifted[1][..., :1], shifted[1][..., 1:] + 2.0], -1)
    moved = kan.weights(shifted)
    torch.testing.assert_close(kan(z, moved) - kan(z, w), torch.full((40,), 6.0).double())
    torch.testing.assert_close(kan.penalty(z, moved), kan.penalty(z, w))


def constant_edges(kan: KANFunction, w: torch.Tensor, chosen) -> torch.Tensor:
    """With these edges (layer, source, target) made constants."""
    coefficients = kan.coefficients(w)
    for layer, i, o in chosen:
        coefficients[layer][i, o] = 0.4
        coefficients[layer][i, o, 0] = 0.0
    return kan.weights(coefficients)


def test_pruning_takes_dead_edges_away_and_nothing_else():
    kan = network((3, 4))
    z = 1.5 * randn(60, 2)
    dead = [(0, 0, 1), (1, 2, 0), (1, 1, 3), (2, 3, 0)]
    w = constant_edges(kan, randn(kan.num_weights, seed=1), dead)
    small, weights = kan.pruned(z, w, 1e-6)
    # node 3 of the last hidden layer leads nowhere, and its other two edges go with it
    assert small.widths == (2, 3, 3, 1)
    assert small.layer_edges == (5, 8, 3)
    assert small.num_weights == 16 * kan.per_edge
    torch.testing.assert_close(small(z, weights), kan(z, w))
    torch.testing.assert_close(small.hessian(z, weights), kan.hessian(z, w))


def test_pruning_without_dead_edges_changes_nothing():
    kan = network((3,))
    z, w = randn(60, 2), randn(kan.num_weights, seed=1)
    small, weights = kan.pruned(z, w, 1e-9)
    assert small.widths == kan.widths and small.edges is None
    torch.testing.assert_close(weights, w)
    with pytest.raises(ValueError, match="threshold: expected one that leaves edges"):
        kan.pruned(z, w, 1e6)


def test_importances_are_what_the_output_loses():
    kan = network((3,))
    z, w = randn(60, 2), randn(kan.num_weights, seed=1)
    sizes = kan.importances(z, w)
    _, edges = kan.edge_values(z, w)[1]
    last = (edges - edges.mean(0))[..., 0]
    expected = last.square().mean(0).sqrt() / kan(z, w).std()
    torch.testing.assert_close(sizes[1][:, 0], expected)
    assert [tuple(own.shape) for own in sizes] == [(2, 3), (3, 1)]


EDGES = {
    "x": (lambda x: 2.0 * x - 1.0, {"c": 2.0, "d": -1.0}),
    "x^2": (lambda x: 0.5 * (x + 0.3) ** 2, {"c": 0.5, "a": 1.0, "b": 0.3}),
    "x^3": (lambda x: (x - 0.5) ** 3 + 1.0, {"c": 1.0, "b": -0.5, "d": 1.0}),
    "sin": (lambda x: 2.0 * torch.sin(1.7 * x + 0.2), {"c": 2.0, "a": 1.7, "b": 0.2}),
    "cos": (lambda x: 1.0 - torch.cos(2.0 * x), {"c": -1.0, "a": 2.0, "d": 1.0}),
    "exp": (lambda x: 3.0 * torch.exp(-0.9 * x), {"c": 3.0, "a": -0.9, "d": 0.0}),
    "log": (lambda x: torch.log(x + 2.5), {"c": 1.0, "a": 1.0, "b": 2.5}),
    "sqrt": (lambda x: torch.sqrt(2.1 - x), {"c": 1.0, "a": -1.0, "b": 2.1}),
    "abs": (lambda x: 2.0 * (x + 0.4).abs(), {"c": 2.0, "b": 0.4}),
    "tanh": (lambda x: torch.tanh(1.5 * x), {"c": 1.0, "a": 1.5, "b": 0.0}),
    "1/x": (lambda x: 1.0 / (x + 2.6), {"c": 1.0, "b": 2.6}),
}


@pytest.mark.parametrize("name", EDGES)
def test_known_edges_get_their_names_and_numbers(name):
    """Of a spline that follows them on a fine grid."""
    function, numbers = EDGES[name]
    kan = network((), dim=1, grid=60)
    z = torch.linspace(-2.0, 2.0, 400, dtype=torch.float64).unsqueeze(-1)
    fitted = fit_function(kan, z, function(z[:, 0]), steps=20)
    (symbol,) = kan.symbols(z, fitted.weights, enough=0.9999)
    assert symbol.name == name
    assert symbol.r2 > 0.9999
    for letter, number in numbers.items():
        assert getattr(symbol, letter) == pytest.approx(number, abs=0.02)


def test_names_are_written_as_formulas():
    kan = network((), dim=1)
    z = torch.linspace(-2.0, 2.0, 50, dtype=torch.float64).unsqueeze(-1)
    fitted = fit_function(kan, z, 2.0 * (z[:, 0] - 1.0) ** 2 + 3.0)
    (symbol,) = kan.symbols(z, fitted.weights)
    assert str(symbol) == "2 (x - 1)^2 + 3  (R2 = 1.00000)"
    assert (symbol.layer, symbol.source, symbol.target) == (0, 0, 0)


def product(num: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``f(x, y) = x y`` on the square of half-width 1."""
    x = 2.0 * torch.rand(num, 2, generator=torch.Generator().manual_seed(seed)).double() - 1.0
    return x, x[:, 0] * x[:, 1]


def test_a_product_is_learned_and_read_as_squares():
    """KAN [2, 5, 1]; ``x y = ((x + y)^2 - (x - y)^2) / 4``, and sums like it."""
    one = torch.ones(2, dtype=torch.float64)
    kan = KANFunction.on_box(-one, one, hidden=(5,), grid=3)
    x, y = product(200, seed=0)
    new, truth = product(1000, seed=1)
    whole = fit_function(kan, x, y, steps=15)
    assert float((whole(new) - truth).square().mean().sqrt()) < 1e-3
    sparse = fit_function(kan, x, y, sparsity=0.03, ridge=1e-5, seed=3, steps=60)
    small, w = sparse.function.pruned(x, sparse.weights, 0.03)
    assert small.widths == (2, 2, 1)
    refined = fit_function(small, x, y, start=w, grids=(5,), steps=15)
    assert refined.errors[1] < refined.errors[0]
    assert float((refined(new) - truth).square().mean().sqrt()) < 1e-3
    symbols = small.symbols(x, w, enough=0.99)
    assert {symbol.name for symbol in symbols} == {"x", "x^2"}
    assert all(symbol.r2 > 0.98 for symbol in symbols)
    formula = fit_formula(symbols, x, y)
    torch.testing.assert_close(formula(new), truth)
    assert len(formula.symbols) == 6 and "(x " in formula.written(["x", "y"])


def squares(numbers: torch.Tensor) -> list[Symbol]:
    """``x``, ``y`` to two nodes, and the squares of these."""
    edges = [(0, i, o, "x") for i in range(2) for o in range(2)] + [
        (1, o, 0, "x^2") for o in (0, 1)
    ]
    return [Symbol(*edge, *row, 1.0) for edge, row in zip(edges, numbers.tolist(), strict=True)]


def test_formulas_are_fitted_as_a_whole_and_written_out():
    x, y = product(100, seed=0)
    signs = tensor([0.5, 0.7, 0.9, -0.6, 0.4, -0.3])
    symbols = squares(torch.stack([torch.ones(6), torch.zeros(6), signs, 0.1 * signs], -1))
    found = fit_formula(symbols, x, y)
    assert found.error < 1e-9 and found.symbols[0].r2 == pytest.approx(1.0)
    exact = tensor([0.5, 2.0, 0.5, -2.0, 1.0, -0.0625])
    symbols = squares(torch.stack([torch.ones(6), torch.zeros(6), exact, 0.0 * exact], -1))
    written = fit_formula(symbols, x, y, steps=0).written(["x", "y"])
    assert written == "0.25 (x + y)^2 - 0.25 (x - y)^2"
    with pytest.raises(ValueError, match="symbols: expected those"):
        fit_formula([], x, y)
    below = [Symbol(0, 0, 0, "log", 1.0, 0.0, 1.0, 0.0, 1.0)]
    with pytest.raises(ValueError, match="defined at the inputs"):
        fit_formula(below, x, y)


@pytest.mark.parametrize("outer", ["x", "x^2", "x^3", "1/x", "exp", "sin", "log", "abs"])
def test_formulas_are_written_in_one_way_without_becoming_others(outer):
    """Constants of hidden nodes and their scales move on; the function stays."""
    numbers = tensor([[1.0, 0.0, 0.8, 0.3], [1.0, 0.2, -0.6, 0.4], [0.7, 2.9, 1.3, 0.5]])
    edges = [(0, 0, 0, "x"), (0, 1, 0, "x^3"), (1, 0, 0, outer)]
    symbols = [Symbol(*e, *row, 1.0) for e, row in zip(edges, numbers.tolist(), strict=True)]
    if outer == "exp":
        symbols[2] = replace(symbols[2], b=0.0)
    if outer != "sin" and outer != "exp":
        symbols[2] = replace(symbols[2], a=1.0)
    if outer == "x":
        symbols[2] = replace(symbols[2], b=0.0)
    x, _ = product(50, seed=0)
    y = FittedFormula(tuple(symbols), 0.0)(x)
    found = fit_formula(symbols, x, y, steps=0)
    torch.testing.assert_close(found(x), y)
    assert found.symbols[0].d == found.symbols[1].d == 0.0


def test_of_several_starts_the_best_end_is_kept():
    x, y = product(60, seed=0)
    kan = network((2,), grid=3)
    errors = [fit_function(kan, x, y, starts=n, steps=6).errors[0] for n in (1, 2, 4)]
    assert errors == sorted(errors, reverse=True) and errors[2] < errors[0]


def test_no_states_have_no_energies():
    kan = network()
    none, w = torch.zeros(0, 2, dtype=torch.float64), randn(kan.num_weights)
    assert kan(none, w).shape == (0,)
    assert KANBasis(kan, kan.unit_variance).gradient_map(w)(none).shape == (0, 2)


def test_regressions_refuse_values_that_do_not_vary():
    x, _ = product(20, seed=0)
    with pytest.raises(ValueError, match="y: expected values that vary"):
        fit_function(network(), x, torch.ones(20).double())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"starts": 0}, "starts: expected a whole number of at least 1, got 0"),
        ({"x": randn(20, 3)}, r"x: expected shape \(N, 2\), got \(20, 3\)"),
        ({"x": randn(20)}, r"x: expected shape \(N, 2\), got \(20,\)"),
        ({"y": randn(19)}, r"y: expected shape \(20,\), one value an input, got \(19,\)"),
        ({"start": randn(3)}, r"start: expected shape \(135,\), got \(3,\)"),
    ],
)
def test_regressions_refuse_what_does_not_fit_together(given, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        fit_function(network(grid=5), **({"x": randn(20, 2), "y": randn(20)} | given))


def test_only_known_functions_are_tried():
    kan = network(())
    with pytest.raises(ValueError, match=r'names: expected one of "x", .*, got \'cube\''):
        kan.symbols(randn(20, 2), randn(kan.num_weights), names=("x", "cube"))


def energy_basis(energy: KANEnergy) -> KANBasis:
    spread = torch.ones(2 * energy.num_dof, dtype=torch.float64)
    return energy.basis({name: p.median for name, p in energy.hyperpriors(spread).items()})


def test_prior_variances_follow_the_scales():
    energy = KANEnergy(1, hidden=(4, 3))
    assert set(energy.hyperpriors(torch.ones(2).double())) == {"weight_scale", "signal_scale"}
    scales = {"weight_scale": tensor(0.7).requires_grad_(), "signal_scale": tensor(2.0)}
    basis = energy.basis(scales)
    edge = basis.function.per_edge
    variance = basis.prior_variance
    torch.testing.assert_close(variance[: 8 * edge], torch.full((8 * edge,), 0.49 / 2).double())
    torch.testing.assert_close(
        variance[8 * edge : 20 * edge], variance.new_full((12 * edge,), 0.1225)
    )
    torch.testing.assert_close(variance[20 * edge :], variance.new_full((3 * edge,), 4.0 / 3.0))
    assert variance.requires_grad
    small, w = basis.pruned(randn(30, 2), randn(basis.num_weights), 1e-9)
    torch.testing.assert_close(small.prior_variance, variance)
    assert set(KANEnergy(1, hidden=()).hyperpriors(torch.ones(2).double())) == {"signal_scale"}


def test_grids_span_the_data():
    states = randn(100, 4)
    states[3, 0] = math.nan
    seen = torch.cat([states[:3], states[4:]])
    states[:, 3] = 0.5
    energy = KANEnergy(2).prepare(states)
    lower, upper = energy_basis(energy).function.ranges(0)
    width = seen.amax(0) - seen.amin(0)
    torch.testing.assert_close(lower[1:3], (seen.amin(0) - 0.1 * width)[1:3])
    torch.testing.assert_close(upper[1:3], (seen.amax(0) + 0.1 * width)[1:3])
    assert (lower[3], upper[3]) == (-3.0, 3.0)
    assert bool(lower.isfinite().all())


def test_energies_of_angles_are_periodic():
    energy = KANEnergy(2, hidden=(3,), periodic=(1,), period=360.0)
    with pytest.raises(RuntimeError, match="in_units"):
        energy_basis(energy)
    assert energy.angles == {1: 360.0}
    scaling = canonical(2)
    basis = energy_basis(energy.in_units(scaling))
    z, w = randn(8, 4), randn(basis.num_weights, seed=1)
    turned = z.clone()
    turned[:, 1] += 360.0 / scaling.scale[1]
    torch.testing.assert_close(basis.value(turned, w), basis.value(z, w))
    torch.testing.assert_close(basis.hessian(turned, w), basis.hessian(z, w))


def test_without_hidden_nodes_energies_are_separable():
    basis = energy_basis(KANEnergy(2, hidden=()))
    assert basis.separable and not energy_basis(KANEnergy(2)).separable
    hessian = basis.hessian(randn(5, 4), randn(basis.num_weights, seed=1))
    off = hessian - torch.diag_embed(hessian.diagonal(dim1=-2, dim2=-1))
    assert float(off.abs().max()) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_dof": 0}, "num_dof: expected a whole number of at least 1, got 0"),
        ({"hidden": (3, 0)}, "hidden: expected"),
        ({"grid": 0}, "grid: expected"),
        ({"order": 1}, "order: expected a whole number of at least 2, got 1"),
        ({"smoothness": 0.0}, "smoothness: expected a positive number"),
        ({"smoothness": "a"}, "smoothness: expected a positive number, got 'a'"),
        ({"hidden": 5}, r"hidden: expected widths such as \(64, 64\), got 5"),
        ({"order": "a"}, "order: expected a whole number of at least 2, got 'a'"),
        ({"periodic": (1,)}, "periodic: expected coordinates"),
    ],
)
def test_energies_refuse_what_makes_none(options, message, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        KANEnergy(**({"num_dof": 1} | options))


def test_functions_refuse_what_makes_none():
    kan = network()
    with pytest.raises(ValueError, match="widths: expected inputs, hidden nodes and 1"):
        replace(kan, widths=(2, 5, 2))
    with pytest.raises(ValueError, match="lower, upper: expected 7 numbers"):
        replace(kan, lower=kan.lower[:3], upper=kan.upper[:3])
    with pytest.raises(ValueError, match="lower < upper"):
        replace(kan, lower=kan.upper)
    with pytest.raises(ValueError, match="order: expected"):
        replace(kan, order=1)


@pytest.mark.parametrize("kan", KINDS.values(), ids=KINDS)
def test_bases_come_back_from_files(kan, tmp_path):
    basis = KANBasis(kan, 2.0 * kan.unit_variance)
    torch.save(plain(basis, "energy"), tmp_path / "basis.pt")
    again = rebuilt(torch.load(tmp_path / "basis.pt", weights_only=True))
    z, w = randn(6, kan.dim), randn(kan.num_weights, seed=1)
    assert torch.equal(again.value(z, w), basis.value(z, w))
    assert torch.equal(again.prior_variance, basis.prior_variance)
    assert again.function.widths == kan.widths


@pytest.mark.parametrize("kan", KINDS.values(), ids=KINDS)
def test_single_precision_gives_the_same(kan):
    parts = {name: getattr(kan, name) for name in ("lower", "upper", "waves")}
    single = replace(kan, **{n: None if p is None else p.float() for n, p in parts.items()})
    z, w = randn(6, kan.dim), randn(kan.num_weights, seed=1)
    found = single.jet(z.float(), w.float())
    assert all(part.dtype == torch.float32 for part in found)
    for own, expected in zip(found, kan.jet(z, w), strict=True):
        torch.testing.assert_close(own.double(), expected, atol=2e-4, rtol=2e-4)
    features = single.features(z.float(), w.float())
    torch.testing.assert_close(features.double(), kan.features(z, w), atol=2e-4, rtol=2e-4)
    rows = single.initial(2, torch.Generator().manual_seed(0))
    assert rows.dtype == torch.float32 and single.unit_variance.dtype == torch.float32
    again = kan.initial(2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(rows.double(), again, atol=1e-6, rtol=1e-5)


def test_pictures_have_a_panel_an_edge():
    kan = thinned(network((3,), periodic=(1,), waves=tensor([1.0])))
    z, w = randn(30, 2), 0.3 * randn(5, kan.num_weights, seed=1)
    symbols = kan.symbols(z, w[0], names=("x", "sin"))
    panel = kan_picture(kan, z, w, names=["p", "angle"], output="energy", symbols=symbols)
    assert len(panel.child_axes) == sum(kan.layer_edges)
    assert all(len(inset.collections) == 1 for inset in panel.child_axes)
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["p", "cos angle", "sin angle", "energy"]
    names = [text.get_text() for inset in panel.child_axes for text in inset.texts]
    assert names == [symbol.name for symbol in symbols]
    plt.close(panel.figure)


def test_functions_are_drawn_about_their_means():
    kan = network((), dim=1)
    z = torch.linspace(-1.0, 1.5, 40, dtype=torch.float64).unsqueeze(-1)
    fitted = fit_function(kan, z, 2.0 * z[:, 0] + 5.0)
    _, ax = plt.subplots()
    assert kan_picture(KANBasis(kan, kan.unit_variance), z, fitted.weights, ax) is ax
    (line,) = ax.child_axes[0].lines
    x, y = (torch.as_tensor(values) for values in line.get_data())
    assert (float(x[0]), float(x[-1])) == (-1.0, 1.5)
    torch.testing.assert_close(y, 2.0 * (x - 0.25), atol=1e-4, rtol=0)
    with pytest.raises(ValueError, match="names: expected 1"):
        kan_picture(kan, z, fitted.weights, ax, names=["q", "p"])
    plt.close(ax.figure)


def test_in_a_sum_grids_span_the_data_too():
    states = 0.1 * randn(50, 2, seed=1)
    alone = KANEnergy(1, (3,)).prepare(states)
    both = (KANEnergy(1, (3,)) + PhysicsEnergy("p**2/2")).prepare(states)
    for mine, found in zip(alone._box, both.parts[0]._box, strict=True):
        torch.testing.assert_close(found, mine)


def test_a_posterior_shows_its_functions_and_their_names():
    q = torch.linspace(-1.0, 1.0, 7, dtype=torch.float64)
    x = torch.cartesian_prod(q, q)
    pairs = sg.StateDerivatives(x, torch.stack([x[:, 1], -x[:, 0]], 1), names=["angle", "rate"])
    model = sg.HamiltonianModel(KANEnergy(1, (), grid=3) + PhysicsEnergy("p**2/2"))
    posterior = sg.fit(model, pairs, inference=sg.MAP(num_steps=300), progress=False)
    assert posterior.symbols(("x", "x^2"))[0].name == "x^2"
    assert len(posterior.symbols()) == 2
    for threshold in (-0.1, math.nan, True):
        with pytest.raises(ValueError, match="threshold: expected a finite number of at least 0"):
            posterior.symbols(threshold=threshold)
    words = {text.get_text() for text in kan_picture(posterior).texts}
    assert {"angle", "rate"} <= words
    plt.close("all")
    plain_model = sg.fit(sg.SSGP(num_features=5), pairs, progress=False)
    for ask in (plain_model.symbols, lambda: kan_picture(plain_model)):
        with pytest.raises(TypeError, match="KANEnergy"):
            ask()
    basis = posterior.components[0].field.basis.parts[0]
    with pytest.raises(ValueError, match="expected scaled states"):
        kan_picture(basis)
