"""The model cards of teachers, adapters and students: as training writes them, and what is measured afterwards."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tenfold.core.artifacts import ModelCard
from tenfold.core.errors import InputError
from tenfold.core.files import replace_file
from tenfold.core.reports import Table
from tenfold.faces.settings import Provenance

__all__ = ["add_measures", "make_card"]

_SUMMARIES = {
    "student": "Embeds aligned faces of few pixels, so that the cosine of two says whether they show one person. "
    "Taught by bridge distillation (Ge et al., IEEE TIP 2020), or by what that is compared with: method `{method}`.",
    "adapter": "Carries a teacher's features of big faces to public faces and to the dimension of a student: step 1 of "
    "bridge distillation (Ge et al., IEEE TIP 2020).",
    "teacher": "A small residual network for aligned faces of 112 px, to try bridge distillation with.",
}
_INTENDED = (
    "Verification and identification of people who agreed to it, in galleries that they can leave, and research into "
    "faces of few pixels."
)
_LIMITS = (
    "Face templates are biometric data: in most places their use needs a legal ground. Not for covert or real-time "
    "identification in public, not for faces collected by untargeted scraping, not for guessing age, gender, origin, "
    "health or mood. Scores mean nothing without a threshold calibrated on faces like those in use; errors differ "
    "between groups of people and must be measured by group before use. "
)


def make_card(
    kind: str, method: str, people: int, faces: int, metrics: Mapping[str, float], provenance: Provenance
) -> ModelCard:
    """The card of a model.

    Args:
        kind: `student`, `adapter` or `teacher`.
        method: How a student was taught.
        people: How many people it was trained on.
        faces: How many of their faces.
        metrics: What was measured, by name.
        provenance: Data sets and teacher.
    """
    limits = f"{_LIMITS}Trained on {faces:,} faces of {people:,} people"
    if kind != "teacher":
        teacher = provenance.teacher or "not named"
        limits += f"; teacher: {teacher}, licence of its weights: {provenance.teacher_licence}"
    return ModelCard(
        title=f"Faces: {kind}",
        room="faces",
        summary=_SUMMARIES[kind].format(method=method),
        data=provenance.data,
        metrics=metrics,
        intended_use=_INTENDED,
        limits=limits + ".",
        license=provenance.license,
    )


def add_measures(folder: Path, whom: str, tables: Sequence[Table]) -> None:
    """Put tables on a model's card, in a section of their own that takes the place of an older one of that name.

    Args:
        folder: The model's.
        whom: Whose faces were measured.
        tables: What came of it.

    Raises InputError where there is no card, or it cannot be written.
    """
    path, heading = folder / "README.md", f"## Measured on {' '.join(whom.split())}"
    try:
        first, *sections = path.read_text(encoding="utf-8").rstrip().split("\n\n## ")
        kept = [f"## {section}" for section in sections if f"## {section.splitlines()[0]}" != heading]
        measured = "\n\n".join([heading, *(table.to_markdown().strip() for table in tables)])
        with replace_file(path) as partial:
            partial.write_text("\n\n".join([first, *kept, measured]) + "\n", encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the card cannot be added to ({error}); give the folder of a model") from None
