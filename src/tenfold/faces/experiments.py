"""How the claims of bridge distillation are measured: the bridge in miniature, on people nobody has learned from.

N faces · S side of a crop · C = 3 channels · D teacher's dimension · d student's dimension

For each seed the people of every set are dealt out anew: private ones, of whom only the teacher learns; public ones, of
whom adapter and students learn; and those on whom all are measured. Sets with few faces of a person are public only.
A teacher that is given has its own private people; then nobody here is private.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.core.progress import Progress, no_progress
from tenfold.faces.comparisons import compare
from tenfold.faces.degradation import Degradation, enlarge, shrink
from tenfold.faces.export import Quantisation, export_int8
from tenfold.faces.features import teacher_features
from tenfold.faces.model import StudentConfig
from tenfold.faces.preparation import LabelledCrops, prepare
from tenfold.faces.recognition import FaceModel, HighResolution, load
from tenfold.faces.settings import AdaptConfig, DistillConfig, Method, Provenance, TeacherConfig
from tenfold.faces.teachers import SmallTeacher, Teacher
from tenfold.faces.thresholds import calibrate
from tenfold.faces.training import adapt, apply_adapter, distill, train_teacher
from tenfold.faces.verification import verification

__all__ = ["BASELINES", "FACES_PER_PERSON", "MULTI", "TEACHER", "Effort", "Outcome", "Score", "measure", "read_sets"]

TEACHER = "teacher"  # the folder beside the sets that holds one
FACES_PER_PERSON = 5  # of sets whose people are tested; the others are public only
_LEAST_PEOPLE = 12  # of such a set: a third are tested, on half of whom a threshold is calibrated
BASELINES: tuple[Method, ...] = ("scratch", "direct", "regression_only", "hinton", "fitnet")
MULTI = (16, 20, 24, 32, 48)
_CALIBRATED_FAR = 0.01
Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


@dataclass(frozen=True)
class Effort:
    """How much is trained.

    Attributes:
        teacher_epochs: Of the small teacher, where none is given.
        adapter_epochs: Of step 1.
        steps: Of every student, about.
        batch: Faces in a step.
        sizes: Sides at which the bridge and all baselines are compared.
        alpha: What the regression counts, for all methods that have one.
    """

    teacher_epochs: int = 30
    adapter_epochs: int = 30
    steps: int = 1200
    batch: int = 64
    sizes: tuple[int, ...] = (16, 32)
    alpha: float = 1.0


@dataclass(frozen=True)
class Score:
    """One embedder on one set.

    Attributes:
        auc: Of verification over all pairs.
        tar: At a FAR of 1 %.
        rank1: One face of each person enrolled, averaged over which; probes and gallery by the same embedder.
    """

    auc: float
    tar: float
    rank1: float


@dataclass
class Outcome:
    """What one seed came to.

    Attributes:
        scores: By method and size ("bridge 16"), by set.
        crossed: Rank 1 of small probes against big gallery faces, by "bridge 16", "dlib" and the like, by set.
        curves: AUC by size of the student for several sizes, by set.
        multi_rank1: Rank 1 of the student for several sizes, by size, by set.
        int8: What int8 costs the student of the first size.
        far: FAR on people who were not calibrated on, and the interval that was stated for it, of the same student.
        counts: Private, public and tested people.
        schedule: Steps of every student, and faces in each.
    """

    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    crossed: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    multi_rank1: dict[str, dict[int, float]] = field(default_factory=dict)
    int8: Quantisation | None = None
    far: tuple[float, float, float] = (0.0, 0.0, 0.0)
    counts: tuple[int, int, int] = (0, 0, 0)
    schedule: tuple[int, int] = (0, 0)


# --- data -------------------------------------------------------------------------------------------------------------


def read_sets(folder: Path, cache: Path, progress: Progress = no_progress) -> dict[str, LabelledCrops]:
    """Every set in a folder but `TEACHER`: a folder of people, or one with `people.csv`, whose files' names are people.

    Pictures are taken as crops. Raises InputError where no set has people with enough faces to be tested.
    """
    sets: dict[str, LabelledCrops] = {}
    places = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    for place in (path for path in places if path.name != TEACHER):
        by_file = (place / "people.csv").exists()
        sets[place.name] = prepare(place, None, "file" if by_file else "folder", cache, progress)
    if not any(_is_tested(faces) for faces in sets.values()):
        raise InputError(
            f"{folder}: has no set of {_LEAST_PEOPLE} people with {FACES_PER_PERSON} faces each; give a folder with a "
            "folder for each set, in which there is a folder for each person"
        )
    return sets


def _is_tested(faces: LabelledCrops) -> bool:
    people, counts = np.unique(faces.labels_N, return_counts=True)
    return len(people) >= _LEAST_PEOPLE and float(np.median(counts)) >= FACES_PER_PERSON


@dataclass(frozen=True)
class _Deal:
    """Who is what for one seed."""

    private: LabelledCrops | None
    public: LabelledCrops
    tests: dict[str, LabelledCrops]

    @property
    def counts(self) -> tuple[int, int, int]:
        tested = sum(len(np.unique(test.labels_N)) for test in self.tests.values())
        private = 0 if self.private is None else len(np.unique(self.private.labels_N))
        return private, len(np.unique(self.public.labels_N)), tested


def _deal(sets: dict[str, LabelledCrops], seed: int, *, private_share: float) -> _Deal:
    private, public, tests = [], [], {}
    for name, faces in sets.items():
        if not _is_tested(faces):
            public.append(faces)
            continue
        people = np.random.default_rng([seed, len(name)]).permutation(np.unique(faces.labels_N))
        hidden = round(private_share * len(people))
        tested = round(len(people) / 3)
        parts = people[:hidden], people[hidden : len(people) - tested], people[len(people) - tested :]
        mine, shared, test = (faces.rows(np.isin(faces.labels_N, part)) for part in parts)
        private += [mine] if hidden else []
        public.append(shared)
        tests[name] = test
    return _Deal(_join(private) if private else None, _join(public), tests)


def _join(parts: Sequence[LabelledCrops]) -> LabelledCrops:
    labels, base = [], 0
    for part in parts:
        people, numbers = np.unique(part.labels_N, return_inverse=True)
        labels.append(numbers + base)
        base += len(people)
    crops_NSSC = np.concatenate([part.crops_NSSC for part in parts])
    return LabelledCrops(crops_NSSC, np.concatenate(labels).astype(np.int64), tuple(map(str, range(base))))


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(
    sets: dict[str, LabelledCrops],
    work: Path,
    effort: Effort,
    seed: int,
    teacher: Teacher | None = None,
    progress: Progress = no_progress,
) -> Outcome:
    """Train and measure everything for one seed.

    Args:
        sets: As `read_sets` gives them.
        work: Folder for models and features; what lies there already goes on.
        effort: How much.
        seed: Deals the people, and decides everything else that is drawn.
        teacher: None: a small one is trained on the private people.
        progress: Called along the way.
    """
    deal = _deal(sets, seed, private_share=0 if teacher else 1 / 3)
    place, outcome = work / f"seed{seed}", Outcome(counts=deal.counts)
    works = 4 + len(effort.sizes) * (1 + len(BASELINES))
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        progress(f"seed {seed}", min(done, works), works)

    if teacher is None:
        teacher = _own_teacher(deal, place / "teacher", effort, seed)
    step()
    seen = _Remembered(teacher, work / "features")
    features_ND = seen.features(deal.public.crops_NSSC)
    settings = AdaptConfig(epochs=effort.adapter_epochs, seed=seed)
    source = Provenance(teacher=teacher.identity, teacher_licence=teacher.licence)
    adapter, _ = adapt(features_ND, deal.public.labels_N, place / "adapter", settings, provenance=source, quiet=True)
    space = HighResolution(teacher, place / "adapter").space
    targets_ND = apply_adapter(adapter, features_ND)

    def bridge(crops_NSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        return apply_adapter(adapter, seen.features(crops_NSSC))

    step()

    _floors(outcome, deal, effort, seen.embed, bridge)
    for size in effort.sizes:
        for method in ("bridge", *BASELINES):
            mimicked = targets_ND if method in ("bridge", "regression_only") else features_ND
            student = _student(outcome, deal, mimicked, method, (size,), place, effort, seed, space)
            _score(outcome, f"{method} {size}", deal, student.embed_crops)
            if method == "bridge":
                _cross(outcome, f"bridge {size}", deal, bridge, student.embed_crops)
            step()
    _several_sizes(outcome, deal, targets_ND, place, effort, seed, space)
    step()
    first = place / f"bridge-{effort.sizes[0]}"
    tested = _join(list(deal.tests.values()))
    outcome.int8 = export_int8(first, tested.crops_NSSC, first / "int8.onnx", tested.labels_N)
    outcome.far = _observed_far(load(first), deal)
    step()
    return outcome


@dataclass(frozen=True)
class _Remembered:
    """A teacher whose features are computed once."""

    teacher: Teacher
    cache: Path

    def features(self, crops_NSSC: NDArray[np.uint8]) -> NDArray[np.float16]:
        """As `teacher_features`."""
        return teacher_features(crops_NSSC, self.teacher, self.cache)

    def embed(self, crops_NSSC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The same as float32."""
        return self.features(crops_NSSC).astype(np.float32)


