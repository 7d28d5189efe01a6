"""The measures on real faces with pixels for an embedding: floors, a threshold's FAR elsewhere, audits, a report."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.evaluation import (
    all_pairs,
    by_group,
    calibrate,
    compare,
    evaluate,
    identification,
    one_shot,
    open_set,
    read_groups,
    resolution_curve,
    ten_fold,
    verification,
)
from tenfold.faces.plots import (
    cmc_plot,
    det_plot,
    group_table,
    identification_table,
    open_set_plot,
    open_set_table,
    resolution_plot,
    resolution_table,
    ten_fold_table,
    verification_table,
)


def data() -> Path:
    folder = Path(os.environ.get("TENFOLD_DATA", "no TENFOLD_DATA")) / "faces"
    if not (folder / "orl").is_dir():
        pytest.skip(f"{folder} has no orl; set TENFOLD_DATA")
    return folder


def shrink(path: Path, size: int) -> np.ndarray:
    """A grey picture made small by areas, (size * size,)."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("L").resize((size, size), Image.Resampling.BOX), np.float64).ravel()


def without_mean(pixels: np.ndarray) -> np.ndarray:
    """Cosines of these are correlations of pixels."""
    return pixels - pixels.mean(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def orl() -> tuple[np.ndarray, np.ndarray]:
    """300 faces of 30 people at 16 x 16 pixels, and their labels."""
    paths = sorted((data() / "orl").glob("s*/*.png"))
    people = sorted({path.parent.name for path in paths})
    labels = np.array([people.index(path.parent.name) for path in paths])
    return without_mean(np.stack([shrink(path, 16) for path in paths])), labels


@pytest.fixture(scope="module")
def yale_b() -> tuple[np.ndarray, np.ndarray]:
    paths = sorted((data() / "yale_b").glob("*/*.png"))
    people = sorted({path.parent.name for path in paths})
    labels = np.array([people.index(path.parent.name) for path in paths])
    return without_mean(np.stack([shrink(path, 16) for path in paths])), labels


def test_floors_of_orl_are_the_measured_ones(orl: tuple[np.ndarray, np.ndarray]) -> None:
    """Pixel correlation at 16 px: AUC 0.943, TAR at FAR 1 % 0.593; one-shot rank 1 0.712 over other draws."""
    found, shot = verification(*compare(*orl), replicates=50), one_shot(*orl, replicates=50)
    assert found.auc.value == pytest.approx(0.943, abs=0.0005)
    assert found.tar_at[0.01].value == pytest.approx(0.593, abs=0.0015)
    assert shot.rank1.value == pytest.approx(0.712, abs=0.02)
    assert found.auc.high - found.auc.low > 0.03  # thirty people
    assert (found.genuine, found.impostor, found.people) == (1350, 43500, 30)


def test_floors_of_yale_b_are_the_measured_ones(yale_b: tuple[np.ndarray, np.ndarray]) -> None:
    """Lighting defeats pixels: AUC 0.611, TAR at FAR 1 % 0.133, one-shot rank 1 0.265."""
    found, shot = verification(*compare(*yale_b), replicates=5), one_shot(*yale_b, replicates=5)
    assert found.auc.value == pytest.approx(0.611, abs=0.002)
    assert found.tar_at[0.01].value == pytest.approx(0.133, abs=0.003)
    assert shot.rank1.value == pytest.approx(0.265, abs=0.03)


@pytest.mark.parametrize("name", ["orl", "yale_b"])
def test_observed_far_on_other_people_is_in_the_stated_interval(name: str, request: pytest.FixtureRequest) -> None:
    """Acceptance 10: one half of the people calibrates for FAR 1 %, the other half shows a FAR within `expected` in at
    least 27 of 30 splits (95 % are promised; splits of thirty people are not independent).
    """
    vectors, labels = request.getfixturevalue(name)
    held = 0
    for seed in range(30):
        people = np.random.default_rng(seed).permutation(labels.max() + 1)
        chosen = np.isin(labels, people[: len(people) // 2])
        pairs = compare(vectors[chosen], labels[chosen])
        threshold = calibrate(pairs.scores, pairs.people, 0.01, replicates=100)
        scores, same, _ = compare(vectors[~chosen], labels[~chosen])
        low, high = threshold.expected(len(people) - len(people) // 2)
        held += low <= threshold.accepts(scores[~same]).mean() <= high
    assert held >= 27


def test_an_audit_of_real_people_reads_its_groups_from_the_file() -> None:
    """London, neutral against smiling at the threshold for FAR 1 %: rates by self-reported gender and ethnicity."""
    paths = sorted((data() / "london").glob("*/*.jpg"))
    people = sorted({path.stem for path in paths})
    labels = np.array([people.index(path.stem) for path in paths])
    pairs = compare(without_mean(np.stack([shrink(path, 16) for path in paths])), labels)
    threshold = calibrate(pairs.scores, pairs.people, 0.01, replicates=50)
    genders = read_groups(data() / "london/people.csv", "gender", people)
    rows = {row.group: row for row in by_group(*pairs, genders, threshold.value, replicates=200)}
    assert list(rows) == ["all", "female", "male"]
    assert (rows["female"].people, rows["male"].people, rows["all"].people) == (34, 37, 71)
    assert rows["all"].fmr.value == pytest.approx(0.01, abs=1e-3)
    ethnicities = read_groups(data() / "london/people.csv", "ethnicity", people)
    assert len(ethnicities) == 71
    few = {row.group: row for row in by_group(*pairs, ethnicities, threshold.value, replicates=200)}["west_asian"]
    assert few.people == 6 and few.fnmr.high - few.fnmr.low > 0.3  # six people do not tell
    table = group_table(list(rows.values()), threshold.value)
    assert [row[0] for row in table.rows] == ["all", "female", "male"] and "[" in str(table.rows[0][1])


def test_closed_and_open_set_of_real_faces(orl: tuple[np.ndarray, np.ndarray]) -> None:
    """Half of each person's faces in the gallery, ten people of none: several templates help, distractors do not."""
    vectors, labels = orl
    first = np.arange(len(labels)) % 2 == 0
    gallery, strangers = first & (labels < 20), labels >= 20
    probes = ~first & (labels < 20)
    arguments = vectors[probes], labels[probes], vectors[gallery], labels[gallery]
    alone = identification(*arguments, replicates=20)
    crowded = identification(*arguments, vectors[strangers], replicates=20)
    assert crowded.rank_at[1].value <= alone.rank_at[1].value > 0.85
    assert crowded.mean_average_precision.value < alone.mean_average_precision.value
    single = gallery & (np.arange(len(labels)) % 10 == 0)
    one = identification(vectors[probes], labels[probes], vectors[single], labels[single], replicates=20)
    assert one.rank_at[1].value < alone.rank_at[1].value
    everybody = ~first
    found = open_set(vectors[everybody], labels[everybody], *arguments[2:], fpirs=(0.1, 0.02), replicates=50)
    assert (found.mated, found.unmated) == (100, 50)
    assert 0 < found.tpir_at[0.02].value <= found.tpir_at[0.1].value <= alone.rank_at[1].value
    methods = {"alone": alone, "crowded": crowded}
    assert [row[0] for row in identification_table(methods).rows] == ["alone", "crowded"]
    assert open_set_table({"pixels": found}).rows[0][3:] == [100, 50]
    for plot in (cmc_plot(methods), open_set_plot({"pixels": found})):
        assert plot.to_svg().startswith("<svg")


def test_more_pixels_are_measured_with_the_same_pairs(orl: tuple[np.ndarray, np.ndarray]) -> None:
    """At 4 px less is left than at 8 px and 16 px; at 16 px it is what `verification` says."""
    vectors, labels = orl
    crops = np.repeat(vectors.reshape(-1, 16, 16, 1), 3, axis=3)

    def embed(crops_NSSC: np.ndarray, size: int) -> np.ndarray:
        step = 16 // size
        return crops_NSSC[..., 0].reshape(-1, size, step, size, step).mean(axis=(2, 4)).reshape(len(crops_NSSC), -1)

    crops = (crops - crops.min()) / np.ptp(crops) * 255
    curve = resolution_curve(lambda c, size: without_mean(embed(c, size)), crops.astype(np.uint8), labels, [4, 8, 16],
                             replicates=20)  # fmt: skip
    assert curve[0].auc.value < curve[2].auc.value and curve[0].rank1.value < curve[2].rank1.value
    assert curve[2].auc.value == pytest.approx(0.943, abs=0.002)
    table = resolution_table({"pixels": curve})
    assert [row[1] for row in table.rows] == [4, 8, 16] and table.columns[3] == "TAR at FAR 0.01"
    assert resolution_plot({"pixels": curve}).series[0].x == [4, 8, 16]
    with pytest.raises(InputError, match="give some of 1 to 16"):
        resolution_curve(embed, crops.astype(np.uint8), labels, [32])


def test_a_report_of_it_all(orl: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> None:
    """Tables and plots of one embedder, with groups, as HTML, Markdown and JSON."""
    vectors, labels = orl
    groups = {label: "even" if label % 2 == 0 else "odd" for label in range(30)}
    report = evaluate(vectors, labels, "pixels", groups=groups)
    titles = ["Verification", "One shot", "Identification, closed set", "Identification, open set", "Errors by group"]
    assert [table.title for table in report.tables] == titles
    assert report.tables[2].rows[0][-2:] == [15 * 9, 15]  # probes, entries
    assert report.tables[3].rows[0][-2:] == [15 * 9, 15 * 10]  # of enrolled people, of strangers
    assert report.tables[0].rows[0][1].startswith("0.943 [")  # type: ignore[union-attr]
    assert report.tables[0].rows[0][-1].startswith("0.327 [")  # type: ignore[union-attr]
    assert "calibrated on these people" in report.notes[1]
    read = json.loads(report.to_json())
    assert len(read["plots"]) == 5 and len(read["plots"][0]["series"][0]["x"]) <= 1501
    [page, *_] = report.write(tmp_path, "faces")
    assert page.stat().st_size < 1_000_000


@pytest.mark.parametrize("people", [[0, 0, 1], [0, 0, 1, 1], [0, 0, 0, 1, 2, 3]])
def test_the_least_that_can_be_evaluated_is(people: list[int], tmp_path: Path) -> None:
    """Two people of whom one has two faces, told apart without an error: tables, and pages without a point to draw."""
    report = evaluate(np.eye(4)[people], people, "perfect")
    assert report.tables[1].rows[0][1].startswith("1 [")  # type: ignore[union-attr]
    assert report.tables[2].rows[0][1].startswith("1 [")  # type: ignore[union-attr]
    report.write(tmp_path, "faces")


def test_tables_say_what_was_not_measured_and_on_what_the_intervals_rest() -> None:
    scores, same = [0.1, 0.2, 0.3, 0.4], [False, False, True, True]
    pairs = verification(scores, same, replicates=5)
    people = verification(scores, same, [[0, 1], [0, 1], [0, 0], [1, 1]], replicates=5)
    table = verification_table({"method": pairs})
    assert table.rows[0][-1] == "–" and "too narrow" in table.notes[1]
    assert "people" in verification_table({"method": people}).notes[1]
    assert "too narrow" not in verification_table({"method": people}).notes[1]
    assert det_plot({"method": pairs.curve}).series[0].x == []  # no errors, nothing to draw on a logarithmic scale


def test_ten_folds_make_a_table() -> None:
    found = ten_fold([0.0, 1.0] * 20, [False, True] * 20, np.repeat(np.arange(10), 4))
    assert ten_fold_table({"method": found}).rows == [["method", 1.0, 0.0, 1.0, 1.0, 0.5]]


def test_a_sample_of_pairs_measures_what_all_pairs_do(orl: tuple[np.ndarray, np.ndarray]) -> None:
    vectors, labels = orl
    some = verification(*compare(vectors, labels, limit=20_000), replicates=5)
    assert (some.genuine, some.impostor) == (1350, 18_650)
    assert some.auc.value == pytest.approx(0.943, abs=0.005)
    assert len(all_pairs(labels)[0]) == 44_850
