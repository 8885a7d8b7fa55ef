"""A progress bar on stderr; quiet when that is not a terminal."""

from __future__ import annotations

from contextvars import ContextVar, Token

__all__ = ["Progress", "show_part"]


class Progress:
    """Bars for rounds, and for runs where there are several.

    Parameters
    ----------
    quiet : bool
        Show nothing, whatever stderr is.
    runs : int or None
        Number of runs; None for one run, which needs no bar for runs.
    """

    def __init__(self, *, quiet: bool, runs: int | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
        )
        self._runs = self._bars.add_task("sweep", total=runs, unit="runs") if runs is not None else None
        self._rounds = self._bars.add_task("training", total=None, unit="rounds")
        self._part = self._bars.add_task("", total=None, unit="", visible=False)
        self._token: Token[Progress | None] | None = None

    def __enter__(self) -> Progress:
        self._bars.start()
        self._token = _SHOWN.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()
        if self._token is not None:
            _SHOWN.reset(self._token)

    def __call__(self, done: int, total: int | None) -> None:
        """Show the rounds of the run at work; of all runs, in an unknown number, where several are."""
        self._bars.update(self._rounds, completed=done, total=total)

    def begin(self, what: str) -> None:
        """Show which run is at work."""
        self._bars.reset(self._rounds, total=None, description=what)

    def finished(self, runs: int) -> None:
        """Show how many runs are done."""
        if self._runs is not None:
            self._bars.update(self._runs, completed=runs)

    def part(self, what: str, unit: str, done: int, total: int) -> None:
        """Show work inside a round, as long as it lasts."""
        self._bars.update(
            self._part, description=what, unit=unit, completed=done, total=total, visible=done < total, refresh=True
        )


_SHOWN: ContextVar[Progress | None] = ContextVar("progress", default=None)


def show_part(what: str, unit: str, done: int, total: int) -> None:
    """Show work inside a round under the bars that are there; where there are none, show nothing."""
    shown = _SHOWN.get()
    if shown is not None:
        shown.part(what, unit, done, total)
