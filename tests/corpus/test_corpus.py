"""Every case of the corpus."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.corpus import data, models, scoring
from tests.corpus.case import OWN, Case

CASES = (*data.CASES, *models.CASES, *scoring.CASES)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_odd_has_its_right_outcome(case: Case, tmp_path: Path) -> None:
    case.check(case.make(tmp_path))


def test_cases_have_names_of_their_own_and_sources() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.source == OWN or case.source.startswith("https://") for case in CASES)
