# ---
# jupyter:
#   jupytext:
#     formats: py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A driven pendulum: a motor, an encoder, friction
#
# A pendulum hangs on the shaft of a motor. A controller sends it a torque ten times a second and writes down what it sent, what the encoder read, which knows angles only up to full turns, and an angular velocity. We want to know what the pendulum does under a torque that it has never felt.
#
# What is new against [a pendulum that is left alone](csv_to_forecast.py):
#
# 1. an *input* $u(t)$, known and in the file;
# 2. an *angle*, wrapped at $\pm\pi$, of a pendulum that turns over;
# 3. a forecast under *another* input, and a decision that rests on it.
#
# The script makes its own file first, so it runs anywhere, in about a minute. Data and pictures land in the folder `driven_pendulum`.

# %% tags=["parameters"]
FOLDER = "driven_pendulum"  # where data and pictures go
NUM_FEATURES = 60  # of the Hamiltonian
NUM_DRAWS = 200  # possible systems in every forecast
NUM_TORQUES = 13  # constant torques that are tried at the end

# %%
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

import sympgp as sg

torch.set_num_threads(1)  # small fits are quickest with one
folder = Path(FOLDER)
folder.mkdir(exist_ok=True)


def save(axes, name):
    """Write a picture to the folder."""
    np.ravel(axes)[0].figure.savefig(folder / f"{name}.png", dpi=120)


# %% [markdown]
# ## 0. The rig
#
# With a file of your own, skip this. A mass of 0.4 kg at 0.5 m: an inertia $I = ml^2 = 0.1\,\mathrm{kg\,m^2}$, so that with the angular velocity $\omega$ in the place of the momentum
#
# $$\dot q = \omega, \qquad \dot\omega = -\tfrac{g}{l}\sin q - \eta\,\omega + \tfrac{1}{I}\,u(t),$$
#
# with $g/l = 19.62\,\mathrm{s}^{-2}$, friction $\eta = 0.3$ per second, and $1/I = 10$. The torque is held from one row to the next; its levels change at random. One cell in ten is empty, and in every recording the encoder is silent for a while.

# %%
INERTIA, FRICTION, RATE = 0.1, 0.3, 10.0
NOISE = np.array([0.03, 0.2])
rig = sg.systems.Pendulum(mass=1.0, length=1.0, gravity=9.81 / 0.5, friction=FRICTION)


def motion(start, times, torque):
    """Angle and angular velocity under a torque that is held between the times."""
    forcing = (times, np.asarray(torque)[:, None] / INERTIA)
    return rig.exact(start, times, inputs=forcing, interpolation="held")[0].numpy()


