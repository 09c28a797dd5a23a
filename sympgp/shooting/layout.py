"""How observations lie in time: nodes, the intervals between them, and shooting windows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sympgp.phase_space import CanonicalScaling
from sympgp.trajectories import InputSignal, Trajectories
from sympgp.trajectories.signals import Interpolation

STRAIGHT = 1e-9
"""An input that leaves a straight line by this share of its size is on it, but for rounding."""
MOST_SORTED = 2**24
"""Most numbers that PyTorch takes a quantile of."""


@dataclass(frozen=True)
class Nodes:
    """All trajectories in scaled units, one after another, as nodes in time.

    Rows without any observation are dropped and gaps longer than most sampling intervals are
    split evenly by unobserved nodes, so that one interval never needs many solver steps. Where
    there are inputs, rows without any observation between the first and the last observed one are
    kept as nodes if the input bends or steps there, so that it is one straight line in each
    interval. Node i begins the interval of length ``dt[i]`` to the next node of its trajectory;
    ``dt`` is zero at the last one, and at a padding node that ends the arrays.

    Attributes:
        times: (N + 1,).
        values: (N + 1, D), zero where not observed.
        mask: (N + 1, D), whether observed.
        dt: (N + 1,).
        first: first node of each trajectory, and N: one entry more than trajectories.
        weights: (N + 1, D), how much each squared residual counts; zero where not observed.
        inputs: (N + 1, 2, K) in user units, at the beginning of each interval and their limit at
            its end, followed by the context of the trajectory where the data have one, which is
            an input that never changes; None without both.
    """

    times: Float[Tensor, " nodes"]
    values: Float[Tensor, "nodes dim"]
    mask: Bool[Tensor, "nodes dim"]
    dt: Float[Tensor, " nodes"]
    first: tuple[int, ...]
    weights: Float[Tensor, "nodes dim"]
    inputs: Float[Tensor, "nodes 2 channels"] | None = None

    @classmethod
    def from_data(
        cls,
        data: Trajectories,
        scaling: CanonicalScaling,
        interpolation: Interpolation = "linear",
    ) -> Nodes:
        """Scale and lay out the data.

        Args:
            data: observed trajectories.
            scaling: to scaled units.
            interpolation: of the inputs between rows.
        """
        signals: list[InputSignal | None] = [None] * len(data)
        if data.inputs is not None:
            pairs = zip(data.times, data.inputs, strict=True)
            signals = [InputSignal(t, u, interpolation) for t, u in pairs]
        kept = [_kept(x, u) for x, u in zip(data.states, signals, strict=True)]
        times = [scaling.to_scaled_time(t[k]) for t, k in zip(data.times, kept, strict=True)]
        states = [scaling.to_scaled(x[k]) for x, k in zip(data.states, kept, strict=True)]
        gaps = torch.cat([t.diff() for t in times])
        longest = 1.5 * _most(gaps) if len(gaps) else gaps.new_tensor(torch.inf)
        parts = [_split_gaps(t, z, longest) for t, z in zip(times, states, strict=True)]
        parts.append((times[0][:1], torch.full_like(states[0][:1], torch.nan)))
        values = torch.cat([z for _, z in parts])
        first = [0]
        for t, _ in parts[:-1]:
            first.append(first[-1] + len(t))
        dt = torch.cat([torch.cat([t.diff(), t.new_zeros(1)]) for t, _ in parts])
        mask = ~torch.isnan(values)
        joined = torch.cat([t for t, _ in parts])
        weights = mask.to(values.dtype)
        pieces = [
            _pieces(scaling.time_origin + scaling.time_scale * t, signal)
            for (t, _), signal in zip(parts[:-1], signals, strict=True)
            if signal is not None
        ]
        inputs = torch.cat([*pieces, torch.zeros_like(pieces[0][:1])]) if pieces else None
        if data.context is not None:
            inputs = _with_context(inputs, data.context, [len(t) for t, _ in parts[:-1]])
        return cls(joined, values.nan_to_num(), mask, dt, tuple(first), weights, inputs)

    def reweighted(self, weights: Float[Tensor, "nodes dim"]) -> Nodes:
        """Copy with other weights of the observed entries."""
        return replace(self, weights=weights * self.mask)

    def of(self, trajectories: Int[Tensor, " chosen"]) -> tuple[Nodes, Int[Tensor, " own"]]:
        """Some trajectories, in this order; and where their nodes were."""
        first = torch.tensor(self.first, device=self.times.device)
        begin, count = first[trajectories], first.diff()[trajectories]
        total = torch.cat([count.new_zeros(1), count.cumsum(0)])
        index = torch.arange(int(total[-1]), device=count.device)
        index = index + (begin - total[:-1]).repeat_interleave(count)
        index = torch.cat([index, first[-1:]])  # the padding node
        return Nodes(
            self.times[index],
            self.values[index],
            self.mask[index],
            self.dt[index],
            tuple(total.tolist()),
            self.weights[index],
            None if self.inputs is None else self.inputs[index],
        ), index

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories."""
        return len(self.first) - 1

    @property
    def trajectory(self) -> Int[Tensor, " nodes"]:
        """Which trajectory each node is of; one more than there are for the padding node."""
        lengths = torch.tensor([*self.first, self.first[-1] + 1]).diff().to(self.times.device)
        return torch.arange(len(lengths), device=self.times.device).repeat_interleave(lengths)

    def per_trajectory(self, values: Tensor) -> Int[Tensor, " trajectories"]:
        """Sums of whole numbers or truth values at the nodes over each trajectory."""
        total = torch.zeros(self.num_trajectories + 1, dtype=torch.long, device=values.device)
        return total.index_add_(0, self.trajectory, values.long())[:-1]

    @property
    def counts(self) -> Float[Tensor, " dim"]:
        """Number of observations of each channel."""
        return self.mask.sum(0).to(self.values.dtype)


