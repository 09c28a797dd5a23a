"""What the commands say about data and predictions."""

from __future__ import annotations

from sympgp.rollouts import Rollouts
from sympgp.trajectories import Trajectories


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 trajectory``, ``2 trajectories``: the noun's plural is noun + s unless given."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def describe_data(data: Trajectories) -> str:
    """How many trajectories and points, and how many values are missing."""
    trajectories = count(len(data), "trajectory", "trajectories")
    missing = data.num_points * data.state_dim - data.num_observations
    values = f"{data.num_observations} observed values"
    return f"{trajectories}, {count(data.num_points, 'point')}, {values}, {missing} missing"


def with_unit(value: str, name: str, units: dict[str, str]) -> str:
    """A number with the unit of its coordinate, where that is known."""
    unit = units.get(name)
    return f"{value} {unit}" if unit else value


def describe_rollouts(rollouts: Rollouts, level: float = 0.9) -> str:
    """Draws, times, and mean and band of the last state of every trajectory."""
    times = rollouts.times.tolist()
    start, end = f"{times[0]:g}", with_unit(f"{times[-1]:g}", "time", rollouts.units)
    lines = [
        f"{count(rollouts.num_draws, 'draw')} from time {start} to {end}, "
        f"{count(len(times), 'time')}; at the end, mean and {level:.0%} band of the state:"
    ]
    lower, upper = rollouts.band(level)
    ends = [part[:, -1].tolist() for part in (rollouts.mean, lower, upper)]
    for i in range(rollouts.num_trajectories):
        number = f"{i}: " if rollouts.num_trajectories > 1 else ""
        if rollouts.diverged[:, i].all():
            lines.append(f"  {number}none, since every draw diverged")
            continue
        mean, low, high = (part[i] for part in ends)
        shown = ", ".join(
            with_unit(f"{name} {mean[d]:.4g} [{low[d]:.4g}, {high[d]:.4g}]", name, rollouts.units)
            for d, name in enumerate(rollouts.names)
        )
        lines.append(f"  {number}{shown}")
    return "\n".join(lines)
