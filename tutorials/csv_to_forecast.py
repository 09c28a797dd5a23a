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
# # From a CSV file to a checked forecast
#
# A pendulum was let go twice, and a logger wrote down its angle and angular velocity: at irregular times, with gaps, with a few readings that are plainly wrong, and with one line too many. We want to know its energy and its friction, how it goes on, and how far to believe that.
#
# The last of these is most of the work. The steps are those for a file of your own:
#
# 1. read the file, and look at it before any model does;
# 2. put the end of every recording away;
# 3. fit, and read the summary;
# 4. look at what the fit leaves over, and repair what does not hold;
# 5. forecast what was put away, and score it;
# 6. carry the field over to a new recording;
# 7. know where all this ends.
#
# The script makes its own file first, so it runs anywhere, in about a minute: as `python tutorials/csv_to_forecast.py`, or as a notebook that `jupytext --to ipynb tutorials/csv_to_forecast.py` makes of it. Data and pictures land in the folder `csv_to_forecast` where you start it; a notebook shows the pictures as well.

# %% tags=["parameters"]
FOLDER = "csv_to_forecast"  # where data and pictures go
NUM_FEATURES = 100  # of the Hamiltonian
NUM_DRAWS = 200  # possible systems in every forecast
NUM_STARTS = 25  # new starts with a known truth, at the end of step 5

# %%
import warnings
from pathlib import Path

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
# ## 0. The file
#
# With a file of your own, skip this cell. Here is what it does to a perfectly good pendulum: noise of 0.03 rad and 0.1 rad/s, an eighth of the cells empty, the gyroscope silent for a second, seven readings wrong by eight or nine times the noise, one line written twice.
#
# The pendulum has $g/l = 9.81\,\mathrm{s}^{-2}$ and friction 0.15 per second. Only the last part of step 5 compares with these numbers.

# %%
rig = sg.systems.Pendulum(mass=1.0, length=1.0, gravity=9.81, friction=0.15)
NOISE = np.array([0.03, 0.1])


def record(start, duration, seed, wrong=()):
    """One recording: about six readings a second, at irregular times."""
    random = np.random.default_rng(seed)
    times = np.sort(random.uniform(0.0, duration, int(6 * duration))).round(3)
    times = np.unique(times)
    states = rig.exact(start, [0.0, *times])[0, 1:].numpy()
    readings = states + NOISE * random.standard_normal(states.shape)
    readings[random.random(readings.shape) < 1 / 8] = np.nan
    for row, column, error in wrong:
        readings[row, column] = states[row, column] + error
    return pd.DataFrame(
        {"time [s]": times, "angle [rad]": readings[:, 0], "velocity [rad/s]": readings[:, 1]}
    )


# row, column (0 the angle, 1 the velocity), error
slow = record([1.2, 0.0], 20.0, 3, [(11, 0, 0.25), (26, 1, -0.9), (40, 0, -0.25), (73, 0, 0.25)])
fast = record([2.4, -0.5], 12.0, 4, [(9, 1, 0.9), (30, 0, -0.25), (61, 1, -0.9)])
slow.loc[slow["time [s]"].between(4.0, 5.0), "velocity [rad/s]"] = np.nan
slow = pd.concat([slow.iloc[:34], slow.iloc[33:]])  # a line comes twice
table = pd.concat([slow.assign(run="slow"), fast.assign(run="fast")]).round(4)
with (folder / "log.csv").open("w", encoding="utf-8") as file:
    file.write("# pendulum rig, encoder and gyroscope\n")
    table.to_csv(file, index=False)
print(*(folder / "log.csv").read_text(encoding="utf-8").splitlines()[:6], sep="\n")

# %% [markdown]
# ## 1. Read it, look at it
#
# One row per reading, a column for the time, one for each coordinate $q$ and one for each momentum $p$, and one that tells recordings apart. An empty cell was not measured. Units in brackets behind the names are taken over (`units={"angle": "rad"}` says them otherwise); separators, decimal commas and compression are found out.
#
# The angular velocity stands in for the momentum. With one degree of freedom that is allowed: the moment of inertia becomes part of the Hamiltonian, which then is energy per moment of inertia, in $\mathrm{s}^{-2}$, and the friction a rate, in 1/s. With several degrees of freedom the momenta have to be the real ones.

