"""Formulas as strings: what is accepted, values, derivatives by rule, refusals."""

import math

import pytest
import torch
from problems import randn, tensor

from sympgp.energies.derivatives import Program, derivative, substituted
from sympgp.energies.expressions import FUNCTIONS, names_in, parse

NAMES = {"q": tensor([0.3, 0.7]), "p": tensor([0.5, 0.9]), "m": tensor(1.3), "l": tensor(0.6)}


def evaluated(text: str, values=NAMES):
    return Program([parse(text)])(values)[0]


@pytest.mark.parametrize(
    "text",
    [
        "p**2/(2*m*l**2) - m*9.81*l*cos(q)",
        "-q**2",
        "-(q - p)*+m",
        "2**-q",
        "q**p",
        "m - (l - q) - p",
        "q/p/m",
        "exp(-q**2)*log(p) + sqrt(q)",
        "  (q +\n   p)  ",
    ],
)
def test_values_are_those_of_the_same_line_of_python(text):
    known = {name: getattr(torch, name) for name in ("cos", "exp", "log", "sqrt")}
    expected = eval(" ".join(text.split()), {**known, **NAMES})
    torch.testing.assert_close(evaluated(text), expected)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_those_of_torch(name):
    x = tensor([1.2, 1.7]) if "cosh" in name and name[0] == "a" else tensor([0.2, 0.7])
    expected = getattr(torch, FUNCTIONS[name])(x)
    torch.testing.assert_close(evaluated(f"{name}(q)", {"q": x}), expected)


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS.values())))
def test_rules_are_the_derivatives_of_the_functions(name):
    x = (tensor([1.2, 1.7]) if name == "arccosh" else tensor([-0.4, 0.2, 0.7])).requires_grad_()
    x = x.detach()[x > 0].requires_grad_() if name in ("log", "sqrt") else x
    (expected,) = torch.autograd.grad(getattr(torch, name)(x).sum(), x)
    (found,) = Program([derivative(parse(f"{name}(q)"), "q")])({"q": x})
    torch.testing.assert_close(torch.as_tensor(found, dtype=x.dtype).expand(x.shape), expected)


FORMULAS = [
    "p**2/(2*m*l**2) - m*9.81*l*cos(q)",
    "exp(-m*q**2)/(1 + p**2) + tanh(q*p/l) - -sin(q)*(m - p)",
    "abs(q)**m + m**q + q**p - log(l + q)/sqrt(p)",
    "arctan(q/p)**3 + (q - p)/(m - q/l) - (l*2)/(3*q)",
]


@pytest.mark.parametrize("text", FORMULAS)
def test_first_to_third_derivatives_are_those_of_automatic_differentiation(text):
    names = list(NAMES)
    values = torch.stack([v.expand(2) for v in NAMES.values()])

    def energy(column):
        return evaluated(text, dict(zip(names, column, strict=True)))

    first = torch.func.grad(energy)
    second, third = torch.func.hessian(energy), torch.func.jacrev(torch.func.hessian(energy))
    trees = [derivative(parse(text), name) for name in names]
    more = [derivative(tree, name) for tree in trees for name in names]
    most = [derivative(tree, name) for tree in more for name in names]
    for program, expected in ((trees, first), (more, second), (most, third)):
        for i in range(2):
            column = values[:, i]
            found = Program(program)(dict(zip(names, column, strict=True)))
            found = torch.stack([torch.as_tensor(f, dtype=torch.float64) for f in found])
            torch.testing.assert_close(found, expected(column).flatten())


def test_powers_of_zero_with_an_unknown_exponent_have_finite_derivatives():
    tree = derivative(parse("abs(q)**m"), "m")
    (found,) = Program([tree])({"q": tensor([0.0, 2.0]), "m": tensor(2.0)})
    torch.testing.assert_close(found, tensor([0.0, 4.0 * math.log(2.0)]))


def test_derivatives_are_simplified():
    assert derivative(parse("p**2/2 + 3*q"), "p") == "p"
    assert derivative(parse("p**2/2 + 3*q"), "q") == 3.0
    assert derivative(parse("-m*cos(q)"), "q") == ("*", "m", ("sin", "q"))
    assert derivative(parse("p**2/(2*m) + q**4"), "m") != 0.0
    assert derivative(derivative(parse("p**2/(2*m) + q**4"), "q"), "p") == 0.0


def test_numbers_are_put_together():
    assert parse("2*pi/4") == math.pi / 2
    assert parse("-cos(0) + 2**3") == 7.0
    assert substituted(parse("q/(2*m)"), {"m": 0.25}) == ("*", 2.0, "q")


def test_common_parts_are_computed_once():
    program = Program([parse("sin(q*p)*m"), parse("sin(q*p) + m")])
    assert sum(step[0] is not None for step in program._steps) == 4


def test_names_are_those_written():
    assert set(names_in(parse("p**2/(2*m) + sin(q)*pi"))) == {"p", "m", "q"}


def test_any_dtype_is_kept():
    values = {"q": randn(4).float(), "p": randn(4).float(), "m": tensor(1.5).float()}
    assert evaluated("p**2/2 + 3*cos(q)*exp(m/7) - sqrt(2)", values).dtype == torch.float32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("p**2 + foo(q)", r"unknown function 'foo' \(known: abs, .*\) at column 8"),
        ("q.numpy()", "only functions called by their name are allowed, no attribute"),
        ("q.T + p", "an attribute is not allowed at column 1"),
        ("__import__('os')", "unknown function '__import__'"),
        ("q[0]", "an index is not allowed"),
        ("q < p", "a comparison is not allowed"),
        ("q if p else m", "IfExp is not allowed"),
        ("lambda: q", "Lambda is not allowed"),
        ("[q for q in p]", "ListComp is not allowed"),
        ("q and p", "BoolOp is not allowed"),
        ("q^2", r"BitXor is no operation \(a power is written \*\*\) at column 1"),
        ("q % 2", "Mod is no operation"),
        ("not q", "UnaryOp is not allowed"),
        ("'q'", "expected a number, got 'q'"),
        ("q + True", "expected a number, got True"),
        ("q + 1j", "expected a number, got 1j"),
        ("sin", "sin without an argument"),
        ("sin(q, p)", "expected one argument of sin"),
        ("sin(x=q)", "expected one argument of sin"),
        ("sin(*q)", "Starred is not allowed"),
        ("q +", "cannot be read"),
        ("q ~ p", "cannot be read at column 3"),
        ("", "cannot be read"),
        ("q = p", "cannot be read"),
        ("q + 1/0", "not a finite number at column 5"),
        ("q*9**9**9", "not a finite number"),
        ("q*(-8)**0.5", "not a finite number"),
        ("q*log(-1)", "not a finite number"),
        ("1e999*q", "not a finite number"),
        ("+".join(["q"] * 6000), "at most 10000 characters"),
        ("(" * 300 + "q" + ")" * 300, "nested too deeply|cannot be read"),
        ("-" * 5000 + "q", "nested too deeply|cannot be read"),
    ],
)
def test_what_is_no_formula_is_refused(text, message):
    with pytest.raises(ValueError, match=f"formula: .*({message})"):
        parse(text)
