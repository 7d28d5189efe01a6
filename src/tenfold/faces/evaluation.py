"""The whole evaluation of an embedder on labelled faces, in one call, as a report.

The single measures: `verification` (1:1), `identification` (1:N), `thresholds`, `groups`, `resolution`; how their
intervals come about: `resampling`.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.reports import Plot, Report, Table
from tenfold.faces.comparisons import MANY, Comparisons, all_pairs, check_labels, compare, cosine_scores
from tenfold.faces.groups import GroupRates, by_group, read_groups
from tenfold.faces.identification import Identification, OneShot, OpenSet, identification, one_shot, open_set
from tenfold.faces.plots import (
    cmc_plot,
    det_plot,
    group_table,
    identification_table,
    open_set_plot,
    open_set_table,
    roc_plot,
    score_plot,
    shown,
    verification_table,
)
from tenfold.faces.ranking import Curve
from tenfold.faces.resampling import Estimate
from tenfold.faces.resolution import Resolution, resolution_curve
from tenfold.faces.thresholds import Threshold, calibrate
from tenfold.faces.verification import (
    FARS,
    TenFold,
    Verification,
    ten_fold,
    verification,
)

__all__ = [
    "Comparisons",
    "Curve",
    "Estimate",
    "GroupRates",
    "Identification",
    "OneShot",
    "OpenSet",
    "Resolution",
    "TenFold",
    "Threshold",
    "Verification",
    "all_pairs",
    "by_group",
    "calibrate",
    "compare",
    "cosine_scores",
    "evaluate",
    "identification",
    "one_shot",
    "open_set",
    "read_groups",
    "resolution_curve",
    "ten_fold",
    "verification",
]


def evaluate(
    vectors_Nd: ArrayLike,
    labels: ArrayLike,
    name: str,
    far: float = 0.01,
    threshold: Threshold | None = None,
    groups: Mapping[int, str] | None = None,
    limit: int = MANY,
    seed: int = 0,
) -> Report:
    """Verification over all pairs, one-shot rank 1, a search, a threshold, and errors by group if there are groups.

    For the search a random half of the people are enrolled with one face each. Their other faces are looked up among
    them (closed set), and are to be told from those of the other half, who are strangers (open set).

    Args:
        vectors_Nd: (N, d) embeddings of faces, of at least two people, one with two faces.
        labels: (N,) int64, their people.
        name: Of the embedder, for the tables.
        far: For the threshold, where none is given.
        threshold: Calibrated on other people; otherwise one is calibrated on these.
        groups: Group by label, see `read_groups`; the errors are at the threshold.
        limit: The most pairs; where there are more, a random sample of them.
        seed: Of that sample and of the resampling.
    """
    people = check_labels(labels, len(np.asarray(vectors_Nd)))
    pairs = compare(vectors_Nd, people, limit, seed)
    verified = verification(*pairs, fars=sorted({*FARS, far}, reverse=True), seed=seed)
    shot = one_shot(vectors_Nd, people)
    spread = f"{min(shot.values):.3g} to {max(shot.values):.3g}"
    found = Table("One shot", ["method", "rank 1", "over seeds"], [[name, shown(shot.rank1), spread]])
    source = "kept with the model" if threshold else "calibrated on these people"
    limit_used = threshold or calibrate(pairs.scores, pairs.people, far, seed=seed)
    searched, search_plots = _search(vectors_Nd, people, name, seed)
    tables = [verification_table({name: verified}), found, *searched]
    if groups:
        rows = by_group(*pairs, groups, limit_used.value, seed=seed)
        tables.append(group_table(rows, limit_used.value))
    plots = [roc_plot({name: verified.curve}), det_plot({name: verified.curve}), score_plot(pairs.scores, pairs.same)]
    plots += search_plots
    notes = [f"{len(people):,} faces of {len(np.unique(people)):,} people, seed {seed}"]
    return Report(f"Faces: {name}", tables, plots, [*notes, f"threshold ({source}): {limit_used.describe()}"])


def _search(vectors_Nd: ArrayLike, labels_N: NDArray[np.int64], name: str, seed: int) -> tuple[list[Table], list[Plot]]:
    """1:N, closed and open set, with half of the people enrolled by one face each."""
    vectors, random = np.asarray(vectors_Nd), np.random.default_rng(seed)
    people, counts = np.unique(labels_N, return_counts=True)
    chosen = random.permutation(people[counts > 1])[: len(people) // 2]
    order = random.permutation(len(labels_N))
    order = order[np.isin(labels_N[order], chosen)]
    gallery = order[np.unique(labels_N[order], return_index=True)[1]]  # the first of each in random order
    probes = np.setdiff1d(np.arange(len(labels_N)), gallery)
    asked = vectors[probes], labels_N[probes], vectors[gallery], labels_N[gallery]
    closed, opened = {name: identification(*asked, seed=seed)}, {name: open_set(*asked, seed=seed)}
    return [identification_table(closed), open_set_table(opened)], [cmc_plot(closed), open_set_plot(opened)]
