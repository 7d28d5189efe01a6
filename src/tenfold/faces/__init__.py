"""Bridge distillation: a tiny embedder for faces of few pixels, taught by a big one, and galleries kept lawfully."""

from typing import TYPE_CHECKING

from tenfold.core.lazy import lazily

if TYPE_CHECKING:
    from tenfold.faces.alignment import HaarDetector, YuNetDetector, portrait
    from tenfold.faces.crops import Crops, crop_faces
    from tenfold.faces.data import FaceSet, read_faces
    from tenfold.faces.evaluation import evaluate
    from tenfold.faces.export import export_int8, export_onnx
    from tenfold.faces.features import teacher_features
    from tenfold.faces.gallery import Found, Gallery, new_key, read_key
    from tenfold.faces.model import Adapter, StudentConfig, StudentNet
    from tenfold.faces.recognition import Embeddings, FaceModel, HighResolution, Match, load, load_adapted, verify
    from tenfold.faces.settings import AdaptConfig, DistillConfig, Provenance, TeacherConfig
    from tenfold.faces.teachers import Teacher, load_teacher
    from tenfold.faces.thresholds import Threshold, calibrate
    from tenfold.faces.training import adapt, apply_adapter, distill, train_teacher

__all__ = [
    "AdaptConfig",
    "Adapter",
    "Crops",
    "DistillConfig",
    "Embeddings",
    "FaceModel",
    "FaceSet",
    "Found",
    "Gallery",
    "HaarDetector",
    "HighResolution",
    "Match",
    "Provenance",
    "StudentConfig",
    "StudentNet",
    "Teacher",
    "TeacherConfig",
    "Threshold",
    "YuNetDetector",
    "adapt",
    "apply_adapter",
    "calibrate",
    "crop_faces",
    "distill",
    "evaluate",
    "export_int8",
    "export_onnx",
    "load",
    "load_adapted",
    "load_teacher",
    "new_key",
    "portrait",
    "read_faces",
    "read_key",
    "teacher_features",
    "train_teacher",
    "verify",
]

# Each name comes from its file when it is first asked for: to list the verbs, nobody waits for torch.
_HOMES = {
    "AdaptConfig": "settings",
    "Adapter": "model",
    "Crops": "crops",
    "DistillConfig": "settings",
    "Embeddings": "recognition",
    "FaceModel": "recognition",
    "FaceSet": "data",
    "Found": "gallery",
    "Gallery": "gallery",
    "HaarDetector": "alignment",
    "HighResolution": "recognition",
    "Match": "recognition",
    "Provenance": "settings",
    "StudentConfig": "model",
    "StudentNet": "model",
    "Teacher": "teachers",
    "TeacherConfig": "settings",
    "Threshold": "thresholds",
    "YuNetDetector": "alignment",
    "adapt": "training",
    "apply_adapter": "training",
    "calibrate": "thresholds",
    "crop_faces": "crops",
    "distill": "training",
    "evaluate": "evaluation",
    "export_int8": "export",
    "export_onnx": "export",
    "load": "recognition",
    "load_adapted": "recognition",
    "load_teacher": "teachers",
    "new_key": "gallery",
    "portrait": "alignment",
    "read_faces": "data",
    "read_key": "gallery",
    "teacher_features": "features",
    "train_teacher": "training",
    "verify": "recognition",
}

if not TYPE_CHECKING:  # a checker that sees __getattr__ takes every misspelt name for one of the package
    __getattr__, __dir__ = lazily(__name__, _HOMES, globals())
