"""The command line: reads arguments, calls the one path, turns errors into exit codes.

0  done      1  a job failed, or `check` found a regression      2  bad input, in one line
130  interrupted
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from benchmark.api import UserError
from benchmark.cli.checkpoints_command import checkpoints
from benchmark.cli.compare_command import compare
from benchmark.cli.data_commands import list_, manifest
from benchmark.cli.fetch_command import fetch
from benchmark.cli.grid_commands import curve, overhead, run, sweep
from benchmark.cli.init_command import init
from benchmark.cli.judge_command import judge
from benchmark.cli.model_commands import calibrate, draw_subjects, identifier, pretrain, speed
from benchmark.cli.publish_commands import leaderboard, publish, verify
from benchmark.cli.report_commands import check, report
from benchmark.cli.score_command import score
from benchmark.cli.study_command import study
from benchmark.store.files import reason

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=(
        "Train every method on every subject, sample the evaluation prompts, score the images, "
        "and write the comparison.\n\n"
        "`python -m benchmark run --methods all --dry-run` shows what a full run would do; "
        "without --dry-run it does it."
    ),
)

#: In the order of `--help`.
_COMMANDS: dict[str, Callable[..., None]] = {
    "run": run,
    "list": list_,
    "init": init,
    "score": score,
    "judge": judge,
    "fetch": fetch,
    "manifest": manifest,
    "report": report,
    "compare": compare,
    "publish": publish,
    "verify": verify,
    "leaderboard": leaderboard,
    "check": check,
    "study": study,
    "sweep": sweep,
    "curve": curve,
    "checkpoints": checkpoints,
    "speed": speed,
    "overhead": overhead,
    "identifier": identifier,
    "pretrain": pretrain,
    "calibrate": calibrate,
    "draw-subjects": draw_subjects,
}
#: What is said of an interrupted command that has not said it itself; else "interrupted".
_INTERRUPTED = {"run": "interrupted before anything was done"}


def _told(name: str, command: Callable[..., None]) -> Callable[..., None]:
    """`command`, which says in one line that it was interrupted."""

    @functools.wraps(command)
    def told(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except KeyboardInterrupt:
            print(_INTERRUPTED.get(name, "interrupted"), file=sys.stderr)
            raise typer.Exit(130) from None

    return told


for _name, _command in _COMMANDS.items():
    app.command(_name)(_told(_name, _command))


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    # What Slurm, Kubernetes and `kill` send is taken as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if (why := reason(error)) is None:
            raise
        print(f"error: {str(error.filename or 'output'):.200}: {why}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
