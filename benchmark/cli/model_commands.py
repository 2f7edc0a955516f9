"""The commands about models: speed, identifier, and the pocket world's pretrain, calibrate, draw.

python -m benchmark identifier --backbone sd15
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmark.api import SEEDS, UserError
from benchmark.cli.options import (
    BackboneOption,
    DataOption,
    EncodersOption,
    PrecisionOption,
    ProtocolOption,
    SuiteOption,
)
from benchmark.config.suite import load_suite


def speed(
    suite: SuiteOption = "pocket",
    method: Annotated[
        str, typer.Option(metavar="NAME", help="What is trained; else the suite's first method.")
    ] = "",
    backbone: BackboneOption = None,
    data: DataOption = None,
    protocol: ProtocolOption = "",
    encoders: EncodersOption = None,
    repetitions: Annotated[
        int, typer.Option(metavar="N", min=1, help="Rounds; the median counts.")
    ] = 5,
) -> None:
    """Measure training, sampling and scoring: images a second, and how much of the device is used.

    The first table compares what a run reaches with the bare modules: the same calls on tensors
    that lie ready. The others show the bare modules' milliseconds, images/s, GFLOP/image and
    GFLOP/s, and these as a share of what a matrix product reaches: in fp32, and in bf16 unless the
    device only emulates it or the backbone refuses it.

    On a CPU one thread is used, as by a run's workers. Measure on an idle machine. Things that are
    compared are measured by turns, which on a busy one helps the ratios more than the shares.

    Examples:

      python -m benchmark speed

      python -m benchmark speed --backbone sd15 --repetitions 3
    """
    from benchmark.studies.speed import measure, speed_text

    chosen = load_suite(suite).on(backbone).with_images(data).under(protocol, encoders=encoders)
    print(speed_text(measure(chosen, method, repetitions=repetitions)))


def identifier(
    suite: SuiteOption = "pocket",
    backbone: BackboneOption = None,
    precision: PrecisionOption = None,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many to list.")] = 20,
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Draw with each, and measure how far it pulls the class."),
    ] = False,
    class_noun: Annotated[
        str, typer.Option(metavar="NOUN", help="With --probe: what is drawn with each.")
    ] = "dog",
    images: Annotated[
        int, typer.Option(metavar="N", min=2, help="With --probe: images of each.")
    ] = 8,
    protocol: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE.toml", help="With --probe: whose CLIP looks; else the suite's."
        ),
    ] = "",
    encoders: EncodersOption = None,
) -> None:
    """List tokens of a backbone's vocabulary that can stand for a subject.

    As in the paper: whole words of a single token and at most three letters, rarest first. A model
    whose vocabulary has words for this alone, as the pocket model's, lists these in its own order:
    none is rarer than another, and they may be longer. With --probe the weakest prior comes first:
    `pull` is 0 for a token that changes no image of the class, and 1 for one that changes it as
    much as other noise does. Without it no weights are needed.

    Examples:

      python -m benchmark identifier --backbone sd15

      python -m benchmark identifier --probe --class-noun teapot
    """
    from benchmark.studies.identifiers import candidate_table, find_candidates, probe_candidates

    chosen = load_suite(suite).on(backbone, precision)
    chosen = chosen.under(protocol, encoders=encoders)
    found = find_candidates(chosen.backbone, count)
    if probe:
        found = probe_candidates(chosen, found, class_noun, images=images)
    print(candidate_table(found))


def pretrain(
    part: Annotated[
        str,
        typer.Argument(
            help="`generator`, `cascade`, `clip`, `dino`, `segmenter`, `guide`, `ip-adapter`; "
            "else all."
        ),
    ] = "",
    evaluate: Annotated[
        bool,
        typer.Option(
            "--evaluate",
            help="Train nothing: let the shipped encoders measure the generator in --out; or, "
            "with `segmenter`, `guide` or `ip-adapter`, that part alone.",
        ),
    ] = False,
    export: Annotated[
        bool,
        typer.Option("--export", help="Train nothing: write the generators as they are by now."),
    ] = False,
    pack: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Train nothing: write the checkpoints small, for --start elsewhere."
        ),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card", help="With --evaluate: write the model card anew.")
    ] = False,
    per_cell: Annotated[
        int, typer.Option(min=1, help="Pictures sampled for each class x background.")
    ] = 8,
    work: Annotated[
        Path, typer.Option(metavar="DIR", help="Checkpoints and logs; taken up if they are there.")
    ] = Path("runs/pretrain"),
    start: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Packed checkpoints to begin with in an empty --work."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Default: the shipped weights' place.")
    ] = None,
    device: Annotated[str, typer.Option(help="`auto`, `cpu` or `cuda`.")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="Threads on a CPU.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace weights that are there.")
    ] = False,
) -> None:
    """Rebuild the pocket models from nothing, or measure the shipped ones.

    Days on one CPU core, the generator above all. An interrupted training resumes from its last
    checkpoint, at most two minutes old; the generator's then draws for some minutes first.

    Examples:

        python -m benchmark pretrain all --out my-weights

        python -m benchmark pretrain --export --out so-far

        python -m benchmark pretrain --evaluate --out so-far

        python -m benchmark pretrain segmenter --evaluate --card
    """
    from benchmark.pocket import pretrain as pocket

    if evaluate + export + (pack is not None) > 1:
        raise UserError("--evaluate, --export and --pack exclude one another: give one at a time")
    alone = evaluate and part in pocket.ALONE
    if part and (evaluate or export or pack) and not alone:
        raise UserError(f"'{part}' is a part to train: leave it out, or train without that option")
    if card and (not evaluate or out is not None):
        raise UserError("--card is about the shipped models: give it with --evaluate, no --out")
    output = out or pocket.SHIPPED
    if alone:
        pocket.evaluate_part(part, output, load_suite("pocket"), card=card)
        return
    if evaluate:
        suite = load_suite("pocket")
        pocket.evaluate(suite, output, per_cell=per_cell, device=device, card=card)
        return
    workshop = pocket.Workshop(work, start, device, threads)
    if pack:
        written = pocket.pack_checkpoints(workshop, pack)
    elif export:
        written = pocket.export(workshop, output=output, overwrite=overwrite)
    else:
        written = pocket.pretrain(part or "all", workshop, output=output, overwrite=overwrite)
    for path in written:
        print(path)


class Calibrated(StrEnum):
    """What `calibrate` can measure."""

    METRICS = "metrics"
    JUDGES = "judges"


def calibrate(
    what: Annotated[
        Calibrated,
        typer.Argument(
            metavar="|".join(Calibrated),
            help="`metrics`: what each of the suite's metrics tells and what else moves it. "
            "`judges`: which metric, masked or not, tells identity best.",
        ),
    ] = Calibrated.METRICS,
    subjects: Annotated[
        int, typer.Option(metavar="N", min=10, help="Subjects to draw; ten are one a class.")
    ] = 200,
    seed: Annotated[
        int,
        typer.Option(metavar="N", min=0, max=SEEDS.stop - 1, help="Another draws others."),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where a .csv, .md and .png go; else reports/pocket/calibration, or "
            "reports/pocket/judges.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are there.")
    ] = False,
) -> None:
    """Measure the metrics themselves, on pocket pictures of which the truth is known.

    `metrics`, the default: how surely DINO, CLIP-I and CLIP-T tell right from wrong, whether they
    follow identity from one subject to another, and what else moves them.

    `judges`: DINO and CLIP-I on whole pictures, masked and cut out by the suite's own segmenter,
    and masked by the truth, all on the same pictures: how well each tells a subject from others
    that look like it, how far each is from DINO, and what masking gains or loses. No
    vision-language model is asked: none runs in the pocket world.

    200 subjects take some minutes for `metrics`, and about twice as long for `judges`.

    Examples:

      python -m benchmark calibrate --subjects 50 --out my-calibration

      python -m benchmark calibrate judges --subjects 50 --out my-judges
    """
    if what is Calibrated.JUDGES:
        from benchmark.pocket.calibrate_judges import run_judges as measure

        default = Path("reports/pocket/judges")
    else:
        from benchmark.pocket.calibrate import run_calibration as measure

        default = Path("reports/pocket/calibration")
    measure(subjects=subjects, seed=seed, out=out or default, overwrite=overwrite)


def draw_subjects(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder, e.g. my-subjects.")],
) -> None:
    """Draw the pocket subjects' images, manifest and prompts anew (`datasets/pocket`)."""
    from benchmark.pocket.individuals import write_dataset

    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty: nothing was drawn; choose a new folder")
    write_dataset(out)
    print(out)
