"""Published protocols, calibration and tables, behind ``sympgp bench``."""

from sympgp.benchmarks.bead import Bead
from sympgp.benchmarks.calibration import CalibrationRun, calibration_runs, collect_ranks
from sympgp.benchmarks.hgp import HGPRun, hgp_runs
from sympgp.benchmarks.pool import do_runs
from sympgp.benchmarks.rank_plot import plot_ranks
from sympgp.benchmarks.ranks import Ranks
from sympgp.benchmarks.registry import ENGINES, MODELS
from sympgp.benchmarks.results import Results
from sympgp.benchmarks.runs import Record, Run
from sympgp.benchmarks.ssgp import SSGPRun, ssgp_runs
from sympgp.benchmarks.table import Column, aggregate, markdown_table, plain_table

__all__ = [
    "ENGINES",
    "MODELS",
    "Bead",
    "CalibrationRun",
    "Column",
    "HGPRun",
    "Ranks",
    "Record",
    "Results",
    "Run",
    "SSGPRun",
    "aggregate",
    "calibration_runs",
    "collect_ranks",
    "do_runs",
    "hgp_runs",
    "markdown_table",
    "plain_table",
    "plot_ranks",
    "ssgp_runs",
]
