"""Two-stage diffusion: what the second network is given, and the sizes."""

import pytest
import torch
from torch import Tensor, nn

from tenfold.anatomy.generators.two_stage import TwoStageDiffusion, lower
from tenfold.core.errors import InputError

GRID = (16, 18, 20)


def test_low_resolution_is_the_mean_of_cubes() -> None:
    volume = torch.randn(1, 1, 4, 6, 2)
    found = lower(volume, 2)
    assert found.shape == (1, 1, 2, 3, 1)
    assert float(found[0, 0, 1, 2, 0]) == pytest.approx(float(volume[0, 0, 2:4, 4:6].mean()), abs=1e-6)


class Recorder(nn.Module):
    """Says 0 and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.shown: list[Tensor] = []

    def forward(self, noisy: Tensor, step_B: Tensor) -> Tensor:
        self.shown.append(noisy)
        return self.weight * noisy[:, :1]


def test_the_fine_network_learns_boxes_beside_what_low_resolution_says_of_them() -> None:
    """Of volumes of one value each, a box of half the sides arrives with that value, within the noise that is added."""
    generator, network = TwoStageDiffusion(GRID, "miniature"), Recorder()
    torch.manual_seed(0)
    values = torch.tensor([-0.5, 0.75])
    generator._fine_loss(network, values[:, None, None, None, None].expand(2, 1, *GRID))
    shown = network.shown[0]
    assert shown.shape == (2, 2, 8, 9, 10)
    assert torch.allclose(shown[:, 1].mean((1, 2, 3)), values, atol=0.05)
    assert 0.01 < float(shown[:, 1].std()) < 1 and float(shown[0, 1].std()) == pytest.approx(0.06, abs=0.03)


def test_sampling_gives_the_fine_network_the_whole_of_the_first_one_s_volume() -> None:
    generator, low, fine = TwoStageDiffusion(GRID, "miniature"), Recorder(), Recorder()
    with torch.inference_mode():
        image = generator.draw({"low": low, "fine": fine}, torch.Generator().manual_seed(0))
    assert image.shape == (1, 1, *GRID) and low.shown[0].shape == (1, 1, 8, 9, 10)
    given = [shown[:, 1] for shown in fine.shown]
    assert fine.shown[0].shape == (1, 2, *GRID) and all(torch.equal(one, given[0]) for one in given)


def test_the_paper_s_size_has_medsyn_s_widths() -> None:
    """160 at a quarter of the resolution, 56 at the whole, times 1, 2, 4, 8; a billion weights and 124 million."""
    generator = TwoStageDiffusion((144, 192, 144))
    with torch.device("meta"):
        networks = generator.build()
    assert networks["low"].config.channels == (160, 320, 640, 1280)
    assert networks["fine"].config.channels == (56, 112, 224, 448) and not networks["fine"].config.attention


@pytest.mark.parametrize(
    ("grid", "size", "needs"),
    [
        ((36, 47, 36), "miniature", "a multiple of 2 voxels, 16 or more"),
        ((36, 48, 12), "miniature", "16 or more"),
        ((36, 50, 36), "paper", "a multiple of 4 voxels, 32 or more"),
    ],
)
def test_grids_that_do_not_fit_are_refused(grid: tuple[int, int, int], size: str, needs: str) -> None:
    with pytest.raises(InputError, match=needs):
        TwoStageDiffusion(grid, size)  # type: ignore[arg-type]