def levels(seed, count, size, hold):
    """A torque that changes at random, each level held for some rows."""
    random = np.random.default_rng(seed)
    return np.repeat(random.uniform(-size, size, count // hold + 1), hold)[:count].round(3)


def record(seed, duration=8.0):
    """One recording, its angle wrapped, with gaps."""
    random = np.random.default_rng(seed)
    times = np.arange(int(RATE * duration) + 1) / RATE
    torque = levels(seed, len(times), 1.6, 6)
    readings = motion([random.uniform(-0.5, 0.5), 0.0], times, torque)
    readings = readings + NOISE * random.standard_normal(readings.shape)
    readings[:, 0] = (readings[:, 0] + math.pi) % (2 * math.pi) - math.pi
    readings[random.random(readings.shape) < 0.1] = np.nan
    gap = random.integers(20, 60)
    readings[gap : gap + 4, 0] = np.nan
    columns = {"time [s]": times, "angle [rad]": readings[:, 0]}
    return pd.DataFrame(
        columns | {"velocity [rad/s]": readings[:, 1], "torque [N m]": torque}
    ).round(4)


table = pd.concat([record(seed).assign(run=f"run {seed}") for seed in (2, 4, 6)])
table.to_csv(folder / "log.csv", index=False)
print(*(folder / "log.csv").read_text(encoding="utf-8").splitlines()[:6], sep="\n")

# %% [markdown]
# ## 1. Read it, look at it
#
# `u` names the columns of inputs. A coordinate may be missing where it was not read. An input may not: what drives the system has to be known at every row.

# %%
COLUMNS = {"q": "angle", "p": "velocity", "trajectory": "run", "u": "torque"}
data = sg.Trajectories.from_csv(folder / "log.csv", **COLUMNS)
print(data, data.input_names, data.units)
save(sg.plots.small_multiples(data, wrap="angle"), "data")

# %% [markdown]
# In `data.png` the angle jumps where the pendulum turns over. That is the encoder's doing, and no motion: for a model on a line it would be a disaster. Look at the gaps, too. The fit counts turns from one reading to the next, which works as long as the speed changes by less than half a turn in between; how often a fast pendulum turned over in a long silence, nobody can tell from the angles. Cut a recording there.
#
# ## 2. Say what is known
#
# - `periodic=(0,)`: coordinate 0 is an angle, of period $2\pi$ (`period=360.0` for degrees). $H$ is exactly periodic in it, so that what is learned at one turn is known at all others, and data may be wrapped or not: the fit continues them across the seam.
# - `inputs=LearnedInputs(1)`: one input, and what it does to the momentum, the matrix $G$ in $\dot x = J\nabla H - R\nabla H + G u$, is learned too. If you know it, say `KnownInputs([[10.0]])`. `"held"` is how this controller works; between samples of something smooth, `"linear"` is right.
# - `Friction()`: one coefficient.

# %%
model = sg.SSGP(
    num_dof=1,
    num_features=NUM_FEATURES,
    periodic=(0,),
    dissipation=sg.Friction(),
    inputs=sg.LearnedInputs(1, interpolation="held"),
)
posterior = sg.fit(model, data, progress=False)
print(posterior.summary())

# %% [markdown]
# The scale of $H$ is now fixed by more than convention: the torque is in N m, and $G$ says how many rad/s² one of them makes. Here that is $1/I$, and the pendulum's inertia comes with a standard deviation.

# %%
gain, eta = posterior.input_matrix([[0.0, 0.0]]), posterior.dissipation()
gain_mean, gain_std = float(gain.mean[0, 1, 0]), float(gain.stddev[0, 1, 0])
print(f"1/I:      true {1 / INERTIA:.2f}, found {gain_mean:.2f} +- {gain_std:.2f} rad/s^2 per N m")
print(f"friction: true {FRICTION}, found {float(eta.mean):.3f} +- {float(eta.stddev):.3f} 1/s")
swing = posterior.hamiltonian([[math.pi, 0.0]], reference=[0.0, 0.0])
print(
    f"H from bottom to top: true {4 * 9.81:.2f}, found {float(swing.mean):.2f} +- {float(swing.stddev):.2f}"
)
save(sg.plots.phase_portrait(posterior, wrap="angle"), "phase")

# %% [markdown]
# `phase.png` is the field without torque, over one whole turn; it fits together at its edges. The data run right across the streamlines, since they were pushed.
#
# ## 3. Does it fit?
#
# The same two questions as ever: is what is left over noise, and would a wrong model have been found out? The wrong one has no friction, and would have to blame the torque.

# %%
print(posterior.check().verdict)
save(sg.plots.residuals(posterior), "residuals")

wrong_model = sg.SSGP(
    num_dof=1,
    num_features=NUM_FEATURES,
    periodic=(0,),
    inputs=sg.LearnedInputs(1, interpolation="held"),
)
wrong = sg.fit(wrong_model, data, progress=False)
print(wrong.check().verdict)

# %% [markdown]
# `residuals.png` is of the first: no waves over time, a diagonal, no memory. The second has paths that jump to follow the data, and says so.
#
# ## 4. A torque that it has never felt
#
# The recordings had levels at random. The test is a slow sweep: a sine whose frequency runs through the resonance of the pendulum. The start is known from 1.5 seconds of noisy readings: `condition` finds it, field and friction stay as they are.
#
# A forecast needs the torque over all of its time: an array at the times asked for, a pair `(times, values)` of its own, or a function of time.

# %%
times = np.arange(int(RATE * 12.0) + 1) / RATE
sweep = (0.5 * np.sin((1.5 + 0.2 * times) * times)).round(3)
true = motion([0.4, 0.0], times, sweep)
noisy = true + NOISE * np.random.default_rng(99).standard_normal(true.shape)
kind = {"names": data.names, "input_names": data.input_names, "units": data.units}
new = sg.Trajectories(times, noisy, sweep[:, None], **kind)
short = new.between(stop=1.5)
followed = posterior.condition(short)
later = torch.as_tensor(times[times >= float(short.times[0][-1])])
ahead = followed.forecast(later, inputs=(times, sweep), num_samples=NUM_DRAWS)

truth = torch.as_tensor(true[-len(later) :])
error = float(sg.metrics.trajectory_mse(ahead, truth[None]).sqrt())
inside = float(sg.metrics.coverage(ahead, truth[None]))
print(f"root mean square error of ten seconds: {error:.3f}; the 90% bands hold {inside:.2f}")
axes = sg.plots.bands(ahead, new, truth=truth[None], wrap="angle", forecast_start=1.5)
save(axes, "forecast")

# %% [markdown]
# In `forecast.png` the open points were not used. Bands are for the pendulum itself, the latent state.
#
# What the same model says where the torque is forgotten is one argument away, and wrong: `inputs=np.zeros(..)`. Leaving it out is an error: a driven system has no default.
#
# ## 5. A decision
#
# The motor is to turn the pendulum over from rest, by a torque switched on and left on. How strong has it to be? A constant torque of $mgl = 1.962$ N m would hold it horizontally; less will do, since it swings. Every draw is one possible pendulum, so the share of draws that turn over within five seconds is a probability.

# %%
constant = np.linspace(1.46, 1.52, NUM_TORQUES)
grid = torch.linspace(0.0, 5.0, 26, dtype=torch.float64)


def turns(angles):
    """Whether paths (..., T) pass the top."""
    return (angles.max(-1).values > math.pi).double()


chance, really = [], []
for torque in constant:
    push = np.full(len(grid), torque)
    paths = posterior.rollout([0.0, 0.0], grid, inputs=push, num_samples=NUM_DRAWS)
    chance.append(float(turns(paths.samples[:, 0, :, 0]).mean()))
    really.append(float(turns(torch.as_tensor(motion([0.0, 0.0], grid.numpy(), push)[:, 0]))))
figure, panel = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
panel.plot(constant, chance, marker="o", label="share of draws")
panel.step(constant, really, where="mid", linestyle="--", label="truth")
panel.set(xlabel="torque [N m]", ylabel="probability of turning over")
panel.legend(frameon=False)
save(panel, "turning")
print(pd.DataFrame({"torque": constant, "draws": chance, "truth": really}).round(3).to_string())

# %% [markdown]
# `turning.png` says where one can be sure, and where one has to measure again or push harder. A single best model would have had a step, and no idea how far it may be off.
#
# ## The energy
#
# A torque does work, friction takes it: $\dot H = u\,G^\top\nabla H - \nabla H^\top R\,\nabla H$. Each draw keeps that balance under its own Hamiltonian.

# %%
push = np.where(grid.numpy() < 2.0, 1.2, 0.0)
paths = posterior.rollout([0.0, 0.0], grid, inputs=push, num_samples=NUM_DRAWS)
axes = sg.plots.energy(paths)
axes.axvline(2.0, linestyle=":", color="grey")
save(axes, "energy")
energy = paths.energy()[:, 0].mean(0)
last = int((grid <= 2.0).sum())
print(f"energy at 0, 2 and 5 s: {energy[0]:.2f}, {energy[last - 1]:.2f}, {energy[-1]:.2f}")

# %% [markdown]
# In `energy.png` it rises and falls as the pendulum swings with and against the torque. After 2 s there is none, and it can only fall.
#
# ### The list
#
# - Is the input known at *every* row, and is it what reached the system, not what was asked for?
# - Held or linear between rows?
# - Did the inputs of the recordings shake the system hard enough? Where nothing was pushed, $G$ stays what was assumed of it.
# - Is the new input of a size and pace that the data had, and does it keep the system where data were? Bands say so: look at them.
#
# On the command line: `sympgp fit log.csv --q angle --p velocity --trajectory run --angle angle --input torque --held --friction -o fit.pt`, then `sympgp rollout fit.pt --x0 0,0 --until 5 --inputs torque.csv -o new.nc --plot new.png`.

# %%
posterior.save(folder / "fit.pt")
