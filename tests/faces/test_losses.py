"""The losses, against numbers worked out by hand or by plain NumPy."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from tenfold.faces.losses import Classifier, classification, hinton, reconstruction, regression, relational


def test_regression_of_raw_and_of_unit_vectors_by_hand() -> None:
    s, a = torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [1.0, 2.0]])
    assert regression(s, a, "raw").item() == pytest.approx(((9 + 9) + 1) / 2, abs=1e-6)
    cosines = (4 / 5, 2 / math.sqrt(5))
    expected = 9 * sum(2 - 2 * cosine for cosine in cosines) / 2  # both of length 3
    assert regression(s, a, "unit", 3.0).item() == pytest.approx(expected, abs=1e-5)


def test_classification_counts_labelled_rows_and_divides_by_all() -> None:
    logits = torch.tensor([[1.0, 2.0], [0.0, 0.0], [5.0, -5.0]])
    expected = (math.log(1 + math.exp(1)) + math.log(2)) / 3
    assert classification(logits, torch.tensor([0, 1, -1])).item() == pytest.approx(expected, abs=1e-6)
    assert classification(logits, torch.tensor([-1, -1, -1])).item() == 0


def test_relational_is_zero_for_turned_and_scaled_spaces_and_right_for_two_rows() -> None:
    t = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    assert relational(5 * t @ turn, t).item() == pytest.approx(0, abs=1e-10)
    pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert relational(*pair).item() == pytest.approx(2 * 1 / 4)


def test_reconstruction_of_the_mean_alone_is_one() -> None:
    t = torch.randn(4000, 5, generator=torch.Generator().manual_seed(0)) * 3 + 7
    guess = t.mean(0).expand_as(t)
    assert reconstruction(guess, t, t.var(0, unbiased=False).mean()).item() == pytest.approx(1, abs=1e-5)


def test_hinton_is_the_kl_divergence_at_the_temperature() -> None:
    ours, theirs = np.array([[1.0, -2.0, 0.5]]), np.array([[3.0, 1.0, 0.0]])
    p, q = (np.exp(x / 4) / np.exp(x / 4).sum() for x in (theirs, ours))
    expected = 16 * (p * np.log(p / q)).sum()
    assert hinton(torch.tensor(ours), torch.tensor(theirs), 4.0).item() == pytest.approx(expected, abs=1e-9)
    assert hinton(torch.tensor(theirs), torch.tensor(theirs), 4.0).item() == pytest.approx(0, abs=1e-12)


def test_softmax_is_linear_without_a_bias() -> None:
    classifier = Classifier(4, 3)
    s = torch.randn(5, 4)
    assert torch.equal(classifier(s, torch.zeros(5).long()), s @ classifier.weight.T)


def test_arcface_adds_half_a_radian_to_the_right_angle_in_training_only() -> None:
    classifier = Classifier(8, 3, "arcface", 10.0)
    s, labels = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, -1, 1])
    cosines = functional.normalize(s, dim=1) @ functional.normalize(classifier.weight, dim=1).T
    assert torch.allclose(classifier.eval()(s, labels), 10 * cosines, atol=1e-5)
    logits = classifier.train()(s, labels)
    for row, label in enumerate(labels.tolist()):
        expected = cosines[row].detach().clone()
        if label >= 0:
            expected[label] = math.cos(min(math.acos(float(expected[label])) + 0.5, math.pi - 1e-4))
        assert torch.allclose(logits[row], 10 * expected, atol=1e-4)


def test_adaface_lowers_long_and_short_embeddings_each_in_its_way() -> None:
    """A face of mean length: margin 0.4 off the cosine. A long one: turned back by up to 0.4 and 0.8 off."""
    classifier = Classifier(2, 2, "adaface", 1.0)
    with torch.no_grad():
        classifier.weight.copy_(torch.eye(2))
        classifier.norms.copy_(torch.tensor([10.0, 1e-3]))
    angle = 1.0
    direction = torch.tensor([math.cos(angle), math.sin(angle)])
    mean = classifier(direction[None] * 10, torch.tensor([0]))[0, 0].item()
    long = classifier(direction[None] * 50, torch.tensor([0]))[0, 0].item()
    assert mean == pytest.approx(math.cos(angle) - 0.4, abs=1e-3)
    assert long == pytest.approx(math.cos(angle - 0.4) - 0.8, abs=1e-3)


@pytest.mark.parametrize("margin", ["softmax", "arcface", "adaface"])
def test_every_margin_has_finite_gradients_also_at_the_poles(margin: str) -> None:
    classifier = Classifier(4, 2, margin)  # type: ignore[arg-type]
    s = torch.stack([classifier.weight[0].detach() * 2, -classifier.weight[0].detach(), torch.zeros(4)])
    s.requires_grad_()
    classification(classifier(s, torch.tensor([0, 0, 1])), torch.tensor([0, 0, 1])).backward()
    assert s.grad is not None and s.grad.isfinite().all() and classifier.weight.grad.isfinite().all()
