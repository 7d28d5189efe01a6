"""The measures as tables and plots of a report (`tenfold.core.reports`)."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.reports import Cell, Plot, Series, Table
from tenfold.faces.comparisons import check_pairs
from tenfold.faces.groups import GroupRates
from tenfold.faces.identification import Identification, OpenSet
from tenfold.faces.ranking import Curve
from tenfold.faces.resampling import Estimate
from tenfold.faces.resolution import Resolution
from tenfold.faces.verification import TenFold, Verification

__all__ = [
    "cmc_plot",
    "det_plot",
    "group_table",
    "identification_table",
    "open_set_plot",
    "open_set_table",
    "resolution_plot",
    "resolution_table",
    "roc_plot",
    "score_plot",
    "ten_fold_table",
    "verification_table",
]

INTERVALS = "in brackets: 95 % intervals over resampled people"
_BINS = 60


def verification_table(methods: Mapping[str, Verification], title: str = "Verification") -> Table:
    """A row per method: AUC, equal error rate, TAR at each FAR that the first method has."""
    fars = list(next(iter(methods.values())).tar_at) if methods else []
    columns = ["method", "AUC", "EER", *(f"TAR at FAR {far:g}" for far in fars)]
    rows = [
        [name, *map(shown, (found.auc, found.eer, *(found.tar_at.get(far, _UNKNOWN) for far in fars)))]
        for name, found in methods.items()
    ]
    sizes = {f"{one.genuine:,} genuine and {one.impostor:,} impostor pairs" for one in methods.values()}
    counted = {
        "pairs of unknown people" if one.people is None else f"{one.people:,} people" for one in methods.values()
    }
    unit = INTERVALS if all(one.people for one in methods.values()) else (
        "in brackets: 95 % intervals over resampled pairs where people are unknown; too narrow if pairs share people"
    )  # fmt: skip
    return Table(title, columns, rows, [f"{', '.join(sorted(sizes))} of {', '.join(sorted(counted))}", unit])


def ten_fold_table(methods: Mapping[str, TenFold], title: str = "Verification in ten folds") -> Table:
    """A row per method: accuracy by LFW's protocol, with the standard error of its mean over the folds."""
    rows: list[list[Cell]] = [
        [name, found.mean, found.error, min(found.accuracies), max(found.accuracies), float(np.mean(found.thresholds))]
        for name, found in methods.items()
    ]
    columns = ["method", "accuracy", "standard error", "worst fold", "best fold", "mean threshold"]
    return Table(title, columns, rows, ["each fold at the threshold that is best on the others"])


def identification_table(methods: Mapping[str, Identification], title: str = "Identification, closed set") -> Table:
    """A row per method: rank k and mean average precision."""
    ranks = list(next(iter(methods.values())).rank_at) if methods else []
    columns = ["method", *(f"rank {rank}" for rank in ranks), "mAP", "probes", "entries"]
    rows: list[list[Cell]] = [
        [
            name,
            *(shown(found.rank_at.get(rank, _UNKNOWN)) for rank in ranks),
            shown(found.mean_average_precision),
            found.probes,
            found.entries,
        ]
        for name, found in methods.items()
    ]
    return Table(title, columns, rows, [INTERVALS + ", the gallery as given"])


def open_set_table(methods: Mapping[str, OpenSet], title: str = "Identification, open set") -> Table:
    """A row per method: TPIR at each FPIR that the first method has."""
    fpirs = list(next(iter(methods.values())).tpir_at) if methods else []
    columns = ["method", *(f"TPIR at FPIR {fpir:g}" for fpir in fpirs), "mated", "unmated"]
    rows: list[list[Cell]] = [
        [name, *(shown(found.tpir_at.get(fpir, _UNKNOWN)) for fpir in fpirs), found.mated, found.unmated]
        for name, found in methods.items()
    ]
    return Table(title, columns, rows, [INTERVALS + ", the gallery as given"])