# %%
COLUMNS = {"q": "angle", "p": "velocity", "trajectory": "run"}
try:
    sg.Trajectories.from_csv(folder / "log.csv", **COLUMNS)
except ValueError as error:
    print(error)

# %% [markdown]
# Nothing is sorted, joined or dropped behind your back: two readings at one time may be a slip of the logger or two recordings in one, and only you know. Here it is a slip.

# %%
table = pd.read_csv(folder / "log.csv", comment="#").drop_duplicates()
data = sg.Trajectories.from_pandas(table, **COLUMNS)
print(data, data.units)
save(sg.plots.small_multiples(data), "data")

# %% [markdown]
# Three questions for this picture, `data.png`:
#
# - *Is every oscillation seen several times?* About twelve readings a period: yes. With fewer than three or four, nobody could tell a swing from its alias.
# - *What stands out?* A point or two of the slow recording. More would be hard to find by eye: an error of a quarter radian hides in swings of two. We leave them all in. What is wrong is easier to tell after a fit than before it.
# - *What do the recordings cover?* Angles up to about two radians, and not the upright position. Nothing will be learned there.

# %% [markdown]
# ## 2. Put the end away
#
# Before anything is fitted, everything after 8 s is put away. It has to be the *end*: rows left out here and there are predicted from their neighbours on both sides, which is interpolation and looks good under almost any model.

# %%
CUT = 8.0
seen, held_out = data.between(stop=CUT), data.between(CUT)
print("to fit:  ", seen)
print("put away:", held_out)

# %% [markdown]
# ## 3. A first fit
#
# `SSGP` is a Gaussian process prior over Hamiltonians; `Friction()` adds a term $-\eta\, \partial H/\partial p$ to the force. The noise is Gaussian unless told otherwise, its level unknown.

# %%
model = sg.SSGP(num_dof=1, num_features=NUM_FEATURES, dissipation=sg.Friction())
plain = sg.fit(model, seen, progress=False)
print(plain.summary())

# %% [markdown]
# Line by line, as far as there is something to judge:
#
# - *noise* should be what you know of your sensors. Ours are better than this.
# - *friction* with its standard deviation. Amplitudes fall as $\exp(-\eta t/2)$.
# - *lengthscales* say over what distance $H$ changes: of the order of the data's extent. Far below it, the fit follows noise.
# - *directions of the field that the data determine*: a dozen or so. If it were most of them, the data would have more to say than the features can, and more features would be in order.
# - *model discrepancy*: how far the true path may jump off a solution of the equations. "Consistent with none" is what one hopes for.
# - *the verdict*, and what to worry about.

# %% [markdown]
# ## 4. What is left over
#
# If the model is right, what is left over is noise of the level that it says, without memory. `check()` puts that to the test, and `residuals()` has the numbers behind it.

# %%
check = plain.check()
print(check.verdict)
probabilities = pd.DataFrame({"whiteness": check.whiteness, **check.predictive}, index=seen.names)
print(probabilities.round(3).to_string())
save(sg.plots.residuals(plain), "residuals_plain")

# %% [markdown]
# The table has probabilities that a perfect model would look worse than this one: in whiteness (no memory), and in three statistics of data that are replicated under the posterior: their spread, their correlation from one reading to the next, and how heavy their tails are. Small numbers speak against the model. Numbers that are not small do not prove it: this test, with this much data, has nothing to object to. And of a hundred tests of a perfect model, one falls below 0.01.
#
# The picture `residuals_plain.png`, from left to right, for each coordinate:
#
# - *over time*: no waves, so the paths follow the data. A structure that is wrong shows here, as slow swings.
# - *sorted, against the normal distribution*: most points lie on a line that is flatter than the diagonal, and a few far off its ends. The typical error is smaller than the noise that was found, a handful of errors is much larger: a few wrong readings have blown up the noise of all.
# - *autocorrelation*: one in twenty may leave its limits, and no more do: no memory.
#
# So the tails have failed, and nothing else. Memory in the residuals would have pointed at the equations; heavy tails point at the sensors.

