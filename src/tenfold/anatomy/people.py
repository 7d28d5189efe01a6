"""Do brains that are said to be old, or of a man, look like it? For generators that are asked for age or sex.

R regions
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tenfold.anatomy.effects import cohens_d
from tenfold.anatomy.headsize import Adjust, fit_head_size
from tenfold.anatomy.volumes import Measured
from tenfold.core.reports import Cell, Table

__all__ = ["people_effects", "people_tables"]

_MISSING = ("", "n/a", "nan", "NA")
_FEWEST = 3  # of a group, or with a number


def people_effects(
    real: Measured, generated: Measured, column: str, adjust: Adjust = "real"
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """How volumes depend on a column of people, in real and in generated images, for the regions that both have.

    Numbers, such as ages: the correlation of volumes with them. Two groups, such as F and M: Cohen's d between them,
    the first in the alphabet minus the second. Volumes are adjusted for head size as in `compare`.

    Returns:
        (R,) of real and (R,) of generated images; None where the column is not in both, or says neither.
    """
    regions = [name for name in real.regions if name in generated.regions]
    sets = real.only(regions), generated.only(regions)
    if any(column not in one.people for one in sets):
        return None
    volumes, icv = np.concatenate([one.volumes_SR for one in sets]), np.concatenate([one.icv_S for one in sets])
    is_real = np.arange(len(icv)) < len(real)
    adjusted = fit_head_size(volumes, icv, is_real, adjust).adjust(volumes, icv)
    groups = sorted({value for one in sets for value in one.people[column] if value not in _MISSING})
    found = [
        _effects(values, one.people[column], groups)
        for values, one in zip((adjusted[is_real], adjusted[~is_real]), sets, strict=True)
    ]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def people_tables(name: str, real: Measured, generated: Measured, adjust: Adjust = "real") -> list[Table]:
    """A table per column of people that both sets have: the effect in real and in generated images, by region."""
    tables = []
    for column in real.people:
        found = people_effects(real, generated, column, adjust)
        if found is None:
            continue
        names = [one for one in real.regions if one in generated.regions]
        rows: list[list[Cell]] = [
            [region, float(one), float(other), float(other - one)]
            for region, one, other in zip(names, *found, strict=True)
        ]
        error = float(np.sqrt(np.mean((found[1] - found[0]) ** 2)))
        notes = [
            f"root mean square of the differences: {error:.2f}",
            "of numbers: correlation of adjusted volumes with them",
            "of two groups: Cohen's d, the first in the alphabet minus the second",
        ]
        tables.append(
            Table(f"What {column} does to {name}", ["region", "real", "generated", "difference"], rows, notes)
        )
    return tables


def _effects(
    volumes_SR: NDArray[np.float64], values: Sequence[str], groups: Sequence[str]
) -> NDArray[np.float64] | None:
    known = np.array([value not in _MISSING for value in values])
    if len(groups) == 2:
        first, second = (np.array([value == group for value in values]) for group in groups)
        return cohens_d(volumes_SR[first], volumes_SR[second]) if min(first.sum(), second.sum()) >= _FEWEST else None
    try:
        numbers = np.array([float(value) for value, is_known in zip(values, known, strict=True) if is_known])
    except ValueError:
        return None
    if len(numbers) < _FEWEST or not np.isfinite(numbers).all() or np.ptp(numbers) == 0:
        return None
    with np.errstate(invalid="ignore"):
        correlations = np.corrcoef(numbers, volumes_SR[known], rowvar=False)[0, 1:]
    known_R: NDArray[np.float64] = np.nan_to_num(correlations)
    return known_R
