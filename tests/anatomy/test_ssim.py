"""MS-SSIM agrees with a dense window, with SciPy and with MONAI; the paper's variant differs, and it is known why."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tenfold.anatomy.ssim import WEIGHTS, Scales, choose_scales, legacy_ms_ssim, ms_ssim
from tenfold.core.errors import InputError


def _pair(shape=(28, 24, 26), seed=0, noise=0.3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    one = ndimage.gaussian_filter(draw.normal(size=shape), 1.0)
    one = one / np.abs(one).max()
    return one, (one + noise * draw.normal(size=shape)).clip(-1, 1)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))[None]


def _halve(array: np.ndarray) -> np.ndarray:
    x, y, z = (size // 2 for size in array.shape)
    return array[: 2 * x, : 2 * y, : 2 * z].reshape(x, 2, y, 2, z, 2).mean((1, 3, 5))


def _dense(one: np.ndarray, other: np.ndarray, window: int, weights: tuple[float, ...]) -> float:
    """By the definition: a window of window^3 weights at every place where it fits."""
    line = np.exp(-((np.arange(window) - window // 2) ** 2) / (2 * 1.5**2))
    cube = np.einsum("i,j,k->ijk", *[line / line.sum()] * 3)
    c1, c2, value = 0.02**2, 0.06**2, 1.0
    for level, weight in enumerate(weights):
        patches = [np.lib.stride_tricks.sliding_window_view(a, (window,) * 3) for a in (one, other)]
        m, n = (np.einsum("xyzijk,ijk->xyz", p, cube) for p in patches)
        s, t = (np.einsum("xyzijk,ijk->xyz", p**2, cube) for p in patches)
        both = np.einsum("xyzijk,xyzijk,ijk->xyz", *patches, cube)
        contrast = (2 * (both - m * n) + c2) / (s - m**2 + t - n**2 + c2)
        light = (2 * m * n + c1) / (m**2 + n**2 + c1)
        term = (light * contrast).mean() if level == len(weights) - 1 else contrast.mean()
        value *= max(term, 0) ** weight
        one, other = _halve(one), _halve(other)
    return value


@pytest.mark.parametrize("window", [3, 7])
def test_three_narrow_windows_are_the_dense_one(window):
    one, other = _pair()
    scales = choose_scales(one.shape, window)
    found = ms_ssim(_tensor(one), _tensor(other), scales)
    assert float(found) == pytest.approx(_dense(one, other, window, scales.weights), abs=1e-10)
    single = ms_ssim(_tensor(one.astype(np.float32)), _tensor(other.astype(np.float32)), scales)
    assert float(single) == pytest.approx(float(found), abs=1e-5)


def test_known_values():
    one, other = _pair()
    scales = choose_scales(one.shape, 7)
    assert float(ms_ssim(_tensor(one), _tensor(one), scales)) == pytest.approx(1)
    assert float(ms_ssim(_tensor(one), _tensor(-one), scales)) == 0  # negative structure counts as 0
    there, back = (float(ms_ssim(_tensor(a), _tensor(b), scales)) for a, b in ((one, other), (other, one)))
    assert there == pytest.approx(back) and 0 < there < 1
    batch = ms_ssim(torch.cat([_tensor(one)] * 2), torch.cat([_tensor(other), _tensor(one)]), scales)
    np.testing.assert_allclose(batch, [there, 1])


def test_scales_shrink_with_the_grid_and_say_so():
    assert len(choose_scales((176, 192, 176)).weights) == 5
    assert len(choose_scales((144, 192, 144)).weights) == 4  # the paper's grid is too small for its five scales
    small = choose_scales((36, 48, 36))
    assert len(small.weights) == 2 and sum(small.weights) == pytest.approx(1)
    assert str(small) == "window 11, 2 scales of 5, the grid being too small for more"
    assert len(choose_scales((36, 48, 36), 7).weights) == 3
    for window in (4, 1, 37):
        with pytest.raises(InputError):
            choose_scales((36, 48, 36), window)


def test_agrees_with_monai():
    regression = pytest.importorskip("monai.metrics.regression", reason="MONAI is not installed")
    one, other = (torch.from_numpy(a.astype(np.float32))[None] for a in _pair((48, 52, 50), noise=0.1))
    for weights in (WEIGHTS[:3], (0.5, 0.5)):
        peer = regression.compute_ms_ssim(one[None], other[None], 3, data_range=2.0, weights=weights)
        assert float(ms_ssim(one, other, Scales(11, weights))) == pytest.approx(float(peer), abs=1e-4)


def _official(one: np.ndarray, other: np.ndarray, normalised: bool, last_in_product: bool = True) -> float:
    """The paper's steps with SciPy's filter: range 1, reflected borders, the last scale's term inside the product."""
    similarity, contrast = [], []
    for _ in WEIGHTS:
        m, n, s, t, both = (
            ndimage.gaussian_filter(a, 1.5) for a in (one, other, one * one, other * other, one * other)
        )
        ratio = (2 * (both - m * n) + 0.03**2) / (s - m * m + t - n * n + 0.03**2)
        contrast.append(ratio.mean())
        similarity.append((ratio * (2 * m * n + 0.01**2) / (m * m + n * n + 0.01**2)).mean())
        one, other = _halve(one), _halve(other)
    terms = [np.array(values) for values in (contrast, similarity)]
    terms = [((values + 1) / 2 if normalised else values) ** np.array(WEIGHTS) for values in terms]
    last = terms[1][-1]
    return float(np.prod(terms[0][:-1] * last) if last_in_product else np.prod(terms[0][:-1]) * last)


@pytest.mark.parametrize("normalised", [False, True])
def test_legacy_is_the_papers_code(normalised):
    one, other = _pair((36, 48, 36), noise=0.1)
    found = float(legacy_ms_ssim(_tensor(one), _tensor(other), normalised))
    assert found == pytest.approx(_official(one, other, normalised), abs=1e-10)


def test_legacy_differs_because_the_last_term_enters_four_times():
    """Counting it once changes the value; so do mapping terms and borders: each trap is seen on its own."""
    one, other = _pair((36, 48, 36), noise=0.1)
    legacy = float(legacy_ms_ssim(_tensor(one), _tensor(other)))
    once = _official(one, other, False, last_in_product=False)
    right = float(ms_ssim(_tensor(one), _tensor(other), choose_scales(one.shape)))
    assert abs(legacy - once) > 1e-3 and abs(legacy - right) > 1e-2
    assert float(legacy_ms_ssim(_tensor(one), _tensor(other), normalised=True)) > legacy + 0.005


def test_legacy_is_not_a_number_where_structure_is_opposite():
    one, _ = _pair((36, 48, 36))
    assert np.isnan(float(legacy_ms_ssim(_tensor(one), _tensor(-one))))