def _most(gaps: Tensor) -> Tensor:
    """Length that nine tenths of the gaps do not exceed."""
    if len(gaps) > MOST_SORTED:
        return gaps.kthvalue(int(0.9 * (len(gaps) - 1)) + 1).values
    return gaps.quantile(0.9)


def _with_context(inputs: Tensor | None, context: Tensor, lengths: list[int]) -> Tensor:
    """Columns of each trajectory behind the inputs at its nodes; zero at the padding node."""
    repeats = torch.tensor([*lengths, 1], device=context.device)
    rows = torch.cat([context, torch.zeros_like(context[:1])]).repeat_interleave(repeats, 0)
    both = rows.unsqueeze(1).expand(-1, 2, -1)
    return both if inputs is None else torch.cat([inputs, both], -1)


def _kept(states: Tensor, inputs: InputSignal | None) -> Tensor:
    """Which rows become nodes, (T,): those observed, and those at which an input bends or steps."""
    kept = ~states.isnan().all(-1)
    if inputs is None:
        return kept
    steps = inputs.values.diff(dim=0)
    size = inputs.values.abs().amax()
    if inputs.interpolation == "linear":
        dt = inputs.times.diff().unsqueeze(-1)  # changes of slope, as what they make in a step
        steps = (steps / dt).diff(dim=0) * torch.minimum(dt[:-1], dt[1:])
        steps = torch.cat([steps, steps.new_zeros(1, steps.shape[1])])
    bends = torch.zeros_like(kept)
    bends[1:] = (steps.abs() > STRAIGHT * size).any(-1)
    order = torch.arange(len(kept), device=kept.device)
    ends = order[kept]
    return kept | (bends & (order > ends[0]) & (order < ends[-1]))


def _pieces(times: Tensor, signal: InputSignal) -> Tensor:
    """Inputs at both ends of the interval that begins at each node, (N, 2, K)."""
    pieces = signal.pieces(times)
    last = signal(times[-1])
    return torch.cat([pieces, last.expand(1, 2, -1)])


def _split_gaps(times: Tensor, states: Tensor, longest: Tensor) -> tuple[Tensor, Tensor]:
    """Insert unobserved nodes so that no interval is longer than ``longest``."""
    pieces = (times.diff() / longest).ceil().clamp(min=1).long()
    if bool((pieces == 1).all()):
        return times, states
    left = torch.repeat_interleave(torch.arange(len(pieces), device=times.device), pieces)
    begin = torch.cat([pieces.new_zeros(1), pieces.cumsum(0)])
    offset = torch.arange(len(left), device=times.device) - begin[left]
    fine = times[left] + times.diff()[left] * offset / pieces[left]
    full = states.new_full((len(left) + 1, states.shape[1]), torch.nan)
    full[begin] = states
    return torch.cat([fine, times[-1:]]), full


