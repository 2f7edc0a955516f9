"""What the gate found of each score, in words and as JUnit XML.

write_atomically(junit, junit_xml(checks, notes, path))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from xml.etree import ElementTree

from benchmark.api import Role, UserError
from benchmark.store.files import read_bytes
from benchmark.store.names import shown_text

#: What has changed where a bound has moved.
_WHY: dict[Role, str] = {
    "upper bound": "nothing is drawn here: encoders, preprocessing or the subject's images changed",
    "lower bound": "nothing is trained here: model, sampler or prompts changed",
}


class Outcome(StrEnum):
    """What became of a score."""

    WITHIN = "within tolerance"
    BETTER = "better"
    REGRESSION = "regression"


@dataclass(frozen=True)
class GatedScore:
    """One metric of one method; numbers in the metric's unit."""

    method: str
    role: Role
    metric: str
    before: float  #: the baseline's mean over subjects and seeds
    after: float  #: the run's
    tolerance: float  #: for as many seeds as the run has
    outcome: Outcome

    def __str__(self) -> str:
        text = (
            f"{self.method} / {self.metric}: {self.before:.4f} before, {self.after:.4f} now "
            f"({self.after - self.before:+.4f}), tolerance {self.tolerance:.4f}"
        )
        if self.outcome is Outcome.REGRESSION and self.role in _WHY:
            text += f"; {_WHY[self.role]}"
        if self.outcome is Outcome.BETTER:
            text += "; better than baseline: consider --update"
        return text


def check_place(junit: Path) -> None:
    """Raise UserError if `junit` is there and is no JUnit XML: a baseline, say, or a record."""
    try:
        known = ElementTree.fromstring(read_bytes(junit)).tag in ("testsuites", "testsuite")
    except (FileNotFoundError, NotADirectoryError):
        return  # what cannot be written is told when it is
    except (OSError, ElementTree.ParseError):
        known = False
    if not known:
        raise UserError(
            f"--junit {junit}: this is no JUnit XML, and would be replaced: choose another file"
        )


def junit_xml(checks: Sequence[GatedScore], notes: Sequence[str], path: Path) -> bytes:
    """The checks as JUnit XML: a test case for each, a failure for each regression.

    Of a character that XML cannot hold, a sign that there was one.
    """
    failures = str(sum(check.outcome is Outcome.REGRESSION for check in checks))
    counts = {"tests": str(len(checks)), "failures": failures, "errors": "0"}
    root = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": shown_text(f"scores against {path}")} | counts
    )
    for check in checks:
        names = {"classname": shown_text(check.method), "name": shown_text(check.metric)}
        case = ElementTree.SubElement(suite, "testcase", names)
        said = shown_text(str(check))
        if check.outcome is Outcome.REGRESSION:
            kind = {"message": said, "type": check.outcome.value}
            ElementTree.SubElement(case, "failure", kind).text = said
        else:
            ElementTree.SubElement(case, "system-out").text = said
    if notes:
        ElementTree.SubElement(suite, "system-out").text = "\n".join(map(shown_text, notes))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