def _own_teacher(deal: _Deal, place: Path, effort: Effort, seed: int) -> Teacher:
    assert deal.private is not None
    settings = TeacherConfig(epochs=effort.teacher_epochs, seed=seed, evaluate_every=0)
    train_teacher(deal.private.crops_NSSC, deal.private.labels_N, place, settings, quiet=True)
    return SmallTeacher(place)


def _student(
    outcome: Outcome,
    deal: _Deal,
    targets_ND: NDArray[np.floating],
    method: Method,
    sizes: tuple[int, ...],
    place: Path,
    effort: Effort,
    seed: int,
    space: str,
) -> FaceModel:
    """A trained student; all methods see the same faces for as many steps."""
    folder = place / f"{method}-{'-'.join(map(str, sizes))}"
    settings = DistillConfig(
        method=method, student=StudentConfig(sizes[0]), degradation=Degradation(sizes=sizes if len(sizes) > 1 else ()),
        epochs=max(1, round(effort.steps * effort.batch / len(deal.public))), batch_size=effort.batch,
        alpha=effort.alpha, seed=seed, evaluate_every=0, save_every=0,
    )  # fmt: skip
    source = Provenance(space=space if method in ("bridge", "regression_only") else "")
    distill(deal.public.crops_NSSC, deal.public.labels_N, targets_ND, folder, settings, provenance=source, quiet=True)
    training = settings.training(len(deal.public))
    outcome.schedule = training.steps, training.batch_size
    return load(folder)


