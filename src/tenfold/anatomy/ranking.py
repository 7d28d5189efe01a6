"""Several generators in order, and how sure the order is.

Each replicate draws real people and those of every generator anew, takes the same score of all, and ranks them. The
real people of a replicate are shared, so that what is odd about them is odd for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tenfold.anatomy.effects import CONFIDENCE, Pool, moment_effects
from tenfold.anatomy.headsize import Adjust
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError

__all__ = ["Rank", "rank"]


@dataclass(frozen=True)
class Rank:
    """Where a generator stands.

    Attributes:
        name: Its name.
        score: The mean |d| of the regions; smaller is better.
        place: By the score, from 1.
        mean_place: Over the replicates.
        low: 2.5 % of the replicates have it there or further in front.
        high: 97.5 % of them.
        first: The share of replicates in which it is first.
    """

    name: str
    score: float
    place: int
    mean_place: float
    low: int
    high: int
    first: float


def rank(
    real: Measured, generated: Mapping[str, Measured], adjust: Adjust = "real", replicates: int = 1000, seed: int = 0
) -> list[Rank]:
    """Order generators by the mean |d| of the regions that all sets have, the best first.

    The mean, since a median does not see that one hippocampus in eighteen regions is gone.

    Give reliable images alone. Resampling adds to |d|, and more to that of a smaller set: sets of one size are
    compared most fairly.

    Raises:
        InputError: There is no generator, or no region that all sets have.
    """
    common = [name for name in real.regions if all(name in one.regions for one in generated.values())]
    if not generated or not common:
        raise InputError(f"{real.source}: {len(generated)} generators have {len(common)} regions in common with it")
    random = np.random.default_rng(seed)
    centre = real.only(common).volumes_SR.mean(axis=0), float(real.icv_S.mean())
    pools = {name: Pool(one.only(common).volumes_SR, one.icv_S, centre) for name, one in generated.items()}
    people = Pool(real.only(common).volumes_SR, real.icv_S, centre)
    weights = np.concatenate([np.ones((1, len(people))), people.draw(replicates, random)])
    drawn = people.moments(weights)
    scores = []
    for pool in pools.values():
        weights = np.concatenate([np.ones((1, len(pool))), pool.draw(replicates, random)])
        scores.append(np.abs(moment_effects(drawn, pool.moments(weights), adjust)[0]).mean(axis=1))
    places = np.argsort(np.argsort(np.array(scores), axis=0, kind="stable"), axis=0) + 1
    tail = (1 - CONFIDENCE) / 2
    ranks = [
        Rank(
            name=name,
            score=float(score[0]),
            place=int(place[0]),
            mean_place=float(place[1:].mean()),
            low=int(np.quantile(place[1:], tail, method="inverted_cdf")),
            high=int(np.quantile(place[1:], 1 - tail, method="inverted_cdf")),
            first=float((place[1:] == 1).mean()),
        )
        for name, score, place in zip(pools, scores, places, strict=True)
    ]
    return sorted(ranks, key=lambda one: one.place)