# %% [markdown]
# ### Repair: noise with wrong readings in it
#
# The equations are not to blame, the noise is. `StudentTNoise` has heavy tails: a reading that is $k$ noise scales off counts $(\nu + 1)/(\nu + k^2)$ times as much as a good one. With $\nu = 4$, a usual choice, it is close to a Gaussian in the middle; `StudentTNoise()` looks for $\nu$ in the data. Where a data sheet can be trusted, `std=[0.03, 0.1]` fixes the level.

# %%
robust = sg.SSGP(
    num_dof=1,
    num_features=NUM_FEATURES,
    dissipation=sg.Friction(),
    noise=sg.StudentTNoise(dof=4),
)
posterior = sg.fit(robust, seen, progress=False)
print(posterior.check().verdict)
for name, fit in [("Gaussian", plain), ("Student-t", posterior)]:
    eta, noise = fit.dissipation(), fit.noise_std.tolist()
    print(
        f"{name:9}  friction {float(eta.mean):.3f} +- {float(eta.stddev):.3f} 1/s,"
        f"  noise {noise[0]:.3f} rad, {noise[1]:.3f} rad/s"
    )
save(sg.plots.residuals(posterior), "residuals")

# %% [markdown]
# In `residuals.png` the same readings are farthest out, but hardly farther than such noise throws one now and then (its residuals are drawn as the normal numbers of equal probability), and all the others lie on the diagonal. What the wrong readings had cost is in the standard deviation of the friction.
#
# The data that were put away had no part in this decision. If they had, they could not judge it any more.

# %% [markdown]
# ### A check that cannot fail is none
#
# The same data, with a structure that is wrong: no friction.

# %%
frictionless = sg.SSGP(num_dof=1, num_features=NUM_FEATURES, noise=sg.StudentTNoise(dof=4))
wrong = sg.fit(frictionless, seen, progress=False)
print(wrong.summary())

# %% [markdown]
# No conservative system loses amplitude, so its paths have to jump. The fit does not hide that: the jumps are in the summary and in the verdict, and the bands of its forecasts carry them on. The noise alone would not have given it away: a path that is allowed to jump can follow anything.

# %% [markdown]
# ## 5. The forecast, and its score
#
# What was put away comes out now, once.

# %%
ahead = [
    posterior.forecast(held_out.times[i], trajectory=i, num_samples=NUM_DRAWS)
    for i in range(len(held_out))
]
curves = posterior.fitted([torch.linspace(float(t[0]), float(t[-1]), 201) for t in seen.times])
for i, label in enumerate(held_out.labels):
    times = torch.linspace(float(seen.times[i][-1]), float(held_out.times[i][-1]), 201)
    curve = posterior.forecast(times, trajectory=i, num_samples=NUM_DRAWS)
    axes = sg.plots.bands(curve, data[i], kind="predictive", forecast_start=CUT)
    sg.plots.bands(curves[i], ax=axes, kind="predictive")
    save(axes, f"forecast_{label}")

# %% [markdown]
# In `forecast_slow.png` and `forecast_fast.png` full points were fitted, open ones were put away. A *predictive* band is for what would be measured; a *latent* one, `kind="latent"`, for the pendulum itself.
#
# Four scores, each with something to hold it against:
#
# - *root mean square error*, against that of a forecast which says "the mean of what was seen" at all times. Angle and velocity are in one number here, so it is mostly about the velocity; and wrong readings count, squared.
# - *coverage*: the share of readings inside 90% bands. It should be near 0.9, above all not below.
# - *CRPS*, in units of the coordinate: like an absolute error, but of the whole distribution. Bands that are right, but needlessly wide, lose here.
# - *NLPD*, the negative log predictive density: sharp, honest bands win. One reading far outside a confident band costs a lot.

# %%
OPTIONS = {"kind": "predictive", "include_start": True}


