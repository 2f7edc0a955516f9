"""The command that draws and scores the checkpoints which a trainer leaves in a folder.

python -m benchmark checkpoints out/my-lora --subject dog --token sks --watch
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from benchmark.api import UserError
from benchmark.cli.options import (
    LogOption,
    PromptsOption,
    RunOptions,
    SuiteOptions,
    WorkerOptions,
    bundled,
    prompt_choices,
    seed_numbers,
)

if TYPE_CHECKING:
    from benchmark.config.suite import Suite
    from benchmark.runs.plan import Grid

_SUITE, _WORKERS = SuiteOptions(), WorkerOptions()


@dataclass(frozen=True)
class DrawnOptions:
    """What is drawn by each checkpoint."""

    subject: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Whom they have learned: a name from `list subjects`, or with --data your own; "
            "else the only one there.",
        ),
    ] = ""
    token: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="The trigger word before the class noun: `sks` draws `a sks dog in the snow`; "
            "else the suite's. Of a learned word, the token that its vector stands for.",
        ),
    ] = None
    phrase: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="All that stands for the subject in prompts: 'sks dog', 'ohwx', '<cat-toy>'.",
        ),
    ] = None
    prompts: PromptsOption = None
    images_per_prompt: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Else the suite's.")
    ] = None
    seed: Annotated[
        str, typer.Option(metavar="N[,...]", help="Seeds of the noise; else the suite's.")
    ] = ""
    controls: Annotated[
        bool, typer.Option(help="Also the suite's controls, which scores are measured against.")
    ] = True

    def plan(self, suite: Suite, methods: list[str]) -> Grid:
        """Of one subject, beside the suite's controls if they are wanted. Raises UserError."""
        from benchmark.runs.plan import plan
        from benchmark.studies.checkpoints import subject_of

        return plan(
            suite,
            methods,
            subjects=[subject_of(suite, self.subject)],
            prompts=prompt_choices(self.prompts),
            seeds=seed_numbers(self.seed),
            images_per_prompt=self.images_per_prompt,
            controls=suite.controls if self.controls else (),
        )


_DRAWN = DrawnOptions()


@bundled
def checkpoints(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="What a trainer writes its checkpoints to.")
    ],
    drawn: DrawnOptions = _DRAWN,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Go on with those that come, until Ctrl-C, which leaves the report."
        ),
    ] = False,
    patience: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS", min=0, help="With --watch: end once none has come for so long."
        ),
    ] = None,
    every: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Only those whose step is a multiple of N."),
    ] = None,
    last: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the last N.")] = None,
    suite: SuiteOptions = _SUITE,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The run directory; else runs/checkpoints-<name of DIR>-<hash>."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what is to be done, and stop.")
    ] = False,
    log: LogOption = None,
    workers: WorkerOptions = _WORKERS,
) -> None:
    """Draw and score every checkpoint that a trainer left, and show when to stop training.

    Read are safetensors files and folders whose names say how far they were trained
    (checkpoint-500/, my-step00000500.safetensors, my-000003.safetensors): LoRA of diffusers, of
    kohya's scripts and ai-toolkit, peft's folders, whole weights in diffusers' layout, learned
    words. The suite's backbone has to be the model that was trained; what does not fit it is
    refused.

    Each is a row of an ordinary run, beside the suite's controls unless --no-controls leaves them
    out; curve.md and curve.png say where
    subject fidelity stops rising and prompt fidelity begins to fall. The same command again draws
    only what is new.

    Examples:

      python -m benchmark checkpoints out/my-lora --suite dreambench --subject dog --token sks

      python -m benchmark checkpoints out/my-lora --data my-photos --phrase 'ohwx dog' --watch

      python -m benchmark checkpoints out/inversion --backbone sd15 --subject cat --every 1000
    """
    from benchmark.studies.checkpoint_runs import Asked, run_checkpoints, watch_checkpoints
    from benchmark.studies.checkpoints import Named, Which

    if watch and (last is not None or dry_run):
        raise UserError("--watch goes on with what comes: leave --last and --dry-run out")
    if patience is not None and not watch:
        raise UserError("--patience ends --watch: add that")
    which, named = Which(every, last), Named(drawn.token, drawn.phrase)
    with workers.resources(RunOptions(log=log)) as resources:
        chosen = resources.on(suite.load())
        asked = Asked(folder, chosen, named, drawn.plan, resources)
        if watch:
            code = watch_checkpoints(asked, which, out, patience)
        else:
            code = run_checkpoints(asked, which, out, dry_run=dry_run)
    raise typer.Exit(code)
