"""Principal axes and t-SNE agree with scikit-learn's; equal or few images do not break them."""

import numpy as np
import pytest

from tenfold.anatomy.projection import principal_axes, tsne


def _groups() -> np.ndarray:
    draw = np.random.default_rng(0)
    return np.concatenate([draw.normal(shift, width, (30, 20)) for shift, width in ((0, 1), (3, 1), (-3, 0.3))])


def _divergence(wanted: np.ndarray, places: np.ndarray) -> float:
    """KL of the places' neighbourhoods from those wanted: what t-SNE makes small."""
    weight = 1 / (1 + ((places[:, None] - places) ** 2).sum(2))
    np.fill_diagonal(weight, 0)
    seen = wanted > 0
    return float((wanted[seen] * np.log(wanted[seen] / (weight / weight.sum())[seen])).sum())


def _wanted(features: np.ndarray, perplexity: float) -> np.ndarray:
    """Neighbourhoods by a search for the width of each image on its own."""
    squares = ((features[:, None] - features) ** 2).sum(2)
    rows = []
    for i, row in enumerate(squares):
        low, high = 1e-8, 1e8
        for _ in range(100):
            width = np.sqrt(low * high)
            near = np.where(np.arange(len(row)) == i, 0, np.exp(-row / width))
            near = near / max(near.sum(), 1e-300)
            entropy = -(near[near > 0] * np.log(near[near > 0])).sum()
            low, high = (low, width) if entropy > np.log(perplexity) else (width, high)
        rows.append(near)
    return (np.array(rows) + np.array(rows).T) / (2 * len(features))


def test_principal_axes_are_those_of_scikit_learn() -> None:
    peer = pytest.importorskip("sklearn.decomposition").PCA(2)
    for features in (_groups(), _groups()[:8]):  # also with fewer images than features
        places, shares = principal_axes(features)
        np.testing.assert_allclose(np.abs(places), np.abs(peer.fit_transform(features)), atol=1e-9)
        np.testing.assert_allclose(shares, peer.explained_variance_ratio_)


def test_axes_do_not_depend_on_the_sign_that_a_library_chooses() -> None:
    places, _ = principal_axes(_groups())
    assert (places[np.abs(places).argmax(0), [0, 1]] > 0).all()


def test_tsne_is_as_good_as_scikit_learns() -> None:
    """The divergence that both make small, from an independent computation of the neighbourhoods."""
    peer = pytest.importorskip("sklearn.manifold").TSNE(perplexity=15, method="exact", init="pca", random_state=0)
    wanted = _wanted(_groups(), 15)
    own, theirs = _divergence(wanted, tsne(_groups(), 15)), _divergence(wanted, peer.fit_transform(_groups()))
    assert own < theirs + 0.05


def test_tsne_keeps_groups_apart_and_gives_the_same_twice() -> None:
    places = tsne(_groups(), 15)
    assert np.array_equal(places, tsne(_groups(), 15))
    distances = np.linalg.norm(places[:, None] - places, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(1) // 30 == np.arange(90) // 30).all()


@pytest.mark.parametrize("features", [np.ones((4, 3)), np.ones((9, 1)), np.eye(5), np.repeat(np.eye(2), 6, 0)])
def test_equal_images_and_few_features_give_finite_places(features: np.ndarray) -> None:
    places, shares = principal_axes(features)
    assert places.shape == (len(features), 2) and np.isfinite(places).all() and (shares <= 1).all()
    assert np.isfinite(tsne(features)).all()
