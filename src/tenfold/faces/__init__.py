"""Bridge distillation: a tiny embedder for faces of few pixels, taught by a big one, and galleries kept lawfully."""

from tenfold.faces.alignment import HaarDetector, YuNetDetector, portrait
from tenfold.faces.crops import Crops, crop_faces
from tenfold.faces.data import FaceSet, read_faces
from tenfold.faces.evaluation import evaluate
from tenfold.faces.export import export_int8, export_onnx
from tenfold.faces.features import teacher_features
from tenfold.faces.gallery import Found, Gallery, new_key, read_key
from tenfold.faces.model import Adapter, StudentConfig, StudentNet
from tenfold.faces.recognition import Embeddings, FaceModel, HighResolution, Match, load
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
    "load_teacher",
    "new_key",
    "portrait",
    "read_faces",
    "read_key",
    "teacher_features",
    "train_teacher",
]
