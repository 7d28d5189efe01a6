"""Structures of the brain: their label numbers, the columns that hold their volumes, the groups of the gate.

The 15 subcortical and 3 global structures and the 34 regions of Desikan's atlas are those that the paper measures
(arXiv 2409.08463). Numbers of FreeSurfer are also SynthSeg's, and those of the label maps SynthSeg is trained on; MUSE
is the atlas of DLMUSE. Which group of the gate a structure belongs to is SynthSeg's own table: the caudate nucleus, the
accumbens area and the ventral DC stand with general white matter there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "CORTICAL",
    "GLOBAL",
    "ICV",
    "QC_GROUPS",
    "STRUCTURES",
    "SUBCORTICAL",
    "Scheme",
    "Side",
    "Structure",
    "shorten",
]

Side = Literal["left", "right", "middle"]
Scheme = Literal["freesurfer", "muse"]
Kind = Literal["subcortical", "global", "cortical"]
Codes = Mapping[Side, tuple[int, ...]]

ICV = "total intracranial"
"""What SynthSeg calls the intracranial volume; the name of its row in every table of ours."""

QC_GROUPS = (
    "general white matter",
    "general grey matter",
    "general csf",
    "cerebellum",
    "brainstem",
    "thalamus",
    "putamen+pallidum",
    "hippocampus+amygdala",
)
"""The groups that SynthSeg predicts a Dice score for, in the order of its table."""

_WHITE, _GREY, _CSF, _CEREBELLUM, _STEM, _THALAMUS, _PUTAMEN, _HIPPOCAMPUS = QC_GROUPS


@dataclass(frozen=True)
class Structure:
    """A structure whose volume is measured.

    Attributes:
        name: SynthSeg's, without the side; cortical regions start with `ctx-`.
        kind: Which of the paper's lists it is in.
        group: Of the gate.
        freesurfer: Label numbers by side, also SynthSeg's. What has no side of its own is `middle`.
        muse: Likewise, in MUSE; empty where the atlas has no such structure.
        spellings: Ways to find it in a table, without the side. Each is one name, or the names of parts that add up.
    """

    name: str
    kind: Kind
    group: str
    freesurfer: Codes
    muse: Codes
    spellings: tuple[tuple[str, ...], ...]

    def codes(self, scheme: Scheme) -> Codes:
        """Label numbers by side in one of the two numberings."""
        return self.freesurfer if scheme == "freesurfer" else self.muse


def shorten(name: str) -> str:
    """What all spellings of a column share: `Left-Lateral-Ventricle` becomes `leftlateralventricle`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _sided(*codes: tuple[int, ...]) -> Codes:
    """Left, right, and what lies between; one alone is a structure in the middle."""
    sides: tuple[Side, ...] = ("middle",) if len(codes) == 1 else ("left", "right", "middle")
    return dict(zip(sides, codes, strict=False))


def _subcortical(name: str, group: str, freesurfer: Codes, muse: Codes, *spellings: str) -> Structure:
    return Structure(name, "subcortical", group, freesurfer, muse, ((name,), *((one,) for one in spellings)))


