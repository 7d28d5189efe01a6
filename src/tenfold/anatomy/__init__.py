"""Is the anatomy of generated brain MRI plausible? Volumes region by region, behind a gate; image metrics beside.

Images are segmented here, or volumes of other segmenters are read; six generators can be trained to be judged.
"""

from typing import TYPE_CHECKING

from tenfold.core.lazy import lazily

if TYPE_CHECKING:
    from tenfold.anatomy.appearance import Appearance, compare_appearance
    from tenfold.anatomy.atlas import AtlasSegmenter
    from tenfold.anatomy.atlasquality import AtlasQuality, calibrate_atlas
    from tenfold.anatomy.bench import Bench, Evaluation
    from tenfold.anatomy.copies import Copies, check_copies
    from tenfold.anatomy.distances import extrapolated_frechet, frechet, kid, mmd, mmd_test
    from tenfold.anatomy.effects import Estimate, cohens_d
    from tenfold.anatomy.features import Extractor, extract, open_extractor
    from tenfold.anatomy.gate import Gate
    from tenfold.anatomy.generators import GENERATORS, load_generator, make_generator
    from tenfold.anatomy.generators.folder import FolderGenerator
    from tenfold.anatomy.generators.interface import Budget, Cost, Generator
    from tenfold.anatomy.generators.published import load_published
    from tenfold.anatomy.generators.sampling import about_images, sample_into
    from tenfold.anatomy.headsize import HeadSize, fit_head_size
    from tenfold.anatomy.imagemetrics import ImageMetrics, MetricRow, compare_images
    from tenfold.anatomy.images import Image, LabelMap, read_image, read_labels, write_image
    from tenfold.anatomy.lite import LiteSegmenter
    from tenfold.anatomy.lite_training import LiteConfig, teach_lite, train_lite
    from tenfold.anatomy.plausibility import Plausibility, Region, compare
    from tenfold.anatomy.populations import make_people
    from tenfold.anatomy.probabilities import Probabilities
    from tenfold.anatomy.processing import Preparation, prepare
    from tenfold.anatomy.quality import Quality
    from tenfold.anatomy.ranking import Rank, rank
    from tenfold.anatomy.segmenters import Segmentation, Segmenter, segment
    from tenfold.anatomy.sets import ImageSet, find_labels, open_images
    from tenfold.anatomy.sidecars import Processing
    from tenfold.anatomy.ssim import Scales, choose_scales, ms_ssim
    from tenfold.anatomy.synth import Sample, Synthesis, synthesise
    from tenfold.anatomy.synthseg import run_synthseg
    from tenfold.anatomy.tables import read_measured, write_measured
    from tenfold.anatomy.tissue import TissuePriors, TissueSegmenter
    from tenfold.anatomy.volumes import Measured
    from tenfold.anatomy.warps import RandomWarp

__all__ = [
    "GENERATORS",
    "Appearance",
    "AtlasQuality",
    "AtlasSegmenter",
    "Bench",
    "Budget",
    "Copies",
    "Cost",
    "Estimate",
    "Evaluation",
    "Extractor",
    "FolderGenerator",
    "Gate",
    "Generator",
    "HeadSize",
    "Image",
    "ImageMetrics",
    "ImageSet",
    "LabelMap",
    "LiteConfig",
    "LiteSegmenter",
    "Measured",
    "MetricRow",
    "Plausibility",
    "Preparation",
    "Probabilities",
    "Processing",
    "Quality",
    "RandomWarp",
    "Rank",
    "Region",
    "Sample",
    "Scales",
    "Segmentation",
    "Segmenter",
    "Synthesis",
    "TissuePriors",
    "TissueSegmenter",
    "about_images",
    "calibrate_atlas",
    "check_copies",
    "choose_scales",
    "cohens_d",
    "compare",
    "compare_appearance",
    "compare_images",
    "extract",
    "extrapolated_frechet",
    "find_labels",
    "fit_head_size",
    "frechet",
    "kid",
    "load_generator",
    "load_published",
    "make_generator",
    "make_people",
    "mmd",
    "mmd_test",
    "ms_ssim",
    "open_extractor",
    "open_images",
    "prepare",
    "rank",
    "read_image",
    "read_labels",
    "read_measured",
    "run_synthseg",
    "sample_into",
    "segment",
    "synthesise",
    "teach_lite",
    "train_lite",
    "write_image",
    "write_measured",
]

# Each name comes from its file when it is first asked for: to read a table, nobody waits for torch or SimpleITK.
_HOMES = {
    "GENERATORS": "generators",
    "Appearance": "appearance",
    "AtlasQuality": "atlasquality",
    "AtlasSegmenter": "atlas",
    "Bench": "bench",
    "Budget": "generators.interface",
    "Copies": "copies",
    "Cost": "generators.interface",
    "Estimate": "effects",
    "Evaluation": "bench",
    "Extractor": "features",
    "FolderGenerator": "generators.folder",
    "Gate": "gate",
    "Generator": "generators.interface",
    "HeadSize": "headsize",
    "Image": "images",
    "ImageMetrics": "imagemetrics",
    "ImageSet": "sets",
    "LabelMap": "images",
    "LiteConfig": "lite_training",
    "LiteSegmenter": "lite",
    "Measured": "volumes",
    "MetricRow": "imagemetrics",
    "Plausibility": "plausibility",
    "Preparation": "processing",
    "Probabilities": "probabilities",
    "Processing": "sidecars",
    "Quality": "quality",
    "RandomWarp": "warps",
    "Rank": "ranking",
    "Region": "plausibility",
    "Sample": "synth",
    "Scales": "ssim",
    "Segmentation": "segmenters",
    "Segmenter": "segmenters",
    "Synthesis": "synth",
    "TissuePriors": "tissue",
    "TissueSegmenter": "tissue",
    "about_images": "generators.sampling",
    "calibrate_atlas": "atlasquality",
    "check_copies": "copies",
    "choose_scales": "ssim",
    "cohens_d": "effects",
    "compare": "plausibility",
    "compare_appearance": "appearance",
    "compare_images": "imagemetrics",
    "extract": "features",
    "extrapolated_frechet": "distances",
    "find_labels": "sets",
    "fit_head_size": "headsize",
    "frechet": "distances",
    "kid": "distances",
    "load_generator": "generators",
    "load_published": "generators.published",
    "make_generator": "generators",
    "make_people": "populations",
    "mmd": "distances",
    "mmd_test": "distances",
    "ms_ssim": "ssim",
    "open_extractor": "features",
    "open_images": "sets",
    "prepare": "processing",
    "rank": "ranking",
    "read_image": "images",
    "read_labels": "images",
    "read_measured": "tables",
    "run_synthseg": "synthseg",
    "sample_into": "generators.sampling",
    "segment": "segmenters",
    "synthesise": "synth",
    "teach_lite": "lite_training",
    "train_lite": "lite_training",
    "write_image": "images",
    "write_measured": "tables",
}

if not TYPE_CHECKING:  # a checker that sees __getattr__ takes every misspelt name for one of the package
    __getattr__, __dir__ = lazily(__name__, _HOMES, globals())
