"""The command ``fedpriv``: its commands, what it says when one fails or is stopped, and its exit codes.

0 done; 2 wrong input; 3 the privacy budget would be exceeded; 4 a component failed; 130 stopped, 143 by SIGTERM.
"""

from __future__ import annotations

import atexit
import gc
import io
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from typing import Annotated

import typer

from fedpriv.cli.account import account
from fedpriv.cli.attack import attack
from fedpriv.cli.data import data_check, data_list
from fedpriv.cli.deploy import (
    deploy_add,
    deploy_doctor,
    deploy_init,
    deploy_models,
    deploy_node,
    deploy_remove,
    deploy_renew,
    deploy_request,
    deploy_run,
    deploy_serve,
    deploy_status,
)
from fedpriv.cli.ledger import ledger_check, ledger_show
from fedpriv.cli.list import list_
from fedpriv.cli.models import models
from fedpriv.cli.new import new
from fedpriv.cli.options import say
from fedpriv.cli.predict import predict
from fedpriv.cli.report import report
from fedpriv.cli.run import run
from fedpriv.cli.schema import schema
from fedpriv.cli.sweep import sweep
from fedpriv.errors import FedprivError, Interrupted

__all__ = ["main"]

_app = typer.Typer(
    help="Personalised federated learning under a formal privacy guarantee.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_data = typer.Typer(help="Data sets: what there is, and whether the files are right.", no_args_is_help=True)
_ledger = typer.Typer(help="Ledger of a population: what was spent, and if the file is whole.", no_args_is_help=True)
_deploy = typer.Typer(help="Real machines: a server that runs are served from, and nodes.", no_args_is_help=True)
_app.add_typer(_data, name="data")
_app.add_typer(_ledger, name="ledger")
_app.add_typer(_deploy, name="deploy")

# A command's help is the docstring of its function.
for _where, _name, _command, _epilog in (
    (_app, "run", run, "Example: fedpriv run pmtl --set strategy.epsilon=4 --out runs/first"),
    (_app, "sweep", sweep,
     "Example: fedpriv sweep pmtl --grid strategy.epsilon=1,2,4 --grid client.strength=1,[0.1,1] --seeds 8"),
    (_app, "new", new, "Example: fedpriv new my-study"),
    (_app, "schema", schema, "Example: fedpriv schema --out fedpriv.schema.json"),
    (_app, "list", list_, "Example: fedpriv list presets"),
    (_app, "account", account,
     "Example: fedpriv account --noise-multiplier 1 --sampling-rate 0.01 --rounds 1000 --delta 1e-5"),
    (_data, "list", data_list, "Example: fedpriv data list"),
    (_data, "check", data_check,
     "Example: fedpriv data check pupils.csv --set data.task=school --set data.target=score"),
    (_ledger, "show", ledger_show,
     "Example: fedpriv ledger show my-study --ledger my-study.sqlite --run runs/first --run runs/second"),
    (_ledger, "check", ledger_check, "Example: fedpriv ledger check runs/first"),
    (_deploy, "init", deploy_init, "Example: fedpriv deploy init lab pmtl --host lab.example.org"),
    (_deploy, "approve", deploy_add, "Example: fedpriv deploy approve lab clinic.request.json"),
    (_deploy, "remove-node", deploy_remove, "Example: fedpriv deploy remove-node lab clinic"),
    (_deploy, "renew", deploy_renew, "Example: fedpriv deploy renew lab"),
    (_deploy, "serve", deploy_serve, "Example: fedpriv deploy serve lab"),
    (_deploy, "run", deploy_run, "Example: fedpriv deploy run lab --out lab/runs/first"),
    (_deploy, "status", deploy_status, "Example: fedpriv deploy status lab"),
    (_deploy, "doctor", deploy_doctor, "Example: fedpriv deploy doctor clinic.toml"),
    (_deploy, "request", deploy_request, "Example: fedpriv deploy request clinic.toml"),
    (_deploy, "models", deploy_models, "Example: fedpriv deploy models clinic.toml --out models"),
    (_deploy, "node", deploy_node, "Example: fedpriv deploy node clinic.toml"),
    (_app, "report", report, "Example: fedpriv report runs/first runs/second --out comparison.html"),
    (_app, "attack", attack, "Example: fedpriv attack runs/maml-attack-digits --set attack.games=20"),
    (_app, "models", models, "Example: fedpriv models runs/pmtl-digits --out models"),
    (_app, "predict", predict, "Example: fedpriv predict runs/pmtl-digits --task dirichlet-0 --input new.csv"),
):  # fmt: skip
    _where.command(_name, epilog=_epilog)(_command)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"fedpriv {version('fedpriv')}")
        raise typer.Exit


@_app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None: ...


class _StderrHandler(logging.Handler):
    """Write what runs say of themselves to the stderr of the moment, which a progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stderr.write(f"{record.getMessage()}\n")


@contextmanager
def _said_on_stderr() -> Iterator[None]:
    """Show what runs say of themselves: the grid they chose, and warnings."""
    logger = logging.getLogger("fedpriv")
    if logger.handlers:  # who calls the command from Python may have handlers already
        yield
        return
    handler, level = _StderrHandler(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


class _StopHandler:
    """Handles SIGTERM as Ctrl-C, so that what was started is stopped in order; remembers which of the two it was."""

    code = 130

    def __call__(self, number: int, _: object) -> None:
        self.code = 128 + number
        raise KeyboardInterrupt

    @contextmanager
    def handling(self) -> Iterator[None]:
        """Handle it, and put the handler of before back: who calls the command from Python may have one."""
        if current_thread() is not main_thread():  # Python handles signals in that one only
            yield
            return
        before = signal.signal(signal.SIGTERM, self)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)  # None: not set by Python


def main() -> None:
    """Run the command line; an error of fedpriv becomes one sentence on stderr and its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows fewer signs shows "?" for the others
            stream.reconfigure(errors="replace")
    # Modules stay until the end: to look for garbage among them takes more than a second of a run that takes five.
    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    stops = _StopHandler()
    with _said_on_stderr(), stops.handling():
        _run_the_app(stops)


def _run_the_app(stops: _StopHandler) -> None:
    try:
        code = _app(standalone_mode=False)
        if code == 130:  # typer turns an interrupt into this number
            raise KeyboardInterrupt
        if isinstance(code, int) and code:
            sys.exit(code)
    except Interrupted as how:
        sys.stderr.write(f"fedpriv: {how}\n")
        sys.exit(stops.code)
    except FedprivError as error:
        sys.stderr.write(f"fedpriv: {error}\n")
        sys.exit(error.exit_code)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        sys.stderr.write("fedpriv: stopped.\n")
        sys.exit(stops.code)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's own usage errors
        if usage is None:
            raise
        sys.stderr.write(f"fedpriv: {usage()}\n")
        sys.exit(2)
