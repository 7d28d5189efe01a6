"""The protocols by which embedders are compared: folders of people, lists of pairs, TinyFace; each to one report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.core.reports import Report, Table
from tenfold.faces.alignment import Detector
from tenfold.faces.comparisons import cosine_scores
from tenfold.faces.crops import crop_faces, has_crop
from tenfold.faces.data import read_faces
from tenfold.faces.evaluation import evaluate
from tenfold.faces.formats.insightface import insightface_bin
from tenfold.faces.formats.pairs import Pairs, lfw_pairs
from tenfold.faces.formats.tinyface import tinyface
from tenfold.faces.groups import read_groups
from tenfold.faces.identification import identification
from tenfold.faces.plots import (
    cmc_plot,
    det_plot,
    identification_table,
    resolution_plot,
    resolution_table,
    roc_plot,
    ten_fold_table,
    verification_table,
)
from tenfold.faces.preparation import PersonFrom, prepare_faces, seen_before
from tenfold.faces.recognition import FaceModel
from tenfold.faces.resolution import resolution_curve
from tenfold.faces.verification import ten_fold, verification

__all__ = ["Questions", "evaluate_model"]


@dataclass(frozen=True)
class Questions:
    """What is asked about a folder of people, beside verification and one-shot rank 1.

    Attributes:
        far: False accept rate of the threshold.
        sizes: Sides in pixels of the resolution curve; empty: none.
        groups: CSV with a row per person, for errors by group.
        column: Its attribute.
        person: As for `read_faces`.
        seen: What `read_seen` says of the model: the report warns where pictures are among them.
    """

    far: float = 0.01
    sizes: Sequence[int] = ()
    groups: Path | None = None
    column: str = "group"
    person: PersonFrom = "folder"
    seen: frozenset[str] = frozenset()


def evaluate_model(
    model: FaceModel,
    data: Path,
    detector: Detector | None,
    pairs: Path | None = None,
    questions: Questions | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure a model by the protocol that fits the data.

    Args:
        model: The embedder.
        data: A folder of people (all pairs, one shot, threshold); with `pairs` the folder of LFW (ten folds); a .bin
            file of InsightFace (ten folds); or the folder of TinyFace (rank k and mAP among distractors).
        detector: None: the pictures are crops already.
        pairs: LFW's list of pairs.
        questions: What else is asked, most of it about a folder of people only.
        progress: Called along the way.

    Raises:
        InputError: As the readers, and where too few faces can be used.
    """
    asked = questions or Questions()
    if pairs is not None:
        return _pairs(model, lfw_pairs(data, pairs), detector, f"LFW, {pairs.name}", asked.seen, progress)
    if data.suffix == ".bin":
        return _pairs(model, insightface_bin(data), detector, data.name, asked.seen, progress)
    if (data / "Testing_Set").is_dir() or (data / "Gallery_Distractor").is_dir():
        return _tinyface(model, data, detector, asked.seen, progress)
    return _people(model, data, detector, asked, progress)


def _people(model: FaceModel, data: Path, detector: Detector | None, asked: Questions, progress: Progress) -> Report:
    """All pairs of a folder of people, one shot, by group, by resolution."""
    pictures = read_faces(data, asked.person)
    faces = prepare_faces(pictures, detector, progress=progress)
    _, counts = np.unique(faces.labels_N[faces.labels_N >= 0], return_counts=True)
    if len(counts) < 2 or counts.max() < 2:
        raise InputError(
            f"{data}: {counts.sum()} faces of {len(counts)} people can be used; give two people or more, and two "
            "pictures or more of at least one of them"
        )
    name = _name(model)
    groups = None if asked.groups is None else read_groups(asked.groups, asked.column, faces.people)
    vectors_Nd = model.embed_crops(faces.crops_NSSC)
    report = evaluate(vectors_Nd, faces.labels_N, name, asked.far, model.threshold, groups)
    notes = [*report.notes, f"faces of {model.size} px", *seen_before([pictures], asked.seen)]
    if not asked.sizes:
        return replace(report, notes=notes)

    def embed(crops_NSSC: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
        return model.embed_crops(crops_NSSC, size=size)

    curve = resolution_curve(embed, faces.crops_NSSC, faces.labels_N, asked.sizes, asked.far)
    tables = [*report.tables, resolution_table({name: curve})]
    return Report(report.title, tables, [*report.plots, resolution_plot({name: curve})], notes)


def _name(model: FaceModel) -> str:
    return f"model {model.id[:8]}"


def _pairs(
    model: FaceModel, pairs: Pairs, detector: Detector | None, name: str, seen: frozenset[str], progress: Progress
) -> Report:
    """Ten folds. Pairs of which a face was not found are left out, and the report says how many."""
    crops = crop_faces(pairs.faces, detector, progress=progress)
    found_N = np.array([has_crop(status) for status in crops.statuses], bool)
    kept_P = found_N[pairs.first] & found_N[pairs.second]
    if not kept_P.any():
        raise InputError(f"{name}: no pair has two faces that can be used; crops are read with detector none")
    vectors_Nd = np.zeros((len(found_N), model.dimension), np.float32)
    vectors_Nd[found_N] = model.embed_crops(crops.crops_NSSC[found_N])
    scores = cosine_scores(vectors_Nd, pairs.first[kept_P], pairs.second[kept_P])
    same = pairs.same[kept_P]
    folds = ten_fold(scores, same, pairs.folds[kept_P])
    verified = verification(scores, same, _owners(pairs, kept_P))
    table = ten_fold_table({_name(model): folds}, f"{name}: folds")
    left_out = f"{(~kept_P).sum():,} of {len(kept_P):,} pairs left out, of which a face was not found"
    shown = {_name(model): verified}
    curves = {_name(model): verified.curve}
    notes = [f"faces of {model.size} px", left_out, *seen_before([pairs.faces], seen)]
    tables = [table, verification_table(shown)]
    return Report(f"Faces: {name}, {_name(model)}", tables, [roc_plot(curves), det_plot(curves)], notes)


def _owners(pairs: Pairs, kept_P: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Who is on both faces of each pair; None where the set does not say."""
    labels_P2 = np.stack([pairs.faces.labels[pairs.first], pairs.faces.labels[pairs.second]], 1)[kept_P]
    return None if (labels_P2 < 0).any() else labels_P2


def _tinyface(
    model: FaceModel, root: Path, detector: Detector | None, seen: frozenset[str], progress: Progress
) -> Report:
    test = tinyface(root)
    probes, gallery, distractors = (
        prepare_faces(faces, detector, progress=progress, smallest=1)
        for faces in (test.probes, test.gallery, test.distractors)
    )
    found = identification(
        model.embed_crops(probes.crops_NSSC),
        probes.labels_N,
        model.embed_crops(gallery.crops_NSSC),
        gallery.labels_N,
        model.embed_crops(distractors.crops_NSSC),
    )
    counts = [len(probes), len(gallery), len(distractors)]
    given = sum(map(len, (test.probes, test.gallery, test.distractors)))
    left_out = f"{given - sum(counts):,} of {given:,} faces left out, which cannot be used"
    alone = f"{found.without_mate:,} of {len(probes):,} probes left out, of whose person no gallery face can be used"
    table = Table("TinyFace, faces used", ["probes", "gallery", "distractors"], [[*counts]])
    methods = {_name(model): found}
    notes = [f"faces of {model.size} px", left_out, alone, *seen_before([test.probes, test.gallery], seen)]
    return Report(
        f"Faces: TinyFace, {_name(model)}", [identification_table(methods), table], [cmc_plot(methods)], notes
    )
