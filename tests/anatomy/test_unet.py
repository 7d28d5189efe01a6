"""The U-Net has the shapes it says, and its loss is lowest at the truth."""

import pytest

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from tenfold.anatomy.unet import UNet, dice_and_entropy, dice_scores  # noqa: E402


def test_shapes_and_parameters():
    """Logits on the grid of the image; parameters as counted by hand for two levels of 4 and 8 channels."""
    network = UNet(5, features=4, levels=2)
    assert network(torch.zeros(2, 1, 8, 16, 8)).shape == (2, 5, 8, 16, 8)

    def level(ins: int, outs: int) -> int:
        return 27 * ins * outs + outs + 27 * outs * outs + outs + 2 * outs

    assert sum(one.numel() for one in network.parameters()) == level(1, 4) + level(4, 8) + level(12, 4) + 4 * 5 + 5


def test_the_loss_is_lowest_where_shares_are_equal():
    """At the truth's own shares, also where voxels are mixed, the Dice score is 1; elsewhere it is lower."""
    torch.manual_seed(0)
    shares = torch.rand(1, 3, 4, 4, 4).softmax(1)
    at_truth, measures = dice_and_entropy(shares.log(), shares)
    assert measures["dice"].item() == pytest.approx(1, abs=1e-4)
    for _ in range(5):
        elsewhere, _ = dice_and_entropy((shares + 0.2 * torch.rand_like(shares)).log(), shares)
        assert elsewhere > at_truth


def test_gradients_are_those_of_finite_differences():
    """In float64, through the whole network and the loss."""
    torch.manual_seed(1)
    network = UNet(3, features=2, levels=2).double()
    image, shares = torch.rand(1, 1, 4, 4, 4, dtype=torch.float64), torch.rand(1, 3, 4, 4, 4).softmax(1).double()
    weight = network.last.weight

    def loss(value: torch.Tensor) -> torch.Tensor:
        logits = torch.func.functional_call(network, {"last.weight": value}, (image,))
        log_shares = torch.log_softmax(logits, 1)
        return -(shares * log_shares).sum(1).mean()

    assert torch.autograd.gradcheck(loss, (weight.detach().requires_grad_(),))


def test_dice_scores_of_labels():
    """By hand: two of three voxels agree."""
    scores = dice_scores(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]), 4)
    assert scores[:3].tolist() == pytest.approx([1, 2 / 3, 2 / 3])
    assert scores[3].isnan()
