"""The command that asks a judge again: how far does it agree with itself?

python -m benchmark judge runs/pocket-1a2b3c4d --protocol my_judge.toml
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmark.cli.options import DataOption, EncodersOption, ProtocolOption


def judge(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run directory.")],
    protocol: ProtocolOption = "",
    images: Annotated[int, typer.Option(min=2, help="So many of the run's images.")] = 40,
    repeats: Annotated[int, typer.Option(min=2, help="So often each question is asked.")] = 3,
    encoders: EncodersOption = None,
    data: DataOption = None,
) -> None:
    """Measure how far a protocol's judges agree with themselves.

    The same questions about some images are asked again, and with the images in the other order.
    What changed stands beside the protocol's scores and in the next report. Answers are kept, and
    nothing is asked twice: with more --images or --repeats only the new questions are.

    Example:

        python -m benchmark judge runs/pocket-1a2b3c4d --protocol my_judge.toml
    """
    from benchmark.report.write import write_report
    from benchmark.studies.judges import Sample, measure

    found = measure(
        run,
        Sample(images, repeats),
        protocol=protocol,
        encoders=encoders,
        data=data,
    )
    for name, one in found.metrics.items():
        print(f"{name}: {one.read} of {one.images} images read, spread {_shown(one.spread)}")
        print(f"  asked again: change {_shown(one.change)}, same {_shown(one.same)}")
        if one.swapped_change is not None:
            print(
                f"  other order: change {_shown(one.swapped_change)}, "
                f"same {_shown(one.swapped_same)}, shift {_shown(one.swapped_shift)}"
            )
    print(f"answers: {len(found.answers)}, kept in {run / 'answers'}")
    print(f"tokens: {_counted(found.tokens_in)} in, {_counted(found.tokens_out)} out")
    if found.price is not None:
        print(f"price: {found.price:.4f}")
    print(f"report: {write_report(run, partial=True)}")


def _shown(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}"


def _counted(number: int | None) -> str:
    return "not counted" if number is None else str(number)
