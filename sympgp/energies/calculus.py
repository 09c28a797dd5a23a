"""A formula of the energy with all derivatives that a fit asks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

from sympgp.energies.derivatives import Program, derivative, product, substituted, total
from sympgp.energies.expressions import Node, coordinate_names, parse


class Calculus:
    """A formula and its derivatives, each made when first asked for.

    Args:
        tree: the formula.
        coordinates: names of the state's entries.
        names: unknown parameters, of which derivatives are wanted.
    """

    def __init__(self, tree: Node, coordinates: Sequence[str], names: Sequence[str]) -> None:
        self.tree, self.coordinates, self.names = tree, tuple(coordinates), tuple(names)
        self._slopes = [derivative(tree, name) for name in self.coordinates]

    @cached_property
    def energy(self) -> Program:
        """H."""
        return Program([self.tree])

    @cached_property
    def slope(self) -> Program:
        """``dH/dx_i``."""
        return Program(self._slopes)

    @cached_property
    def by_parameters(self) -> Program:
        """``dH/dtheta_k``."""
        return Program([derivative(self.tree, name) for name in self.names])

    @cached_property
    def mixed(self) -> Program:
        """``d^2 H / dx_i dtheta_k``, the parameters fastest."""
        return Program([derivative(tree, name) for tree in self._slopes for name in self.names])

    @cached_property
    def hessian(self) -> Program:
        """``d^2 H / dx_i dx_j``, the smaller index first so that both places share one."""
        dim = len(self.coordinates)
        pairs = [(min(i, j), max(i, j)) for i in range(dim) for j in range(dim)]
        return Program([derivative(self._slopes[i], self.coordinates[j]) for i, j in pairs])

    @cached_property
    def tangent(self) -> Calculus:
        """``sum_k c_k dH/dtheta_k``, in which ``c_k`` has the name ``change_name``."""
        tree: Node = 0.0
        for name in self.names:
            tree = total(tree, product(change_name(name), derivative(self.tree, name)))
        return Calculus(tree, self.coordinates, ())

    @cached_property
    def separable(self) -> bool:
        """Whether no derivative by a coordinate and a momentum is left."""
        half = len(self.coordinates) // 2
        momenta = self.coordinates[half:]
        return all(derivative(s, p) == 0.0 for s in self._slopes[:half] for p in momenta)


def change_name(name: str) -> str:
    """What a change of a parameter is called: no name that a formula could hold."""
    return f"d {name}"


@lru_cache(maxsize=32)
def calculus(
    formula: str, num_dof: int, names: tuple[str, ...], known: tuple[tuple[str, float], ...]
) -> Calculus:
    """Of a string, with the values of known parameters put in."""
    tree = substituted(parse(formula), dict(known))
    return Calculus(tree, coordinate_names(num_dof), names)
