"""The command line, ``sympgp``: commands that go from a file to a posterior, bands and pictures."""

from sympgp.cli.program import main

__all__ = ["main"]
