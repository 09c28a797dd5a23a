"""The command ``sympgp``: its commands, and how their errors and warnings are shown."""

from __future__ import annotations

import errno
import warnings
from typing import Any

import click

from sympgp import __version__
from sympgp.cli.bench import bench
from sympgp.cli.demo import demo
from sympgp.cli.fit import fit, summary
from sympgp.cli.plot import plot
from sympgp.cli.predict import forecast, rollout

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


BROKE_DOWN = (
    "the computation broke down ({}). Readings far outside the noise do that, a --noise-std in "
    "another unit than the data, or a model without what moves the system: look at the data, and "
    "see --noise student-t, --input, --dissipation and --angle"
)


class InputError(click.ClickException):
    """Input that cannot be used: a message, and the exit status of a usage error."""

    exit_code = 2


class Program(click.Group):
    """Commands whose errors are one message on standard error, not a traceback.

    The exit status is 2 for options and files that cannot be used, 1 where the system refuses
    something (a full disk) or a computation breaks down, 130 after Ctrl-C.
    """

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command and translate what it raises."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                click.echo("Interrupted.", err=True)
                ctx.exit(INTERRUPTED)
            except (ValueError, OSError) as error:
                # click itself ends quietly when the reader of a pipe has gone
                if ctx.params["traceback"] or getattr(error, "errno", None) == errno.EPIPE:
                    raise
                bad_input = isinstance(error, ValueError | FileNotFoundError)
                message = str(error).removeprefix("path: ")
                if _said_together(error, message):
                    ctx.exit(InputError.exit_code)
                raise (InputError if bad_input else click.ClickException)(message) from error
            except (FloatingPointError, RuntimeError) as error:
                if ctx.params["traceback"] or not _broke_down(error):
                    raise
                raise click.ClickException(BROKE_DOWN.format(error)) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which they are used."""
        return list(self.commands)


def _said_together(error: Exception, message: str) -> bool:
    """Whether all of several processes have this error; the first then says it for all."""
    from sympgp.distributed import RankError, Ranks

    if not isinstance(error, RankError):
        return False
    ranks = Ranks.current()
    if ranks.first:
        InputError(message).show()
    ranks.any(True)  # the others wait: the first one that ends takes all with it
    return True


def _broke_down(error: Exception) -> bool:
    """Whether this came out of the numbers, and not out of a mistake in the program."""
    import torch

    return isinstance(error, FloatingPointError | torch.linalg.LinAlgError)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """One plain line, without the place in the source."""
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


HELP = """Learn a Hamiltonian, its friction and their uncertainty from noisy trajectories.

Start with "sympgp demo": under a minute, on a simulated pendulum and on measured data. Then fit
a file of your own, continue its trajectories, start new ones, and look at pictures. Every command
explains itself with --help.
"""

EXAMPLE = """\b
From a file to a forecast:
  sympgp fit data.csv --q angle --p velocity --friction -o fit.pt
  sympgp forecast fit.pt --until 20 -o ahead.nc --plot ahead.png
  sympgp rollout fit.pt --x0 1.0,0.0 --until 20 -o new.nc
  sympgp plot fit.pt
"""


@click.group(
    cls=Program,
    help=HELP,
    epilog=EXAMPLE,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="sympgp")
@click.option("--traceback", is_flag=True, help="Show where in the source an error comes from.")
def cli(traceback: bool) -> None:
    """Take the options of all commands; ``Program.invoke`` reads them from the context."""


for _command in (demo, fit, summary, forecast, rollout, plot, bench):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and leave the interpreter with its exit status.

    Args:
        arguments: those after ``sympgp``; of this process when None.
    """
    cli.main(arguments, prog_name="sympgp")
