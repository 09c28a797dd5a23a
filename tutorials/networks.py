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
# # Networks and Gaussian processes: swap one word
#
# The Hamiltonian can be a Gaussian process (`SSGP`) or a neural network (`HNN`), and the posterior over a network's weights can be had in several ways: one best network (`MAP`), several, each of data and priors that are perturbed (`DeepEnsemble`; plain with `randomize=False`), masks (`MCDropout`), a Gaussian about the best one (`Laplace`), `MeanFieldVI`, or a Markov chain (`SGHMC`). All of them take the same data and hand back the same kind of posterior, so that everything after `fit` stays as it is.
#
# This tutorial fits all of it to one data set and asks three things: how far off are the forecasts, what do the bands hold, and is energy kept? At the end come two relatives: a Lagrangian network, and a Kolmogorov-Arnold network that can be read.
#
# It makes its own data, and takes two to three minutes. Pictures land in the folder `networks`.

# %% tags=["parameters"]
FOLDER = "networks"  # where pictures go
NUM_FEATURES = 60  # of the Gaussian process
HIDDEN = (32, 32)  # widths of the networks' layers
NUM_STEPS = 1000  # of their training
NUM_MEMBERS = 10  # of the ensemble
NUM_DRAWS = 100  # possible systems in every forecast
NUM_STARTS = 10  # trajectories to predict
DURATION = 8.0  # of the trajectories
LONG = 100.0  # over which energy drifts

# %%
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
# ## 1. One data set
#
# A pendulum of mass and length one, four noisy trajectories at 5 Hz. Its momentum is its angular velocity. New trajectories, without noise and from other initial states, are held out to be predicted.

# %%
system = sg.systems.Pendulum(mass=1.0)
data = system.simulate(4, rate=5, duration=DURATION, noise_std=0.05, seed=0)
starts = system.sample_initial(NUM_STARTS, seed=1000)
times = torch.linspace(0.0, 15.0, 76, dtype=torch.float64)
truth = system.exact(starts, times)
print(data)

# %% [markdown]
# ## 2. Swap one word
#
# The model is the first argument, the way to its posterior is `inference=`. What they have in common: noise and states are unknown too, paths are solved through the differential equation, and a draw is one function that stays the same for a whole path.

# %%
training = {"num_steps": NUM_STEPS}
ways = {
    "SSGP": (sg.SSGP(num_features=NUM_FEATURES), sg.GaussNewton()),
    "HNN, Laplace": (sg.HNN(hidden=HIDDEN), sg.Laplace(**training)),
    "HNN, ensemble": (
        sg.HNN(hidden=HIDDEN),
        sg.DeepEnsemble(num_members=NUM_MEMBERS, **training),
    ),
    "HNN, plain ensemble": (
        sg.HNN(hidden=HIDDEN),
        sg.DeepEnsemble(num_members=NUM_MEMBERS, randomize=False, **training),
    ),
    "HNN, dropout": (sg.HNN(hidden=HIDDEN), sg.MCDropout(rate=0.05, **training)),
    "neural ODE, ensemble": (
        sg.NeuralODE(hidden=HIDDEN),
        sg.DeepEnsemble(num_members=NUM_MEMBERS, **training),
    ),
}
posteriors = {
    name: sg.fit(model, data, inference=engine, progress=False)
    for name, (model, engine) in ways.items()
}
print(posteriors["HNN, Laplace"].summary())

# %% [markdown]
# Of a network there is nothing to say about lengthscales, but the rest of the summary is what it always was: noise, what is left over, what to worry about.
#
# ## 3. Phase portraits
#
# The shade is how unsure a posterior is of the field, relative to its typical size; hatched regions are far from all data.

# %%
figure, panels = plt.subplots(3, 2, figsize=(11.0, 12.5), layout="constrained")
for panel, name in zip(panels.flat, ways, strict=True):
    sg.plots.phase_portrait(posteriors[name], ax=panel, region=((-3.0, 3.0), (-4.0, 4.0)))
    panel.text(0.02, 0.96, name, transform=panel.transAxes, va="top", backgroundcolor="white")
save(panels, "portraits")

# %% [markdown]
# In `portraits.png` the streamlines agree where data are. Beyond them, look at the shades: does a posterior know that it does not know? The members of a plain ensemble are alike where data hold them, and often also a little further on; a Gaussian process and Laplace's approximation grow unsure with the distance from what was seen.
#
# ## 4. What the bands hold
#
# Held-out trajectories, predicted from their exact initial states for almost twice as long as the data lasted.

# %%
found, rows = {}, {}
for name, posterior in posteriors.items():
    paths = posterior.rollout(starts, times, num_samples=NUM_DRAWS)
    found[name] = paths
    rows[name] = {
        "trajectory MSE": float(sg.metrics.trajectory_mse(paths, truth)),
        "energy MSE": float(sg.metrics.energy_mse(paths, truth, system.hamiltonian)),
        "90% band": float(sg.metrics.coverage(paths, truth)),
        "NLPD": float(sg.metrics.nlpd(paths, truth)),
        "seconds": posterior.diagnostics.seconds,
    }
results = pd.DataFrame(rows).T
print(results.round(3).to_string())