def _score(outcome: Outcome, name: str, deal: _Deal, embed: Embed) -> None:
    for test, faces in deal.tests.items():
        vectors_Nd = _unit(embed(faces.crops_NSSC))
        found = verification(*compare(vectors_Nd, faces.labels_N), fars=[0.01], replicates=10)
        rank1 = _rank1(vectors_Nd, vectors_Nd, faces.labels_N)
        outcome.scores.setdefault(name, {})[test] = Score(found.auc.value, found.tar_at[0.01].value, rank1)


def _floors(outcome: Outcome, deal: _Deal, effort: Effort, teacher: Embed, bridge: Embed) -> None:
    """Pixels; the teacher and the adapter on big faces; the teacher on enlarged small ones."""
    for size in effort.sizes:
        _score(outcome, f"pixels {size}", deal, partial(_pixels, size=size))
        small = _enlarging(teacher, size)
        _score(outcome, f"upsample_teacher {size}", deal, small)
        _cross(outcome, f"upsample_teacher {size}", deal, teacher, small)
    _score(outcome, "teacher, big faces", deal, teacher)
    _score(outcome, "adapter, big faces", deal, bridge)


def _enlarging(embed: Embed, size: int) -> Embed:
    """What an embedder of big faces makes of small ones."""
    return lambda crops_NSSC: embed(enlarge(shrink(crops_NSSC, size), crops_NSSC.shape[1]))


