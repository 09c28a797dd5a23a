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
        longest = 1.5 * gaps.quantile(0.9) if len(gaps) else gaps.new_tensor(torch.inf)
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

    @property
    def num_trajectories(self) -> int:
        """Number of trajectories."""
        return len(self.first) - 1

    @property
    def counts(self) -> Float[Tensor, " dim"]:
        """Number of observations of each channel."""
        return self.mask.sum(0).to(self.values.dtype)


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
    its path ends; so each observation enters once.

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
        starts: list[Tensor] = []
        chains: list[Tensor] = []
        total = 0
        for begin, end in zip(nodes.first[:-1], nodes.first[1:], strict=True):
            times = nodes.times[begin:end]
            span = times[-1] - times[0]
            pieces = max(1, round(float(span) / duration)) if duration < float("inf") else 1
            edges = times[0] + span * torch.arange(pieces, device=times.device) / pieces
            local = torch.searchsorted(times, edges - 1e-9 * span).unique()
            starts.append(begin + local)
            chains.append(torch.arange(total, total + len(local), device=times.device))
            total += len(local)
        start = torch.cat(starts)
        chain = torch.nn.utils.rnn.pad_sequence(chains, batch_first=True, padding_value=-1)
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

    @property
    def num_windows(self) -> int:
        """Number of windows W."""
        return self.start.shape[0]

    @property
    def joined(self) -> bool:
        """Whether every trajectory is a single window."""
        return self.chain.shape[1] == 1