def scores(fit, i):
    """Of one recording's forecast, angle and velocity together unless said."""
    predicted = fit.forecast(held_out.times[i], trajectory=i, num_samples=NUM_DRAWS)
    truth = held_out.states[i]
    crps = sg.metrics.crps(predicted, truth, per_channel=True, **OPTIONS)
    return {
        "rmse": float(sg.metrics.trajectory_mse(predicted, truth).sqrt()),
        "coverage": float(sg.metrics.coverage(predicted, truth, **OPTIONS)),
        "crps of angle": float(crps[0]),
        "crps of velocity": float(crps[1]),
        "nlpd": float(sg.metrics.nlpd(predicted, truth, **OPTIONS)),
    }


fits = {"Gaussian": plain, "Student-t": posterior, "no friction": wrong}
results = pd.DataFrame(
    {
        (label, name): scores(fit, i)
        for i, label in enumerate(held_out.labels)
        for name, fit in fits.items()
    }
).T
for i, label in enumerate(held_out.labels):
    mean = seen.states[i].nanmean(0).expand_as(held_out.states[i])
    results.loc[(label, "the mean"), "rmse"] = float(
        sg.metrics.trajectory_mse(mean, held_out.states[i]).sqrt()
    )
print(results.sort_index().round(3).to_string(na_rep=""))

# %% [markdown]
# Two things to see in this table.
#
# - Both kinds of noise forecast about the same means, and their errors hardly differ. What the robust one gains is in the bands: they are narrower and hold what they should, so CRPS and NLPD are lower.
# - The model without friction covers everything in one recording, and misses less than one would think in the other: its bands carry the jumps that it needed. It pays for their width in CRPS and NLPD. Coverage alone is not enough, and neither is an error without bands.
#
# The calibration curve, `calibration.png`, is coverage at every level.

# %%
pairs = list(zip(ahead, held_out.states, strict=True))
save(sg.plots.calibration(pairs, **OPTIONS), "calibration")

# %% [markdown]
# Do not read too much into it. Nearly two hundred readings look like many, but those of one recording share one present state, one friction and one energy: if the phase is off, it is off for all of them. What is independent here is two recordings, and of two nobody can tell 85% from 95%. What the curve can show is a gross failure.

# %% [markdown]
# ### More than two
#
# To learn what bands are worth *for data like these*, simulate data like these: the same times, gaps and noise, from a system as close to yours as you know one. Then the truth is known wherever you like. In this tutorial the truth is at hand: new starts within the energies that were seen, twelve seconds each, without noise.

# %%
random = torch.Generator().manual_seed(3)
radius = 0.4 + 1.8 * torch.rand(NUM_STARTS, generator=random, dtype=torch.float64)
starts = torch.stack([radius, torch.zeros_like(radius)], 1)
times = torch.linspace(0.0, 12.0, 121, dtype=torch.float64)
truth = rig.exact(starts, times)
new = posterior.rollout(starts, times, num_samples=NUM_DRAWS)
print(f"true states inside 90% latent bands: {float(sg.metrics.coverage(new, truth)):.2f}")
errors = sg.metrics.trajectory_mse(new, truth, per_trajectory=True).sqrt()
print(
    f"root mean square error: median {float(errors.median()):.3f}, largest {float(errors.max()):.3f}"
)
save(sg.plots.calibration(new, truth), "calibration_truth")

eta = posterior.dissipation()
print(f"friction: true {rig.friction}, found {float(eta.mean):.3f} +- {float(eta.stddev):.3f} 1/s")
angles = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64)
height = posterior.hamiltonian(torch.stack([angles, 0 * angles], 1), reference=[0.0, 0.0])
for angle, mean, std in zip(
    angles.tolist(), height.mean.tolist(), height.stddev.tolist(), strict=True
):
    print(
        f"H({angle}, 0) - H(0, 0): true {9.81 * (1 - np.cos(angle)):.2f}, found {mean:.2f} +- {std:.2f}"
    )

# %% [markdown]
# All of these starts share *one* fit. Where the curve of `calibration_truth.png` leaves the diagonal, that is in part the luck of one data set; several simulated data sets, each with a fit of its own, go into one picture as a list of `(rollouts, truth)`.