@dataclass(frozen=True)
class Windows:
    """A partition of each trajectory's nodes into half-open windows.

    A window owns the nodes from its start up to, not including, the start of the next one, where
    its path ends; so each observation enters once. Windows are in the order of the trajectories,
    and of time.

    Attributes:
        start: (W,) first node of each window.
        nodes: (W, L) nodes of each window, padded with the padding node.
        chain: (trajectories, K) windows of each trajectory in time order, padded with -1.
    """

    start: Int[Tensor, " windows"]
    nodes: Int[Tensor, "windows slots"]
    chain: Int[Tensor, "trajectories position"]

    @classmethod
    def of_duration(cls, nodes: Nodes, duration: float) -> Windows:
        """Windows of equal share of each trajectory, about ``duration`` long (scaled time)."""
        first = torch.tensor(nodes.first, device=nodes.times.device)
        times = nodes.times.double()
        origin = times[first[:-1]]
        span = times[first[1:] - 1] - origin
        pieces = torch.ones_like(first[1:])
        if duration < float("inf"):
            pieces = (span / duration).round().long().clamp(min=1)
        owner = torch.arange(len(pieces), device=first.device).repeat_interleave(pieces)
        number = torch.arange(len(owner), device=first.device) - (pieces.cumsum(0) - pieces)[owner]
        # One axis for all: trajectory k between 2 k and 2 k + 1. An edge is at a node but for
        # rounding.
        unit = 1.0 / span.amax().clamp(min=torch.finfo(span.dtype).tiny)
        of_node = nodes.trajectory[:-1]
        place = 2.0 * of_node + (times[:-1] - origin[of_node]) * unit
        edges = 2.0 * owner + span[owner] * unit * (number.double() / pieces[owner] - 1e-9)
        start = torch.searchsorted(place, edges).unique()
        count = torch.zeros_like(pieces).index_add_(0, of_node[start], torch.ones_like(start))
        chain = torch.arange(int(count.max()), device=first.device).expand(len(count), -1)
        before = (count.cumsum(0) - count).unsqueeze(-1)
        chain = torch.where(chain < count.unsqueeze(-1), before + chain, -1)
        ends = torch.cat([start[1:], start.new_tensor([nodes.first[-1]])])
        length = ends - start
        slots = torch.arange(int(length.max()), device=start.device)
        inside = slots < length[:, None]
        padding = start.new_tensor(nodes.first[-1])
        return cls(start, torch.where(inside, start[:, None] + slots, padding), chain)

    def thinned(self, max_nodes: int) -> Windows:
        """Evenly chosen windows that hold about ``max_nodes`` nodes, as separate trajectories."""
        count = max(1, max_nodes // self.nodes.shape[1])
        if count >= self.num_windows:
            return self
        chosen = torch.linspace(0, self.num_windows - 1, count).round().long()
        chosen = chosen.to(self.start.device)
        chain = torch.arange(count, device=self.start.device).unsqueeze(-1)
        return Windows(self.start[chosen], self.nodes[chosen], chain)

    def groups(self, most: int) -> list[tuple[slice, Windows]]:
        """Runs of whole trajectories with at most ``most`` windows, or one trajectory.

        Which windows they are, and these as windows of their own.
        """
        if self.num_windows <= most:
            return [(slice(0, self.num_windows), self)]
        ends = (self.chain >= 0).sum(1).cumsum(0).tolist()
        bounds, first = [0], 0  # of the trajectories, and the first window of the present group
        for row in range(1, len(ends)):
            if ends[row] - first > most:
                bounds.append(row)
                first = ends[row - 1]
        found = []
        for top, bottom in zip(bounds, [*bounds[1:], len(ends)], strict=True):
            part = slice(ends[top - 1] if top else 0, ends[bottom - 1])
            chain = self.chain[top:bottom]
            chain = torch.where(chain >= 0, chain - part.start, -1)
            chain = chain[:, : int((chain >= 0).sum(1).max())]
            found.append((part, Windows(self.start[part], self.nodes[part], chain)))
        return found

    @property
    def following(self) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
        """Windows that have a next one, and the next ones."""
        here, ahead = self.chain[:, :-1], self.chain[:, 1:]
        has = ahead >= 0
        return here[has], ahead[has]

    def of_trajectories(self, chosen: slice) -> tuple[slice, Windows]:
        """Which windows are those of some neighbouring trajectories, and these on their own.

        They are numbered anew, and their nodes are the same. As many positions in time are kept as
        the longest of all trajectories has.
        """
        ends = (self.chain >= 0).sum(1).cumsum(0).tolist()
        part = slice(ends[chosen.start - 1] if chosen.start else 0, ends[chosen.stop - 1])
        chain = self.chain[chosen]
        chain = torch.where(chain >= 0, chain - part.start, -1)
        return part, Windows(self.start[part], self.nodes[part], chain)

    @property
    def num_windows(self) -> int:
        """Number of windows W."""
        return self.start.shape[0]

    @property
    def joined(self) -> bool:
        """Whether every trajectory is a single window."""
        return self.chain.shape[1] == 1
