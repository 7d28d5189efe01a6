"""A paper's claim as an experiment: measured over seeds, with an interval and a verdict."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tenfold.core.reports import Cell, Table

__all__ = ["Claim", "Finding", "Verdict", "tabulate"]

Verdict = Literal["holds", "refuted", "undecided"]

# Student's t, two-sided 95 %, for 1, 2, ... degrees of freedom.
_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Claim:
    """A number that a paper, or we, promise.

    Attributes:
        name: Short and unique within a room: "A1".
        statement: What is compared with what, in one line, with the unit.
        source: Where it is stated: figure, table, section, or "ours".
        bound: The least value that is promised, or the greatest.
        at_least: Whether `bound` is the least.
    """

    name: str
    statement: str
    source: str
    bound: float
    at_least: bool = True


@dataclass(frozen=True)
class Finding:
    """What was measured of a claim.

    Attributes:
        claim: The claim.
        values: One value per seed, at least one.
    """

    claim: Claim
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.values or not all(map(math.isfinite, self.values)):
            raise ValueError(f"claim {self.claim.name}: one finite value per seed is needed, not {self.values}")

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the mean by Student's t; unbounded for a single seed."""
        freedom = len(self.values) - 1
        if freedom == 0:
            return -math.inf, math.inf
        quantile = _QUANTILES[min(freedom, len(_QUANTILES)) - 1]  # beyond the table: a little too wide
        margin = quantile * statistics.stdev(self.values) / math.sqrt(len(self.values))
        return self.mean - margin, self.mean + margin

    @property
    def verdict(self) -> Verdict:
        """Whether the whole interval is on the promised side of the bound, on the other, or neither."""
        low, high = self.interval
        bound = self.claim.bound
        kept, broken = (low >= bound, high < bound) if self.claim.at_least else (high <= bound, low > bound)
        return "holds" if kept else "refuted" if broken else "undecided"


def tabulate(title: str, findings: Sequence[Finding], notes: Sequence[str] = ()) -> Table:
    """A line per claim: what is promised, what was measured, the verdict."""
    rows: list[list[Cell]] = []
    for finding in findings:
        claim, (low, high) = finding.claim, finding.interval
        promised = f"{'≥' if claim.at_least else '≤'} {claim.bound:g}"
        each = ", ".join(f"{value:.4g}" for value in finding.values)
        spread = f"{low:.4g} to {high:.4g}" if math.isfinite(low) else "one seed"
        rows.append([claim.name, claim.statement, claim.source, promised, finding.mean, each, spread, finding.verdict])
    columns = ["claim", "what is measured", "source", "promised", "mean", "each seed", "95 % interval", "verdict"]
    return Table(title, columns, rows, notes)