# %%
figure, panel = plt.subplots(figsize=(6.6, 4.4), layout="constrained")
levels = np.arange(0.1, 1.0, 0.1)
panel.plot([0, 1], [0, 1], color="grey", linestyle="--", label="ideal")
for name, paths in found.items():
    shares = [float(sg.metrics.coverage(paths, truth, level=level)) for level in levels]
    panel.plot(levels, shares, marker="o", markersize=3, label=name)
panel.set(xlabel="probability of the band", ylabel="share of the truth inside")
panel.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
save(panel, "calibration")

# %% [markdown]
# In `calibration.png` a curve on the diagonal belongs to honest bands, one below it to bands that are too narrow. This is where the ways differ most. Members of a plain ensemble, which fit the same data through the same equation, end up close to one another, closer than they are to the truth: their spread says how much the beginning of training matters, not how much the noise of the data leaves open. Laplace's approximation and the Gaussian process ask what the data leave open, and so does an ensemble whose members have each a noisier copy of the data and a prior of their own, which is the default. Dropout disturbs a network by an amount that its rate sets, whatever the data say, so that its bands can be far too wide and its mean far off.
#
# The held-out trajectory of the highest energy, with the band of each:

# %%
highest = int(system.hamiltonian(starts).argmax())
figure, panels = plt.subplots(len(found), 1, figsize=(8.0, 1.9 * len(found)), layout="constrained")
for panel, (name, paths) in zip(panels, found.items(), strict=True):
    sg.plots.bands(paths, ax=panel, truth=truth, trajectory=highest, coordinates=["q"])
    panel.set_ylabel(name.replace(", ", "\n"))
save(panels, "bands")

# %% [markdown]
# `bands.png`: a band should be narrow where the mean is close to the truth, and wide where it is not. At this energy the motion leaves the region of the data.
#
# ## 5. Energy over long times
#
# A neural ODE learns rates without knowing of any energy. Over a short time that makes little difference; over a hundred seconds every small error in the direction of the energy adds up. A Hamiltonian network may be wrong about $H$, but it keeps what it takes for $H$.

# %%
long = torch.linspace(0.0, LONG, int(2 * LONG) + 1, dtype=torch.float64)
figure, panel = plt.subplots(figsize=(6.6, 3.6), layout="constrained")
drift = {}
for name in ("SSGP", "HNN, ensemble", "neural ODE, ensemble"):
    paths = posteriors[name].rollout(starts[:3], long, num_samples=NUM_DRAWS // 10)
    energies = system.hamiltonian(paths.samples)
    off = (energies - energies[:, :, :1]).abs() / energies[:, :, :1]
    middle = off.flatten(0, 1).nanmedian(0).values
    drift[name] = float(middle[-20:].mean())
    panel.plot(long[1:], middle[1:], label=name)
panel.set(xlabel="time [s]", ylabel="relative change of the true energy", yscale="log")
panel.legend(frameon=False)
save(panel, "drift")
print({name: round(value, 4) for name, value in drift.items()})

# %% [markdown]
# In `drift.png` the curves of the Hamiltonian models swing about a constant level, that of the neural ODE grows. Its draws that left for good are counted in `paths.diverged`.
#
# ## 6. A Lagrangian
#
# `LNN` learns $L(q, \dot q)$ and solves the Euler-Lagrange equation for $\ddot q$. States are coordinates and *velocities*, so that no momentum has to be known; that of the learned Lagrangian, $\partial L/\partial\dot q$, comes with it, up to a factor and a function of $q$ that no motion depends on. Its energy $\dot q\,\partial L/\partial\dot q - L$ is kept like $H$.

# %%
lagrangian = sg.fit(sg.LNN(hidden=HIDDEN), data, inference=sg.MAP(**training), progress=False)
paths = lagrangian.rollout(starts, times, num_samples=10)
lagrangian_error = float(sg.metrics.trajectory_mse(paths, truth))
print(f"trajectory MSE of the Lagrangian network: {lagrangian_error:.3f}")

# %% [markdown]
# ## 7. A network that can be read
#
# In a Kolmogorov-Arnold network the edges carry learned functions of one variable, here B-splines, and nodes only add. Without hidden nodes, `hidden=()`, the Hamiltonian is a sum of one function of $q$ and one of $p$. Its functions can be drawn, and compared with simple ones.

# %%
model = sg.HamiltonianModel(sg.KANEnergy(1, hidden=()))
splines = sg.fit(model, data, inference=sg.MAP(), progress=False)
symbols = splines.symbols()
print(*symbols, sep="\n")
save(sg.plots.kan(splines, symbols=symbols), "kan")

# %% [markdown]
# `kan.png` shows both, in scaled units: a cosine of the angle, and a square of the momentum.
#
# ### Which one?
#
# - Few data, one to three degrees of freedom: the Gaussian process. It is quickest, and its bands are honest.
# - A network, and bands to rely on: `Laplace`, as long as its weights are some thousands at most.
# - Many data or many degrees of freedom: an ensemble, not a plain one.
# - Velocities, but no idea of masses: `LNN`. A formula in the end: `KANEnergy`.
# - `NeuralODE` and `DHNN` are there to compare with: nothing keeps their energy from growing.
#
# `sympgp bench networks` makes these comparisons at length.
