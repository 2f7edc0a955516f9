"""Every case of the corpus that is a model."""

import pytest

from tests.corpus import models


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", models.CASES, ids=lambda case: case.name)
def test_models_are_drawn_from_or_refused_by_name(case, tmp_path):
    case.check(case.make(tmp_path))
