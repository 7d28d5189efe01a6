"""The report of the bench: what each generator passes, its regions, and drawings of both.

The same measurements give the same bytes: of the page, the Markdown, the JSON and the TSV.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tenfold.anatomy.effects import Estimate
from tenfold.anatomy.figures import box_plots, heat_map
from tenfold.anatomy.gate import Gate, gate_table
from tenfold.anatomy.plausibility import Plausibility, Region
from tenfold.anatomy.ranking import Rank
from tenfold.anatomy.sidecars import read_json
from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.core.reports import Cell, Plot, Report, Table

__all__ = ["for_terminal", "make_report", "read_report", "turn", "write_report"]

_NARROW = {
    "Verdicts": ("generator", "passes", "rejected", "gate", "anatomy", "memorised", "collapsed", "plausible regions"),
    "The sets as a whole": ("generator", "head size d", "variance ratio", "p of the greatest |d|", "WASABI"),
    "Image metrics": ("metric", "value", "± SE", "p", "features"),
    "Regions": ("region", "d", "effect", "p (Holm)", "variance ratio"),
}  # columns that fit a terminal

_ADJUSTED = {
    "real": "volumes are adjusted for head size by a regression on real people",
    "pooled": "volumes are adjusted for head size by a regression on real and generated people, as in the paper",
    "none": "volumes are not adjusted for head size",
}


def make_report(
    found: Mapping[str, Plausibility],
    ranks: Sequence[Rank] = (),
    tables: Sequence[Table] = (),
    notes: Sequence[str] = (),
    drawings: Sequence[Plot] = (),
) -> Report:
    """Gather what was found of each generator.

    Args:
        found: By the generators' names.
        ranks: Of `ranking.rank`.
        tables: What else belongs to it, such as image metrics; shown behind the verdicts.
        notes: The data, the versions.
        drawings: What else belongs to it, such as slices; shown behind those of the regions.
    """
    firsts = [_verdicts(found)]
    gates: dict[str, Gate | None] = {"real": next(iter(found.values())).real_gate}
    gates |= {name: one.generated_gate for name, one in found.items()}
    if any(gates.values()):
        firsts.append(gate_table(gates))
    firsts.append(_joint(found))
    if ranks:
        firsts.append(_ranking(ranks))
    details = [_details(name, one) for name, one in found.items() if one.regions]
    regions = [heat_map(found), box_plots(found)] if details else []
    told = dict.fromkeys(_ADJUSTED[one.adjust] for one in found.values())
    told |= dict.fromkeys(f"{name}: {note}" for name, one in found.items() for note in one.notes)
    title = "Is the anatomy plausible?"
    return Report(title, [*firsts, *tables], [*regions, *drawings], [*notes, *told], details)


def for_terminal(report: Report) -> Report:
    """The columns that fit 100 characters, and no table of what age and sex do: the files have all of it."""
    kept = [
        turn(table) if table.title == "Reliable segmentations" else _narrow(table)
        for table in (*report.tables, *report.details)
        if not table.title.startswith("What ")
    ]
    return Report(report.title, kept, (), report.notes)


def turn(table: Table) -> Table:
    """Rows for columns, for tables with many columns and few rows."""
    rows = [
        [column, *cells] for column, *cells in zip(table.columns[1:], *[row[1:] for row in table.rows], strict=True)
    ]
    return Table(table.title, [table.columns[0], *(str(row[0]) for row in table.rows)], rows, table.notes)


def write_report(report: Report, found: Mapping[str, Plausibility], folder: Path) -> list[Path]:
    """Write anatomy.html, .md, .json and drawings, and regions.tsv with every number of every region.

    Returns:
        The paths, the page first.

    Raises:
        InputError: The folder cannot be written to, or the extra `reports` is missing.
    """
    written = report.write(folder, "anatomy")
    path = folder / "regions.tsv"
    try:
        with replace_file(path) as partial:
            partial.write_text(_tsv(found), encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    return [*written, path]


def read_report(folder: Path) -> Report:
    """The tables that `write_report` has written into a folder, without the drawings.

    Raises:
        InputError: There is no anatomy.json, or it is damaged.
    """
    path = folder / "anatomy.json"
    if not path.exists():
        raise InputError(f"{path}: is not there; give the folder that evaluate --out has written")
    found = read_json(path)
    try:
        tables = [
            Table(one["title"], list(one["rows"][0]), [list(row.values()) for row in one["rows"]], one["notes"])
            for one in found["tables"]
            if one["rows"]
        ]
        return Report(found["title"], tables, (), found["notes"])
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        raise InputError(f"{path}: is damaged or no report of evaluate; write it again") from None


def _verdicts(found: Mapping[str, Plausibility]) -> Table:
    columns = [
        "generator", "passes", "rejected", "weakest group", "gate", "anatomy", "memorised", "collapsed",
        "reliable images", "plausible regions", "median |d|",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for name, one in found.items():
        flags = [*_gated(one.generated_gate), one.verdict, _copies(one), _yes(one.is_collapsed)]
        rows.append([name, _yes(one.passes), *flags, len(one.generated_SR), _known(one.share), _known(one.median_d)])
    notes = [f"{name}: {reason}" for name, one in found.items() for reason in one.reasons]
    if any(one.generated_gate for one in found.values()):
        notes.append("rejected: images whose segmentation is not reliable in some group; they are not measured")
    notes.append("a region is plausible with |d| < 0.5")
    if any(one.copies is None and one.regions for one in found.values()):
        notes.append("without training images nothing is said about memorisation")
    return Table("Verdicts", columns, rows, notes)


def _gated(has: Gate | None) -> list[Cell]:
    """The rejected share, the group with the fewest reliable images, and whether the set passes."""
    if has is None:
        return [None, None, "no QC"]
    weakest = int(has.shares_G.argmin())
    named = f"{has.groups[weakest]}: {has.shares_G[weakest]:.1%}" if has.rejected else None
    return [has.rejected, named, "passes" if has.passes else "fails"]


def _joint(found: Mapping[str, Plausibility]) -> Table:
    columns = [
        "generator", "head size d", "variance ratio", "p of the greatest |d|", "WASABI", "p of WASABI",
        "correlation error", "p of the error",
        "nearest training image", "diversity",
    ]  # fmt: skip
    rows: list[list[Cell]] = []
    for name, one in found.items():
        shown = [_shown(one.icv.d) if one.icv else None, _shown(one.spread) if one.regions else None]
        numbers = (one.p, one.wasabi, one.wasabi_p, one.correlation_error, one.correlation_p)
        nearest = None if one.copies is None else float(np.median(one.copies.distance_G))
        rows.append([name, *shown, *map(_known, numbers), nearest, one.repeats.diversity if one.repeats else None])
    notes = [
        "in brackets: 95 % intervals over resampled people; p by exchanges of real and generated people",
        "nearest training image: the median distance, in radii within which an image is taken for a copy",
    ]
    return Table("The sets as a whole", columns, rows, notes)


def _ranking(ranks: Sequence[Rank]) -> Table:
    rows: list[list[Cell]] = [
        [one.place, one.name, one.score, one.mean_place, f"{one.low} to {one.high}", one.first] for one in ranks
    ]
    columns = ["rank", "generator", "mean |d|", "mean rank", "95 % of resamples", "first in"]
    return Table(
        "Ranking",
        columns,
        rows,
        ["by the mean |d| of the regions, over resampled people; gate and copies are verdicts of their own"],
    )


def _details(name: str, one: Plausibility) -> Table:
    columns = [
        "region", "real [mm³]", "generated [mm³]", "d", "effect", "p (Holm)", "p (FDR)", "d raw", "d pooled",
        "variance ratio", "KS", "p of KS (Holm)", "asymmetry d",
    ]  # fmt: skip
    rows = [_detail(region) for region in (*([one.icv] if one.icv else []), *one.regions)]
    notes = [
        "real [mm³] and generated [mm³]: mean ± standard deviation of adjusted volumes",
        "d > 0: the generated region is too small",
        f"{len(one.real_SR)} real and {len(one.generated_SR)} generated images",
    ]
    return Table(f"Regions of {name}", columns, rows, notes)


def _detail(region: Region) -> list[Cell]:
    return [
        region.name,
        f"{region.real_mean:,.0f} ± {region.real_sd:,.0f}",
        f"{region.generated_mean:,.0f} ± {region.generated_sd:,.0f}",
        _shown(region.d),
        region.word,
        *map(_known, (region.p_holm, region.p_fdr, region.d_raw, region.d_pooled)),
        _shown(region.variance_ratio),
        *map(_known, (region.ks, region.ks_p, region.asymmetry_d)),
    ]


def _tsv(found: Mapping[str, Plausibility]) -> str:
    header = [
        "generator", "region", "real_mean_mm3", "real_sd_mm3", "generated_mean_mm3", "generated_sd_mm3", "d", "d_low",
        "d_high", "effect", "plausible", "d_raw", "d_pooled", "p", "p_holm", "p_fdr", "variance_ratio",
        "variance_ratio_low", "variance_ratio_high", "ks", "ks_p_holm", "asymmetry_d",
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(header)
    for name, one in found.items():
        for region in (*([one.icv] if one.icv else []), *one.regions):
            values = [
                region.real_mean, region.real_sd, region.generated_mean, region.generated_sd, *region.d, region.word,
                str(region.is_plausible).lower(), region.d_raw, region.d_pooled, region.p, region.p_holm, region.p_fdr,
                *region.variance_ratio, region.ks, region.ks_p, region.asymmetry_d,
            ]  # fmt: skip
            writer.writerow([name, region.name, *map(_written, values)])
    return text.getvalue()


def _written(value: str | float) -> str:
    """Ten digits: what is behind them differs between processors. Missing values are n/a, as in BIDS."""
    return value if isinstance(value, str) else "n/a" if math.isnan(value) else f"{value:.10g}"


def _copies(one: Plausibility) -> str | None:
    if one.copies is None:
        return None
    return f"yes: {one.copies.copied:.0%} are copies" if one.copies.memorised else "no"


def _narrow(table: Table) -> Table:
    wanted = next((names for start, names in _NARROW.items() if table.title.startswith(start)), table.columns)
    places = [place for place, name in enumerate(table.columns) if name in wanted]
    rows = [[row[place] for place in places] for row in table.rows]
    left_out = tuple(name for name in table.columns if name not in wanted)
    notes = [note for note in table.notes if not note.startswith(left_out)]
    return Table(table.title, [table.columns[place] for place in places], rows, notes)


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
