"""Factorisations of matrices that rounding made indefinite: what is added, said and refused."""

import ast
import math
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import randn

import sympgp
from sympgp.cholesky import JitterWarning, NotPositiveDefiniteError, cholesky

TYPES = (torch.float32, torch.float64)
NAME = "the precision of the examples"
# In trial steps of searches failing is a normal signal, answered with more damping.
PLAIN = {"shooting/levenberg_marquardt.py", "inference/networks/linear_gaussian.py"}


def definite(size: int, *batch: int, dtype=torch.float64, seed: int = 0):
    rows = randn(*batch, 2 * size, size, seed=seed).to(dtype)
    return rows.mT @ rows


def singular(size: int, dtype, seed: int = 0):
    """Of rank one, below zero by some of its rounding errors."""
    row = randn(1, size, seed=seed).to(dtype)
    cov = row.mT @ row
    return cov - 4 * size * torch.finfo(dtype).eps * cov.diagonal().mean() * torch.eye(size).to(cov)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_can_be_factorised_is_left_as_it_is(dtype):
    matrix = definite(5, 3, dtype=dtype)
    assert torch.equal(cholesky(matrix, NAME), torch.linalg.cholesky(matrix))
    assert cholesky(matrix[:, :0, :0], NAME).shape == (3, 0, 0)


@pytest.mark.parametrize("dtype", TYPES)
def test_the_jitter_is_the_difference_and_the_warning_says_it_and_whose_it_is(dtype):
    matrix = singular(6, dtype)
    with pytest.warns(JitterWarning, match=NAME) as caught:
        factor = cholesky(matrix, NAME)
    text = str(caught[0].message)
    assert len(caught) == 1 and "6 x 6" in text and str(dtype).removeprefix("torch.") in text
    jitter = float(text.split("rounding: ")[1].split(" of its")[0])
    eps = torch.finfo(dtype).eps
    assert 6 * eps * 0.9 <= jitter <= eps**0.5 * 1.1
    added = factor @ factor.mT - matrix
    expected = jitter * matrix.diagonal().mean() * torch.eye(6).to(matrix)
    atol = 0.06 * float(expected.max())  # the message has two digits, the product eps of its size
    torch.testing.assert_close(added, expected, rtol=0.0, atol=atol)
    assert ("float64" in text.split(";")[1]) == (dtype == torch.float32)


def test_each_matrix_of_a_batch_has_its_own_jitter():
    fine, bad = definite(4), singular(4, torch.float64)
    with pytest.warns(JitterWarning):
        factors = cholesky(torch.stack([fine, bad]), NAME)
    assert torch.equal(factors[0], torch.linalg.cholesky(fine))
    with pytest.warns(JitterWarning):
        assert torch.equal(factors[1], cholesky(bad, NAME))


@settings(max_examples=20)
@given(st.integers(-60, 60), st.integers(1, 12), st.integers(0, 99))
def test_units_do_not_matter(power, size, seed):
    """``cholesky(4^k A) = 2^k cholesky(A)`` in every bit, jitter included."""
    matrix = singular(size, torch.float64, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", JitterWarning)
        if size == 1:
            matrix = matrix.abs()
        found, other = (cholesky(unit * matrix, NAME) for unit in (1.0, 4.0**power))
    assert torch.equal(other, 2.0**power * found)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_far_from_definite_is_refused_by_name(dtype):
    matrix = torch.diag(torch.tensor([1.0, -0.5, 2.0], dtype=dtype))
    with pytest.raises(NotPositiveDefiniteError, match=f"{NAME}.*-5.00e-01 to 2.00e\\+00"):
        cholesky(matrix, NAME)
    with pytest.raises(torch.linalg.LinAlgError):  # what searches answer with more damping
        cholesky(torch.zeros(2, 2, dtype=dtype), NAME)


@pytest.mark.parametrize("entry", [math.nan, math.inf])
@pytest.mark.parametrize("place", [(0, 0), (2, 0), (2, 2)])
def test_nothing_that_is_not_finite_comes_out(entry, place):
    matrix = definite(3, 2)
    matrix[(1, *place)] = entry
    with pytest.raises(NotPositiveDefiniteError, match=f"{NAME}.*not finite"):
        cholesky(matrix, NAME)


def test_derivatives_are_those_of_the_factorisation():
    root = randn(6, 3).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda r: cholesky(r.mT @ r, NAME), root)


def test_derivatives_are_those_with_the_jitter_as_a_constant():
    """Of a matrix with a pivot of zero alone, and of one beside a matrix that needs no jitter."""
    eye, ones = torch.eye(2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    for values in (ones, torch.stack([2.0 * eye + ones, ones])):
        matrix = values.clone().requires_grad_()
        with pytest.warns(JitterWarning):
            factor = cholesky(matrix, NAME)
        amount = (factor @ factor.mT - values).detach().diagonal(dim1=-2, dim2=-1).mean(-1)
        other = values.clone().requires_grad_()
        expected = torch.linalg.cholesky(other + amount[..., None, None] * eye)
        torch.testing.assert_close(factor, expected)
        (found,) = torch.autograd.grad(factor.sum(), matrix)
        (wanted,) = torch.autograd.grad(expected.sum(), other)
        assert found.isfinite().all()
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)


def test_no_module_factorises_without_a_name():
    package = Path(sympgp.__file__).parent
    found = [
        f"{source.relative_to(package)}:{node.lineno}"
        for source in sorted(package.rglob("*.py"))
        if source.relative_to(package).as_posix() not in PLAIN
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.linalg.cholesky"
    ]
    assert not found