# %% [markdown]
# ## 6. A new recording
#
# Another day, the gyroscope is off: three seconds of angles, nothing else. That is too little to learn a field from, and enough to find the state under a field that is known. `condition` leaves the field as it is and infers the new trajectory's states, with the field's uncertainty in them.

# %%
later = record([-1.9, 1.0], 12.0, 4).assign(run="later")
later = sg.Trajectories.from_pandas(later, **COLUMNS)
angles_only = later.states[0].clone()
angles_only[:, 1] = torch.nan
short = sg.Trajectories(
    later.times, [angles_only], names=later.names, units=later.units, labels=later.labels
).between(stop=3.0)

followed = posterior.condition(short)
state = followed.initial_states
for d, name in enumerate(later.names):
    print(
        f"{name} at the first reading: {float(state.mean[0, d]):.2f} +- {float(state.stddev[0, d]):.2f}"
    )
rest = later.between(3.0)
predicted = followed.forecast(rest.times[0], num_samples=NUM_DRAWS)
coverage_after = float(sg.metrics.coverage(predicted, rest.states[0], **OPTIONS))
print(f"coverage of the nine seconds after: {coverage_after:.2f}")

times = torch.linspace(float(short.times[0][-1]), 12.0, 201, dtype=torch.float64)
curve = followed.forecast(times, num_samples=NUM_DRAWS)
axes = sg.plots.bands(curve, later, kind="predictive", forecast_start=3.0)
first, last = float(short.times[0][0]), float(short.times[0][-1])
path = followed.fitted([torch.linspace(first, last, 101, dtype=torch.float64)])[0]
sg.plots.bands(path, ax=axes, kind="predictive")
save(axes, "new_recording")

# %% [markdown]
# In `new_recording.png` the full points of the upper panel are all that was used. Those of the lower one were not, and the band finds them.
#
# Data that do not belong to this system are noticed: `condition` warns where residuals are far above the noise, as for a pendulum twice as long.

# %%
other = sg.systems.Pendulum(mass=1.0, length=2.0, gravity=9.81, friction=0.15)
strange = other.simulate(1, rate=6, duration=4, noise_std=NOISE, seed=5)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    posterior.condition(strange)
print(*(warning.message for warning in caught), sep="\n")

# %% [markdown]
# A number for the same question is the log likelihood: how probable a recording is under a posterior, its unknown state integrated out, draw by draw. Of the first six seconds of the new recording, both sensors on, per reading, and in nats, more is better; differences are what counts.

# %%
beginning = later.between(stop=6.0)
for name, fit in fits.items():
    draws = fit.log_likelihood(beginning, num_samples=NUM_DRAWS // 10).sum(1)
    mean = draws.logsumexp(0) - np.log(len(draws))
    print(f"{name:12} {float(mean) / beginning.num_observations:6.2f} nats per reading")

# %% [markdown]
# ## 7. Where this ends
#
# The phase portrait hatches what is far from all data. Elsewhere a forecast rests on data; there, on what was assumed beforehand.

# %%
save(sg.plots.phase_portrait(posterior), "phase")
posterior.save(folder / "fit.pt")

# %% [markdown]
# A pendulum that turns over leaves `phase.png` on the right or on the left, and nothing here can forecast it. Nor does anything here know of a bearing that runs dry tomorrow, or of a push. Bands hold as far as the structure does, and the structure was tested on these recordings.
#
# ### The list
#
# - Was the end put away before the first fit, and looked at once?
# - Do noise and friction agree with what you know of the apparatus?
# - Does the verdict say that the structure fits? If with reservations: are they repaired, or harmless, and why?
# - Do the residuals look like noise to your own eyes?
# - Is the forecast better than a simple one, and its coverage near its level?
# - How many *independent* things was that coverage counted on?
# - Does what you want to predict stay where the data were?
#
# `sg.load("csv_to_forecast/fit.pt")` brings the posterior back; the command line reads the same file: `sympgp plot csv_to_forecast/fit.pt`.
