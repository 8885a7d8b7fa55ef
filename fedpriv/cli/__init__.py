"""The command line: one file per command.

Nothing heavy is imported before a command is at work, so that ``--help`` stays quick.
"""

from __future__ import annotations

from fedpriv.cli.entry import main

__all__ = ["main"]
