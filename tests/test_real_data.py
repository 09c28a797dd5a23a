"""Measured systems: what is promised of data that no simulator made."""

import pytest
import torch
from problems import NAN

import sympgp as sg

SEEN, AHEAD = 20.0, 20.0


@pytest.mark.slow
def test_a_measured_pendulum_is_forecast_from_its_angles_alone(sympgp_data):
    """From 20 s of a real, slightly damped pendulum, whose angular velocity is not used."""
    path = sympgp_data / "measured" / "pendulum.csv"
    data = sg.Trajectories.from_csv(path, q=["q"], p=["p"])
    times, states = data.times[0], data.states[0]
    hidden = states.clone()
    hidden[:, 1] = NAN
    begin = float(times[0])
    seen = sg.Trajectories(times, hidden).between(begin, begin + SEEN)
    # With a mass of one the momentum is the angular velocity.
    model = sg.SSGP(num_features=60, mass=1.0, periodic=(0,), dissipation=sg.Friction())
    posterior = sg.fit(model, seen, progress=False)
    later = (times > begin + SEEN) & (times <= begin + SEEN + AHEAD)
    found = posterior.forecast(times[later], num_samples=50).mean[0]
    errors = (found - states[later]).square().mean(0).sqrt()
    assert float(errors[0]) < 0.1  # rad
    assert float(errors[1]) < 0.1 * float(states[:, 1].std())  # never seen
    assert bool(torch.isnan(posterior.noise_std[1]))