def group_table(rows: Sequence[GroupRates], threshold: float, title: str = "Errors by group") -> Table:
    """A row per group: FMR and FNMR at the shared threshold."""
    columns = ["group", "FMR", "FNMR", "people", "impostor pairs", "genuine pairs"]
    cells: list[list[Cell]] = [
        [row.group, shown(row.fmr), shown(row.fnmr), row.people, row.impostor, row.genuine] for row in rows
    ]
    notes = [f"threshold {threshold:.4f} for all", INTERVALS, "pairs across groups count under all only"]
    return Table(title, columns, cells, notes)


def resolution_table(methods: Mapping[str, Sequence[Resolution]], title: str = "Accuracy by resolution") -> Table:
    """A row per method and size."""
    fars = {point.far for points in methods.values() for point in points}
    tar = f"TAR at FAR {fars.pop():g}" if len(fars) == 1 else "TAR"
    rows: list[list[Cell]] = [
        [name, point.size, shown(point.auc), shown(point.tar), shown(point.rank1)]
        for name, points in methods.items()
        for point in points
    ]
    return Table(title, ["method", "size [px]", "AUC", tar, "one-shot rank 1"], rows, [INTERVALS])


def roc_plot(methods: Mapping[str, Curve], title: str = "ROC") -> Plot:
    """True accept rate over false accept rate, the latter logarithmic."""
    series = [Series(name, *_points(curve.far, 1 - curve.frr), markers=False) for name, curve in methods.items()]
    return Plot(title, "false accept rate", "true accept rate", series, log_x=True)


def det_plot(methods: Mapping[str, Curve], title: str = "DET") -> Plot:
    """False reject rate over false accept rate, both logarithmic."""
    series = [Series(name, *_points(curve.far, curve.frr, both=True), markers=False) for name, curve in methods.items()]
    return Plot(title, "false accept rate", "false reject rate", series, log_x=True, log_y=True)


def open_set_plot(methods: Mapping[str, OpenSet], title: str = "Open set") -> Plot:
    """False negative over false positive identification rate, both logarithmic."""
    series = [
        Series(name, *_points(found.curve.far, found.curve.frr, both=True), markers=False)
        for name, found in methods.items()
    ]
    labels = "false positive identification rate", "false negative identification rate"
    return Plot(title, *labels, series, log_x=True, log_y=True)


def cmc_plot(methods: Mapping[str, Identification], title: str = "CMC") -> Plot:
    """Share of probes found, over the rank."""
    series = [
        Series(name, list(range(1, len(found.cmc) + 1)), found.cmc.tolist(), markers=False)
        for name, found in methods.items()
    ]
    return Plot(title, "rank", "share of probes found", series, log_x=True)


def resolution_plot(methods: Mapping[str, Sequence[Resolution]], title: str = "Accuracy by resolution") -> Plot:
    """TAR at FAR over the size of a face."""
    fars = {point.far for points in methods.values() for point in points}
    series = [
        Series(name, [float(point.size) for point in points], [point.tar.value for point in points])
        for name, points in methods.items()
    ]
    return Plot(title, "size of the face [px]", f"TAR at FAR {', '.join(f'{far:g}' for far in sorted(fars))}", series)


def score_plot(scores: ArrayLike, same: ArrayLike, title: str = "Scores") -> Plot:
    """Densities of genuine and impostor scores, in 60 bins from the least to the greatest."""
    pairs = check_pairs(scores, same, None)
    low, high = float(pairs.scores.min()), float(pairs.scores.max())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    series = []
    for name, kind in (("one person", pairs.same), ("different people", ~pairs.same)):
        counts, _ = np.histogram(pairs.scores[kind], edges)
        density = counts / max(1, counts.sum()) / (edges[1] - edges[0])
        series.append(Series(name, ((edges[1:] + edges[:-1]) / 2).tolist(), density.tolist(), markers=False))
    return Plot(title, "score", "density", series)


_UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))


def shown(rate: Estimate) -> str:
    """0.943 [0.92, 0.96]; what was not measured is a dash."""
    value, low, high = rate
    if not np.isfinite(value):
        return "–"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]" if np.isfinite(low) else f"{value:.3g}"


def _points(x: NDArray[np.float64], y: NDArray[np.float64], *, both: bool = False) -> tuple[list[float], list[float]]:
    """What a logarithmic axis can show."""
    kept = (x > 0) & (y > 0) if both else x > 0
    return x[kept].tolist(), y[kept].tolist()
