"""The gate: above 0.65, in every group, for at least 95 % of the images."""

from dataclasses import replace

import numpy as np
import pytest

from tenfold.anatomy.gate import gate, gate_table
from tenfold.anatomy.labels import QC_GROUPS
from tenfold.core.errors import InputError

from .conftest import made_people


def scored(scores: np.ndarray):
    return replace(made_people(len(scores)), qc_SG=scores, groups=QC_GROUPS)


def test_a_set_passes_at_95_percent_in_every_group() -> None:
    scores = np.full((100, 8), 0.8)
    scores[:5, 3] = 0.65  # not above
    found = gate(scored(scores))
    assert (
        found.passes
        and found.shares_G.tolist() == [1, 1, 1, 0.95, 1, 1, 1, 1]
        and found.rejected == pytest.approx(0.05)
    )
    scores[5, 3] = 0.6
    assert not gate(scored(scores)).passes
    assert gate(scored(scores)).reliable_S.sum() == 94


def test_failures_in_different_groups_add_up_in_the_images_but_not_in_the_groups() -> None:
    scores = np.full((100, 8), 0.8)
    for group in range(8):
        scores[5 * group : 5 * group + 5, group] = 0.1
    found = gate(scored(scores))
    assert found.passes and found.rejected == pytest.approx(0.4)


def test_the_table_shows_every_group_and_the_rejected_share() -> None:
    table = gate_table(
        {"real": gate(scored(np.full((10, 8), 0.9))), "bad": gate(scored(np.full((10, 8), 0.3))), "none": None}
    )
    assert table.columns[-8:] == list(QC_GROUPS) and table.columns[1:3] == ["gate", "rejected"]
    assert [row[1:3] for row in table.rows] == [["passes", 0.0], ["fails", 1.0], ["no QC scores", None]]


def test_groups_that_a_table_does_not_have_are_named() -> None:
    """A set may pass for want of scores."""
    some = replace(made_people(10), qc_SG=np.full((10, 6), 0.9), groups=QC_GROUPS[2:])
    notes = gate_table({"whole": gate(scored(np.full((10, 8), 0.9))), "some": gate(some)}).notes
    assert notes[1:] == ["some: no scores of general white matter, general grey matter, which were not checked"]


def test_without_scores_there_is_no_gate() -> None:
    with pytest.raises(InputError, match="has no QC scores"):
        gate(made_people(5))
    with pytest.raises(InputError, match="threshold is 65"):
        gate(scored(np.full((3, 8), 0.8)), threshold=65)
