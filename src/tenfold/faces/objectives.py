"""What each training optimises: a network together with what only its training needs.

Each objective is a module, so that classifiers and linear maps are trained, saved with checkpoints and resumed with the
network; `network` alone goes into a model folder. Called with a batch it gives the loss and its parts.
"""

import torch
from torch import Tensor, nn

from tenfold.faces.losses import Classifier, classification, hinton, reconstruction, regression, relational
from tenfold.faces.model import Adapter, StudentNet, TeacherNet
from tenfold.faces.settings import AdaptConfig, DistillConfig, Method, TeacherConfig

__all__ = ["AdapterObjective", "StudentObjective", "TeacherObjective"]

Parts = dict[str, Tensor]
_SOFT: tuple[Method, ...] = ("hinton", "fitnet")


class TeacherObjective(nn.Module):
    """The small teacher learns to tell people apart."""

    def __init__(self, network: TeacherNet, people: int, config: TeacherConfig) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)  # trains a third quicker on CPUs
        self.classifier = Classifier(network.config.dimension, people, config.margin, config.margin_scale)

    def forward(self, x_B3SS: Tensor, labels_B: Tensor) -> tuple[Tensor, Parts]:
        """Cross-entropy of crops."""
        return classification(self.classifier(self.network(x_B3SS), labels_B), labels_B), {}


class AdapterObjective(nn.Module):
    """Step 1: L1 = CE(C(a), y) + lambda * keep(a, t).

    Args:
        network: The adapter.
        people: K.
        config: The settings.
        variance: The variance of the teacher's features, in whose shares a reconstruction is measured.
        centre_D: From where the teacher's likenesses are seen; see `AdaptConfig.centre`.
    """

    def __init__(self, network: Adapter, people: int, config: AdaptConfig, variance: float, centre_D: Tensor) -> None:
        super().__init__()
        self.register_buffer("centre_D", centre_D, persistent=False)
        self.network, self.config, self._variance = network, config, variance
        self.classifier = Classifier(network.config.dimension, people)
        shape = network.config
        self.decoder = nn.Linear(shape.dimension, shape.features) if config.keep == "reconstruct" else None

    def forward(self, t_BD: Tensor, labels_B: Tensor) -> tuple[Tensor, Parts]:
        """L1 of teacher's features."""
        a_Bd = self.network(t_BD)
        known = classification(self.classifier(a_Bd, labels_B), labels_B)
        if self.config.keep == "none":
            return known, {"classification": known}
        if self.decoder is not None:
            kept = reconstruction(self.decoder(a_Bd), t_BD, self._variance)
        else:
            kept = relational(a_Bd, t_BD - self.centre_D)
        return known + self.config.keep_weight * kept, {"classification": known, "keep": kept}


class StudentObjective(nn.Module):
    """Step 2: alpha * mimicry + beta * CE(W S(z), y) + relational weight * relational(s, a).

    Mimicry is, by method: `bridge`, `regression_only`: |s - a|^2 · `direct`: |M s - t|^2 with a linear map M ·
    `hinton`: soft logits · `fitnet`: |R h - t|^2 with a linear map R of the student's pooled features h for the first
    `hint_steps` steps, and nothing beside it; then as `hinton`.

    Args:
        network: The student.
        people: K.
        features: D, numbers of a teacher's feature; used by `direct` and `fitnet`.
        config: The settings.
        hint_steps: The steps that learn the hint.
    """

    def __init__(self, network: StudentNet, people: int, features: int, config: DistillConfig, hint_steps: int) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.channels_last)
        self.config, self._hint_steps = config, hint_steps
        self.alpha = 0.0 if config.method == "scratch" else config.alpha
        self.beta = 0.0 if config.method == "regression_only" else config.beta
        dimension = network.config.dimension
        self.classifier = Classifier(dimension, people, config.margin, config.margin_scale)
        self.projection = nn.Linear(dimension, features, bias=False) if config.method == "direct" else None
        self.regressor = nn.Linear(network.head.in_features, features) if config.method == "fitnet" else None
        if self.regressor is not None:  # a buffer, so that a run that goes on knows
            self.register_buffer("step", self.classifier.weight.new_zeros(()).long())

    def forward(self, z_B3rr: Tensor, labels_B: Tensor, target_BD: Tensor, logits_BK: Tensor) -> tuple[Tensor, Parts]:
        """The loss of small faces.

        Args:
            z_B3rr: Small faces.
            labels_B: Their people, 0 to K - 1; -1: unknown.
            target_BD: Adapted features (B, d), or the teacher's (B, D) for `direct` and `fitnet`.
            logits_BK: The teacher's logits; read by `hinton` and `fitnet`.
        """
        pooled = self.network.pooled(z_B3rr)
        if self.regressor is not None and self._is_early():
            hint = regression(self.regressor(pooled), target_BD, self.config.target, self.config.target_scale)
            return hint, {"classification": hint.detach() * 0, "mimicry": hint}
        s_Bd = self.network.head(pooled)
        ours_BK = self.classifier(s_Bd, labels_B)
        known = classification(ours_BK, labels_B)
        if self.config.method in _SOFT:
            mimicry = hinton(ours_BK, logits_BK, self.config.temperature)
        elif self.config.method == "scratch":
            mimicry = known.detach() * 0
        else:
            guess = s_Bd if self.projection is None else self.projection(s_Bd)
            mimicry = regression(guess, target_BD, self.config.target, self.config.target_scale)
        loss = self.alpha * mimicry + self.beta * known
        if self.config.relational and self.config.method != "scratch":
            loss = loss + self.config.relational * relational(s_Bd, target_BD)
        return loss, {"classification": known, "mimicry": mimicry}

    def _is_early(self) -> bool:
        if self.training:
            self.step += 1
        return int(self.step) <= self._hint_steps
