"""What every test shares: checked shapes, a display-free backend, the optional data folder."""

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import matplotlib
import pytest
import torch

# Tests run in several processes, and threads that wait for each other would slow them ten times.
torch.set_num_threads(1)

# Shapes and types in annotations are checked at run time; this has to come before the first
# import of sympgp.
jaxtyping.install_import_hook("sympgp", "beartype.beartype")

# Kernels are interpreted where there is nothing to run them on; read when triton is imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

matplotlib.use("Agg")

# Whole fits and what follows from them: checks, which unit tests make, would double their time.
UNCHECKED = {
    "test_angles",
    "test_cli",
    "test_cli_systems",
    "test_comparison",
    "test_conditioning",
    "test_dissipation_recovery",
    "test_distributed",
    "test_engines_real",
    "test_fit",
    "test_hybrid",
    "test_inference_data",
    "test_inputs",
    "test_likelihood",
    "test_long_rollouts",
    "test_network_engines",
    "test_nuts",
    "test_pairs_dissipation",
    "test_positions_only",
    "test_precision",
    "test_protocol",
    "test_protocol_many_dof",
    "test_real_data",
    "test_residuals",
    "test_sbc",
    "test_stochastic_vi",
    "test_tutorials",
}

# The same examples in every run, and no time limit on one: the first call of an operation is slow.
hypothesis.settings.register_profile("sympgp", deadline=None, derandomize=True)
hypothesis.settings.load_profile("sympgp")


@pytest.fixture(scope="session")
def sympgp_data() -> Path:
    """The folder of measured and published data named by SYMPGP_DATA; skips where it is unset."""
    folder = os.environ.get("SYMPGP_DATA")
    if not folder:
        pytest.skip("SYMPGP_DATA is not set: it names the folder with the data this test reads")
    path = Path(folder).expanduser()
    if not path.is_dir():
        pytest.fail(f"SYMPGP_DATA must name a folder, got {folder!r}")
    return path


@pytest.fixture(scope="module", autouse=True)
def checks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Shapes and types are checked at run time, but for the modules named above."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.stem in UNCHECKED:
            patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        yield
