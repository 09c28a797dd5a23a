"""What every test shares: checked shapes, a display-free backend, the optional data folder."""

import os
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

matplotlib.use("Agg")

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
