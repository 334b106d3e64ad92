"""No damaged file is believed: `tests/soak/mutate.py` tries many more."""

from pathlib import Path

import pytest

from tests.helpers.mutations import KINDS, REFUSED, try_mutations


@pytest.mark.parametrize("name", ["checkpoint", "expert", "features"])
def test_no_mutation_of_a_file_is_accepted_with_another_answer(name: str, tmp_path: Path) -> None:
    kind = KINDS[name](tmp_path / "good")
    # without a seal, some of these give another answer, of each kind
    counts = try_mutations(kind, range(15, 30), tmp_path / "mutated")
    assert counts[REFUSED] > 8