def _pixels(crops_NSSC: NDArray[np.uint8], size: int) -> NDArray[np.float32]:
    """Grey values without their mean, whose cosine is their correlation."""
    grey_Nr = shrink(crops_NSSC, size).astype(np.float32).mean(3).reshape(len(crops_NSSC), -1)
    centred_Nr: NDArray[np.float32] = grey_Nr - grey_Nr.mean(1, keepdims=True)
    return centred_Nr


def _cross(
    outcome: Outcome,
    name: str,
    deal: _Deal,
    big: Embed,
    small: Embed,
) -> None:
    for test, faces in deal.tests.items():
        gallery_Nd, probes_Nd = _unit(big(faces.crops_NSSC)), _unit(small(faces.crops_NSSC))
        outcome.crossed.setdefault(name, {})[test] = _rank1(probes_Nd, gallery_Nd, faces.labels_N)


def _rank1(probes_Nd: NDArray[np.float32], gallery_Nd: NDArray[np.float32], labels_N: NDArray[np.int64]) -> float:
    """Share of probes whose nearest gallery face is of the same person, each person's faces enrolled one by one."""
    rows = [np.flatnonzero(labels_N == person) for person in np.unique(labels_N)]
    shares = []
    for turn in range(min(map(len, rows))):
        enrolled = np.array([own[turn] for own in rows])
        asked = np.setdiff1d(np.arange(len(labels_N)), enrolled)
        nearest = enrolled[(probes_Nd[asked] @ gallery_Nd[enrolled].T).argmax(1)]
        shares.append(float((labels_N[nearest] == labels_N[asked]).mean()))
    return float(np.mean(shares))


def _several_sizes(
    outcome: Outcome, deal: _Deal, targets_ND: NDArray[np.floating], place: Path, effort: Effort, seed: int, space: str
) -> None:
    sizes = *effort.sizes, *set(MULTI[:-1]).difference(effort.sizes)
    student = _student(outcome, deal, targets_ND, "bridge", sizes, place, effort, seed, space)
    for test, faces in deal.tests.items():
        for size in MULTI:
            vectors_Nd = student.embed_crops(faces.crops_NSSC, size=size)
            found = verification(*compare(vectors_Nd, faces.labels_N), fars=[0.01], replicates=10)
            outcome.curves.setdefault(test, {})[size] = found.auc.value
            rank1 = _rank1(vectors_Nd, vectors_Nd, faces.labels_N)
            outcome.multi_rank1.setdefault(test, {})[size] = rank1


def _observed_far(student: FaceModel, deal: _Deal) -> tuple[float, float, float]:
    """Calibrate on one half of the tested people, look at the other; FAR there, and the interval promised for it."""
    tested = _join(list(deal.tests.values()))
    people = np.unique(tested.labels_N)
    half = np.isin(tested.labels_N, people[::2])
    vectors_Nd = student.embed_crops(tested.crops_NSSC)
    pairs = compare(vectors_Nd[half], tested.labels_N[half])
    threshold = calibrate(pairs.scores, pairs.people, _CALIBRATED_FAR)
    others = compare(vectors_Nd[~half], tested.labels_N[~half])
    far = float(threshold.accepts(others.scores[~others.same]).mean())
    return far, *threshold.expected(len(people) // 2)


def _unit(vectors_Nd: NDArray[np.floating]) -> NDArray[np.float32]:
    lengths_N1 = np.linalg.norm(vectors_Nd, axis=1, keepdims=True)
    unit_Nd: NDArray[np.float32] = (vectors_Nd / np.maximum(lengths_N1, 1e-12)).astype(np.float32)
    return unit_Nd