# In the label maps SynthSeg is trained on, 136, 137, 163 and 164 are parts of ventricles, 25 and 57 of white matter.
SUBCORTICAL = (
    _subcortical(
        "lateral ventricle", _CSF, _sided((4, 136), (43, 163)), _sided((52,), (51,)), "LateralVentricle"
    ),
    _subcortical(
        "inferior lateral ventricle", _CSF, _sided((5, 137), (44, 164)), _sided((50,), (49,)),
        "Inf-Lat-Vent", "InfLatVentricle",
    ),
    _subcortical(
        "cerebellum white matter", _CEREBELLUM, _sided((7,), (46,)), _sided((41,), (40,)), "Cerebellum_WM"
    ),
    _subcortical(
        "cerebellum cortex", _CEREBELLUM, _sided((8,), (47,)), _sided((39,), (38,)), "CerebellumExterior"
    ),
    _subcortical("thalamus", _THALAMUS, _sided((10, 9), (49, 48)), _sided((60,), (59,)), "ThalamusProper"),
    _subcortical("caudate", _WHITE, _sided((11,), (50,)), _sided((37,), (36,))),
    _subcortical("putamen", _PUTAMEN, _sided((12,), (51,)), _sided((58,), (57,))),
    _subcortical("pallidum", _PUTAMEN, _sided((13,), (52,)), _sided((56,), (55,))),
    _subcortical("3rd ventricle", _CSF, _sided((14,)), _sided((4,))),
    _subcortical("4th ventricle", _CSF, _sided((15,)), _sided((11,))),
    _subcortical("brain-stem", _STEM, _sided((16,)), _sided((35,))),
    _subcortical("hippocampus", _HIPPOCAMPUS, _sided((17,), (53,)), _sided((48,), (47,))),
    _subcortical("amygdala", _HIPPOCAMPUS, _sided((18,), (54,)), _sided((32,), (31,))),
    _subcortical("accumbens area", _WHITE, _sided((26,), (58,)), _sided((30,), (23,))),
    _subcortical("ventral DC", _WHITE, _sided((28,), (60,)), _sided((62,), (61,))),
)  # fmt: skip
"""The 15 subcortical structures of the paper."""

_DESIKAN = (
    "bankssts", "caudalanteriorcingulate", "caudalmiddlefrontal", "", "cuneus", "entorhinal", "fusiform",
    "inferiorparietal", "inferiortemporal", "isthmuscingulate", "lateraloccipital", "lateralorbitofrontal", "lingual",
    "medialorbitofrontal", "middletemporal", "parahippocampal", "paracentral", "parsopercularis", "parsorbitalis",
    "parstriangularis", "pericalcarine", "postcentral", "posteriorcingulate", "precentral", "precuneus",
    "rostralanteriorcingulate", "rostralmiddlefrontal", "superiorfrontal", "superiorparietal", "superiortemporal",
    "supramarginal", "frontalpole", "temporalpole", "transversetemporal", "insula",
)  # fmt: skip
"""By label, from 1001 on the left and 2001 on the right; 1004 is no cortical region."""

# Gyri of MUSE have odd numbers on the left and even ones on the right.
_GYRI = [code for code in range(100, 208) if code not in (*range(110, 112), *range(126, 128), *range(130, 132),
                                                          *range(158, 160), *range(188, 190))]  # fmt: skip
_LOBES = ("Frontal", "Limbic", "Occipital", "Parietal", "Temporal")

GLOBAL = (
    Structure(
        "cerebral white matter", "global", _WHITE,
        _sided((2, 25), (41, 57), (77, 251, 252, 253, 254, 255)),
        _sided((82, 84, 86, 88, 90, 92, 94), (81, 83, 85, 87, 89, 91, 93), (95,)),
        (
            ("cerebral white matter",), ("CerebralWhiteMatterVol",), ("CerebralWhiteMatter",),
            ("Frontal_WM", "Occipital_WM", "Parietal_WM", "Temporal_WM", "Fornix", "AnteriorLimbInternalCapsule",
             "PosteriorLimbInternalCapsule", "CorpCall"),
        ),
    ),
    Structure(
        "cerebral cortex", "global", _GREY,
        _sided((3, *range(1001, 1036)), (42, *range(2001, 2036))),
        _sided(tuple(code for code in _GYRI if code % 2), tuple(code for code in _GYRI if code % 2 == 0)),
        (("cerebral cortex",), ("CortexVol",), ("Cortex",), tuple(f"{lobe}_GM" for lobe in _LOBES)),
    ),
    Structure("csf", "global", _CSF, _sided((24,)), _sided((1,)), (("csf",), ("CorticalCSF",))),
)  # fmt: skip
"""The 3 global structures of the paper."""

CORTICAL = tuple(
    Structure(f"ctx-{name}", "cortical", _GREY, _sided((1001 + i,), (2001 + i,)), {}, ((f"ctx-{name}",),))
    for i, name in enumerate(_DESIKAN)
    if name
)
"""The 34 cortical regions, which need SynthSeg's `--parc`, or aparc.stats."""

STRUCTURES = SUBCORTICAL + GLOBAL + CORTICAL
