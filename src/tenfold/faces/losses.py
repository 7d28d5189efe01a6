"""The losses of both steps.

    step 1    L1 = CE(C(a), y) + lambda * keep(a, t)
    step 2    L2 = alpha * (1/B) sum_i |S(z_i) - a_i|^2 + beta * CE(W S(z), y)

B batch · D teacher's dimension · d student's dimension · K people; s, a, t embeddings of student, adapter, teacher

The paper names the two tasks of step 2, classification and regression; the unweighted sum is that of a third party's
re-implementation. Its formula of step 1 was not at hand, so that `keep`, the unit target, the relational term and the
margins are our choices. A row of the label -1 belongs to nobody that is known: it is regressed and not classified.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "UNLABELLED",
    "Classifier",
    "Margin",
    "Target",
    "classification",
    "hinton",
    "reconstruction",
    "regression",
    "relational",
]

UNLABELLED = -1
Margin = Literal["softmax", "arcface", "adaface"]
Target = Literal["unit", "raw"]

_SHARPEST = 1e-4  # radians that an angle keeps from 0 and pi
_NORM_LIMITS = (1e-3, 100.0)
_NORM_MOMENTUM = 0.99
_SPREAD = 0.333  # h of AdaFace


def classification(logits_BK: Tensor, labels_B: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over the labelled rows and divided by all rows, so that it is a mean over samples.

    Args:
        logits_BK: float (B, K).
        labels_B: int64 (B,), 0 to K - 1, or -1 for a row that does not count.
    """
    total = functional.cross_entropy(logits_BK, labels_B, ignore_index=UNLABELLED, reduction="sum")
    return total / len(labels_B)


def regression(s_Bd: Tensor, a_Bd: Tensor, target: Target = "unit", scale: float = 1.0) -> Tensor:
    """The mean over rows of the squared distance |s - a|^2.

    `raw` takes the vectors as they are; `unit` gives both the length `scale` first, which fits scores that are cosines.
    """
    if target == "unit":
        s_Bd, a_Bd = scale * functional.normalize(s_Bd, dim=1), scale * functional.normalize(a_Bd, dim=1)
    return (s_Bd - a_Bd).square().sum(1).mean()


def relational(s_Bd: Tensor, t_BD: Tensor) -> Tensor:
    """The mean over pairs ij of (cos(s_i, s_j) - cos(t_i, t_j))^2: both spaces see the same likenesses.

    The dimensions may differ. As `keep` of step 1 it is between adapted and teacher's features; as an option of step 2,
    between student's and adapted ones.
    """
    s_Bd, t_BD = functional.normalize(s_Bd, dim=1), functional.normalize(t_BD, dim=1)
    return (s_Bd @ s_Bd.T - t_BD @ t_BD.T).square().mean()


def reconstruction(guess_BD: Tensor, t_BD: Tensor, variance: Tensor | float) -> Tensor:
    """The mean of (R(a) - t)^2 as a share of the variance of t: 1 is what knowing nothing but the mean gives."""
    return (guess_BD - t_BD).square().mean() / variance


def hinton(logits_BK: Tensor, teacher_BK: Tensor, temperature: float = 4.0) -> Tensor:
    """Soft logits (Hinton, Vinyals, Dean, arXiv 1503.02531): T^2 times the KL divergence at temperature T, in nats."""
    ours = functional.log_softmax(logits_BK / temperature, dim=1)
    theirs = functional.log_softmax(teacher_BK / temperature, dim=1)
    divergence = functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)
    return divergence * temperature**2


class Classifier(nn.Module):
    """W of both steps: embeddings to logits of K people; needed in training only.

    `softmax` is W s without a bias, as in the paper. `arcface` (Deng et al., CVPR 2019) and `adaface` (Kim et al., CVPR
    2022) are options of ours: cosines times `scale`, the right one lowered by a margin, with adaface by how long the
    embedding is among those of late.
    """

    norms: Tensor

    def __init__(self, dimension: int, people: int, margin: Margin = "softmax", scale: float = 30.0) -> None:
        super().__init__()
        self.margin, self.scale = margin, scale
        self.weight = nn.Parameter(torch.empty(people, dimension))
        nn.init.normal_(self.weight, std=dimension**-0.5)
        self.register_buffer("norms", torch.zeros(2))  # running mean and spread of embeddings' lengths

    def forward(self, s_Bd: Tensor, labels_B: Tensor) -> Tensor:
        """Logits (B, K) of embeddings (B, d); labels (B,) say where a margin is due, -1 nowhere."""
        if self.margin == "softmax":
            return functional.linear(s_Bd, self.weight)
        cosines_BK = functional.linear(functional.normalize(s_Bd, dim=1), functional.normalize(self.weight, dim=1))
        if not self.training:
            return self.scale * cosines_BK
        rows = torch.nonzero(labels_B != UNLABELLED).flatten()
        angles = cosines_BK[rows, labels_B[rows]].clamp(-1 + _SHARPEST, 1 - _SHARPEST).acos()
        turn, drop = self._margins(s_Bd.detach()[rows].norm(dim=1))
        lowered = (angles + turn).clamp(_SHARPEST, torch.pi - _SHARPEST).cos() - drop
        return self.scale * cosines_BK.index_put((rows, labels_B[rows]), lowered)

    def _margins(self, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to the angle, and what is taken off the cosine behind it."""
        if self.margin == "arcface":
            return torch.full_like(lengths, 0.5), torch.zeros_like(lengths)
        lengths = lengths.clamp(*_NORM_LIMITS)
        if len(lengths) > 1:
            now = torch.stack([lengths.mean(), lengths.std()])
            share = _NORM_MOMENTUM if self.norms.any() else 0.0
            self.norms.copy_(share * self.norms + (1 - share) * now)
        place = ((lengths - self.norms[0]) / (self.norms[1] + 1e-3) * _SPREAD).clamp(-1, 1)
        return -0.4 * place, 0.4 + 0.4 * place
