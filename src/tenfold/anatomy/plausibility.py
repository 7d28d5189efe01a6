"""Real against generated brains, region by region, and what the regions say together.

A region is plausible if |d| < 0.5, a small effect at most. A set is plausible if at least 95 % of its regions are, its
heads are of a plausible size, and its volumes vary between half and twice as much as real ones; it is implausible if
that fails with the whole 95 % intervals, and undecided between the two: more images are needed. Copies, repetitions and
the gate are verdicts of their own, for a copy of a real brain has a plausible anatomy.

S subjects · R regions · B replicates
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.anatomy.copies import Copies, check_volumes
from tenfold.anatomy.effects import (
    Estimate,
    Pool,
    Word,
    benjamini_hochberg,
    cohens_d,
    correlation_error,
    holm,
    interval,
    kolmogorov_smirnov,
    moment_effects,
    t_test,
    variance_ratio,
    word,
)
from tenfold.anatomy.gate import REQUIRED, THRESHOLD, Gate, gate
from tenfold.anatomy.headsize import Adjust, HeadSize, fit_head_size
from tenfold.anatomy.labels import ICV
from tenfold.anatomy.sidecars import check_same
from tenfold.anatomy.volumes import Measured
from tenfold.anatomy.wasabi import wasabi
from tenfold.core.errors import InputError

__all__ = ["PLAUSIBLE", "Plausibility", "Region", "Verdict", "compare"]

PLAUSIBLE = 0.5  # |d| below it, a "small effect"
FEWEST = 10  # images of a set; with fewer no p is given
SPREAD = 2.0  # times as much variance, or as little
WHOLE_SET = 199  # exchanges for what has to be computed anew for each

Verdict = Literal["plausible", "undecided", "implausible", "unreliable"]


@dataclass(frozen=True)
class Region:
    """What was found of a region; volumes are adjusted for head size, in mm³.

    Attributes:
        name: Of the region.
        real_mean: Mean of real people.
        real_sd: Their standard deviation, by n.
        generated_mean: Mean of generated people.
        generated_sd: Theirs.
        d: Cohen's d, above 0 where the generated region is too small.
        d_raw: The same of volumes as measured.
        d_pooled: The same with the head size fitted on real and generated people together, as in the paper; NaN
            where nothing is adjusted.
        p: Of the t-test; NaN with fewer than 10 images.
        p_holm: Adjusted for all regions, so that one false alarm is unlikely.
        p_fdr: Adjusted so that few of the alarms are false.
        variance_ratio: Generated over real.
        ks: Kolmogorov and Smirnov's distance, 0 to 1.
        ks_p: Its p, adjusted by Holm.
        asymmetry_d: Cohen's d of the asymmetry index; NaN without sides.
    """

    name: str
    real_mean: float
    real_sd: float
    generated_mean: float
    generated_sd: float
    d: Estimate
    d_raw: float
    d_pooled: float
    p: float
    p_holm: float
    p_fdr: float
    variance_ratio: Estimate
    ks: float
    ks_p: float
    asymmetry_d: float

    @property
    def word(self) -> Word:
        """The size of the effect in a word."""
        return word(self.d.value)

    @property
    def is_plausible(self) -> bool:
        """Whether |d| < 0.5."""
        return abs(self.d.value) < PLAUSIBLE

    @property
    def is_certainly_off(self) -> bool:
        """Whether the whole interval is 0.5 or more away from 0, on one side."""
        return self.d.low >= PLAUSIBLE or self.d.high <= -PLAUSIBLE


@dataclass(frozen=True)
class Plausibility:
    """The anatomy of a set of generated images, held against real ones.

    Attributes:
        regions: One per region that both sets have.
        icv: The intracranial volume, never adjusted.
        verdict: Of the set.
        reasons: Why it is not plausible; a line each.
        spread: The median variance ratio.
        p: Of the greatest |d| under exchanges of real and generated people; NaN with fewer than 10 images.
        wasabi: Distance of the joint distributions, squared real standard deviations.
        wasabi_p: Under exchanges.
        correlation_error: Root mean square difference of the correlations between regions.
        correlation_p: Under exchanges.
        copies: Against the training images; None where they are not given.
        repeats: Against the real images: what counts of it are twins and diversity.
        real_gate: None without QC scores.
        generated_gate: Likewise.
        head_size: The fitted regression.
        adjust: On whom it was fitted.
        real_SR: float64, adjusted volumes of the reliable real images, mm³.
        generated_SR: Likewise.
        notes: What a reader must know.
    """

    regions: tuple[Region, ...]
    icv: Region | None
    verdict: Verdict
    reasons: tuple[str, ...]
    spread: Estimate
    p: float
    wasabi: float
    wasabi_p: float
    correlation_error: float
    correlation_p: float
    copies: Copies | None
    repeats: Copies | None
    real_gate: Gate | None
    generated_gate: Gate | None
    head_size: HeadSize | None
    adjust: Adjust
    real_SR: NDArray[np.float64]
    generated_SR: NDArray[np.float64]
    notes: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of plausible regions; NaN without any."""
        return float(np.mean([one.is_plausible for one in self.regions])) if self.regions else float("nan")

    @property
    def median_d(self) -> float:
        """The median |d| of the regions; NaN without any."""
        return float(np.median([abs(one.d.value) for one in self.regions])) if self.regions else float("nan")

    @property
    def is_memorised(self) -> bool | None:
        """Whether training images were copied; None where they were not given."""
        return None if self.copies is None else self.copies.memorised

    @property
    def is_collapsed(self) -> bool | None:
        """Whether images are repeated; None where too few are reliable."""
        return None if self.repeats is None else self.repeats.collapsed

    @property
    def passes(self) -> bool:
        """Plausible, through the gate if there is one, and neither memorised nor collapsed."""
        gates = self.generated_gate is None or self.generated_gate.passes
        return self.verdict == "plausible" and gates and not self.is_memorised and not self.is_collapsed

    def region(self, name: str) -> Region:
        """The region of that name; KeyError if there is none."""
        return {one.name: one for one in self.regions}[name]


def compare(
    real: Measured,
    generated: Measured,
    adjust: Adjust = "real",
    *,
    training: Measured | None = None,
    legacy: bool = False,
    threshold: float = THRESHOLD,
    required: float = REQUIRED,
    replicates: int = 1000,
    permutations: int = 999,
    seed: int = 0,
) -> Plausibility:
    """Hold the volumes of generated images against those of real ones.

    Args:
        real: Real people who are not in the training set.
        generated: Of the same segmenter; its reliable images alone are compared, where it has QC scores.
        adjust: On whom volumes are regressed on the head's size: "real", "pooled" (the paper), or not at all, "none".
        training: What the generator has seen, reliable images alone; without it nothing is said about memorisation.
        legacy: As the paper's code: pooled, and Student's t-test in place of Welch's.
        threshold: Of the gate: scores above it are reliable.
        required: The share of images in the gate, and of regions, that a set needs.
        replicates: Resamples of the people, for intervals.
        permutations: Exchanges of real and generated people, for the p of the whole set.
        seed: Of both.

    Raises:
        InputError: The sets have no region in common, are of different segmenters or were processed differently; a
            region is absent in all real images; fewer than 2 real images are reliable, or 3 of those for training;
            legacy without adjustment.
    """
    if legacy and adjust == "none":
        raise InputError("adjust none and legacy, which adjusts as the paper does: leave one of them out")
    adjust = "pooled" if legacy else adjust
    if seed < 0:
        raise InputError(f"seed {seed}: give 0 or more")
    _check_alike(real, generated)
    seen = None if training is None else _training(training, generated, threshold, required)
    gates, kept = zip(*(_through_gate(one, threshold, required) for one in (real, generated)), strict=True)
    names = [name for name in real.regions if name in generated.regions]
    notes = _notes(real, generated, kept)
    if (count := 0 if kept[0] is None else len(kept[0])) < 2:
        raise InputError(f"{real.source}: {count} real images are reliable; at least 2 are needed")
    if kept[1] is None or len(kept[1]) < 2:
        return _unreliable(gates, adjust, len(names), notes)
    one, other = kept[0].only(names), kept[1].only(names)
    _check_present(one)
    work = _Comparison(one, other, adjust, legacy, np.random.default_rng(seed))
    regions, icv, spread = work.measure(replicates)
    share = np.mean([region.is_plausible for region in regions])
    verdict, reasons = _judge(regions, icv, spread, float(share), required)
    p, wasabi_p, correlation_p = work.exchange(permutations) if work.has_p else (np.nan,) * 3
    return Plausibility(
        regions=regions,
        icv=icv,
        verdict=verdict,
        reasons=reasons,
        spread=spread,
        p=p,
        wasabi=work.wasabi,
        wasabi_p=wasabi_p,
        correlation_error=work.correlation_error,
        correlation_p=correlation_p,
        copies=None if seen is None else check_volumes(seen, other),
        repeats=check_volumes(one, other) if len(one) > 2 else None,
        real_gate=gates[0],
        generated_gate=gates[1],
        head_size=work.head_size,
        adjust=adjust,
        real_SR=work.real_SR,
        generated_SR=work.generated_SR,
        notes=notes,
    )


class _Comparison:
    """Two sets with the same regions, and all that is computed of them."""

    def __init__(
        self, real: Measured, generated: Measured, adjust: Adjust, legacy: bool, random: np.random.Generator
    ) -> None:
        self.real, self.generated, self.adjust, self.legacy, self.random = real, generated, adjust, legacy, random
        self.has_p = min(len(real), len(generated)) >= FEWEST
        self.volumes_SR = np.concatenate([real.volumes_SR, generated.volumes_SR])
        self.icv_S = np.concatenate([real.icv_S, generated.icv_S])
        self.is_real_S = np.arange(len(self.icv_S)) < len(real)
        self.head_size = fit_head_size(self.volumes_SR, self.icv_S, self.is_real_S, adjust)
        self.real_SR, self.generated_SR = self._split(self.head_size.adjust(self.volumes_SR, self.icv_S))
        self.wasabi = wasabi(real.volumes_SR, real.icv_S, generated.volumes_SR, generated.icv_S)
        self.correlation_error = correlation_error(self.real_SR, self.generated_SR)

    def _split(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return values[self.is_real_S], values[~self.is_real_S]

    def _resample(
        self, replicates: int, volumes_SR: NDArray[np.float64], adjust: Adjust
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        centre = volumes_SR[self.is_real_S].mean(axis=0), float(self.icv_S[self.is_real_S].mean())
        pools = [Pool(*one, centre) for one in zip(self._split(volumes_SR), self._split(self.icv_S), strict=True)]
        real, generated = (pool.moments(pool.draw(replicates, self.random)) for pool in pools)
        return moment_effects(real, generated, adjust)

    def measure(self, replicates: int) -> tuple[tuple[Region, ...], Region, Estimate]:
        """The regions, the intracranial volume, and the median variance ratio."""
        d_BR, ratio_BR = self._resample(replicates, self.volumes_SR, self.adjust)
        raw = cohens_d(*self._split(self.volumes_SR))
        pooled = np.full(len(raw), np.nan)
        if self.adjust != "none":
            fitted = fit_head_size(self.volumes_SR, self.icv_S, self.is_real_S, "pooled")
            pooled = cohens_d(*self._split(fitted.adjust(self.volumes_SR, self.icv_S)))
        asymmetries = (self.real.asymmetry_SR, self.generated.asymmetry_SR)
        asymmetry = np.full(len(raw), np.nan) if any(one is None for one in asymmetries) else _asymmetry(*asymmetries)  # type: ignore[arg-type]
        regions = self._rows(
            self.real.regions, self.real_SR, self.generated_SR, d_BR, ratio_BR, np.array([raw, pooled, asymmetry])
        )
        heads = self.icv_S[:, None]
        icv_BR, icv_ratio_BR = self._resample(replicates, heads, "none")
        icv = cohens_d(*self._split(heads))
        [head] = self._rows([ICV], *self._split(heads), icv_BR, icv_ratio_BR, np.array([icv, icv, [np.nan]]))
        middle = float(np.median(_logarithm([one.variance_ratio.value for one in regions])))
        spread = interval(middle, np.median(ratio_BR, axis=1), self._least() - 1)
        return regions, head, Estimate(*map(float, np.exp(spread)))

    def _least(self) -> int:
        return min(len(self.real), len(self.generated))

    def _rows(
        self, names: Sequence[str], real: NDArray[np.float64], generated: NDArray[np.float64],
        d_BR: NDArray[np.float64], ratio_BR: NDArray[np.float64], others: NDArray[np.float64],
    ) -> tuple[Region, ...]:  # fmt: skip
        d, ratio = cohens_d(real, generated), variance_ratio(real, generated)
        nothing = np.full(len(d), np.nan)
        p = t_test(real, generated, self.legacy) if self.has_p else nothing
        ks, ks_p = kolmogorov_smirnov(real, generated)
        adjusted = [p, holm(p), benjamini_hochberg(p), holm(ks_p) if self.has_p else nothing]
        freedom = len(real) + len(generated) - 3
        rows = []
        for i, name in enumerate(names):
            of_ratio = interval(float(_logarithm(ratio[i])), ratio_BR[:, i], self._least() - 1)
            p_one, p_holm, p_fdr, ks_holm = (float(values[i]) for values in adjusted)
            rows.append(
                Region(
                    name=name,
                    real_mean=float(real[:, i].mean()),
                    real_sd=float(real[:, i].std()),
                    generated_mean=float(generated[:, i].mean()),
                    generated_sd=float(generated[:, i].std()),
                    d=interval(float(d[i]), d_BR[:, i], freedom),
                    d_raw=float(others[0, i]),
                    d_pooled=float(others[1, i]),
                    p=p_one,
                    p_holm=p_holm,
                    p_fdr=p_fdr,
                    variance_ratio=Estimate(*map(float, np.exp(of_ratio))),
                    ks=float(ks[i]),
                    ks_p=ks_holm,
                    asymmetry_d=float(others[2, i]),
                )
            )
        return tuple(rows)

    def exchange(self, permutations: int) -> tuple[float, float, float]:
        """p of the greatest |d|, of WASABI, and of the correlations, when it is drawn by lot who is real."""
        size, count = len(self.icv_S), len(self.real)
        drawn_BS = self.random.permuted(np.tile(self.is_real_S.astype(np.float64), (permutations, 1)), axis=1)
        pool = Pool(self.volumes_SR, self.icv_S, (self.volumes_SR.mean(axis=0), float(self.icv_S.mean())))
        rounds = np.concatenate([self.is_real_S[None].astype(np.float64), drawn_BS])
        greatest = np.abs(moment_effects(pool.moments(rounds), pool.moments(1 - rounds), self.adjust)[0]).max(axis=1)
        residuals = np.concatenate([one - one.mean(axis=0) for one in (self.real_SR, self.generated_SR)])
        distances, errors = [self.wasabi], [self.correlation_error]
        for _ in range(WHOLE_SET):
            order = self.random.permutation(size)
            one, other = order[:count], order[count:]
            distances.append(wasabi(self.volumes_SR[one], self.icv_S[one], self.volumes_SR[other], self.icv_S[other]))
            errors.append(correlation_error(residuals[one], residuals[other]))
        return tuple(_exceeding(np.asarray(values)) for values in (greatest, distances, errors))  # type: ignore[return-value]


def _exceeding(values: NDArray[np.float64]) -> float:
    """The share of values at least as great as the first, itself included; equal ones may differ in their last bits."""
    return float(np.mean(values >= values[0] * (1 - 1e-9))) if np.isfinite(values[0]) else float("nan")


def _judge(
    regions: Sequence[Region], icv: Region, spread: Estimate, share: float, required: float
) -> tuple[Verdict, tuple[str, ...]]:
    """A verdict, and a line for each reason against "plausible"."""
    reasons, certain = [], []
    if share < required:
        off = sorted((one for one in regions if not one.is_plausible), key=lambda one: -abs(one.d.value))
        listed = ", ".join(f"{one.name} {_direction(one)}" for one in off[:5])
        more = f" and {len(off) - 5} more" if len(off) > 5 else ""
        reasons.append(f"{len(off)} of {len(regions)} regions are off: {listed}{more}")
        certain.append(float(np.mean([one.is_certainly_off for one in regions])) > 1 - required)
    if not icv.is_plausible:
        reasons.append(f"heads are {_direction(icv)}")
        certain.append(icv.is_certainly_off)
    if not 1 / SPREAD <= spread.value <= SPREAD:
        reasons.append(f"volumes vary {spread.value:.2f} times as much as real ones (median of the variance ratios)")
        certain.append(spread.high < 1 / SPREAD or spread.low > SPREAD)
    return "plausible" if not reasons else "implausible" if any(certain) else "undecided", tuple(reasons)


def _direction(region: Region) -> str:
    return f"too {'small' if region.d.value > 0 else 'large'} (d = {region.d.value:.2f})"


def _unreliable(gates: Sequence[Gate | None], adjust: Adjust, regions: int, notes: tuple[str, ...]) -> Plausibility:
    nothing, none = Estimate(np.nan, np.nan, np.nan), np.empty((0, regions))
    return Plausibility(
        (), None, "unreliable", ("fewer than 2 of the generated images have a reliable segmentation",), nothing,
        np.nan, np.nan, np.nan, np.nan, np.nan, None, None, gates[0], gates[1], None, adjust, none, none, notes,
    )  # fmt: skip


def _through_gate(measured: Measured, threshold: float, required: float) -> tuple[Gate | None, Measured | None]:
    """The gate, and the reliable images; without scores no gate and all, None where none is reliable."""
    if measured.qc_SG is None:
        return None, measured
    found = gate(measured, threshold, required)
    return found, measured.take(found.reliable_S) if found.reliable_S.any() else None


def _training(training: Measured, generated: Measured, threshold: float, required: float) -> Measured:
    """Its reliable images: the volumes of a failed segmentation say nothing of whose they are."""
    _check_alike(training, generated)
    _, kept = _through_gate(training, threshold, required)
    if kept is None or len(kept) < 3:
        count = 0 if kept is None else len(kept)
        raise InputError(f"{training.source}: {count} training images are reliable; copies are looked for among 3")
    return kept


def _check_alike(real: Measured, generated: Measured) -> None:
    if real.segmenter and generated.segmenter and real.segmenter != generated.segmenter:
        raise InputError(
            f"{real.source} has volumes of {real.segmenter}, {generated.source} of {generated.segmenter}; these differ "
            "for the same brain: segment both sets alike"
        )
    if real.processing is not None and generated.processing is not None:
        check_same(real.processing, generated.processing, real.source, generated.source)
    if not set(real.regions) & set(generated.regions):
        raise InputError(f"{real.source} and {generated.source} have no region in common")


def _check_present(real: Measured) -> None:
    for name, values in zip(real.regions, real.volumes_SR.T, strict=True):
        if not values.any():
            raise InputError(f"{real.source}: {name} is absent in all real images; leave it out, or segment it")
        if np.ptp(values) == 0:
            raise InputError(f"{real.source}: {name} has {values[0]:g} mm³ in all real images; are they one image?")


def _notes(real: Measured, generated: Measured, kept: Sequence[Measured | None]) -> tuple[str, ...]:
    notes = []
    counts = [0 if one is None else len(one) for one in kept]
    if min(counts) < FEWEST:
        notes.append(f"{counts[0]} real and {counts[1]} generated images: below {FEWEST} of each no p is given")
    roles = {"real": (real, generated), "generated": (generated, real)}
    for role, (one, other) in roles.items():
        if alone := [name for name in one.regions if name not in other.regions]:
            notes.append(f"left out, since only {role} images have it: {', '.join(alone)}")
        if short := [name for name in one.missing if not name.startswith("ctx-")]:
            notes.append(f"{role} images do not have {', '.join(short)}")
    if (real.processing is None) != (generated.processing is None):
        silent = "real" if real.processing is None else "generated"
        notes.append(f"nothing says how {silent} images were processed; taken as processed alike")
    if missing := [role for role, (one, _) in roles.items() if one.qc_SG is None]:
        notes.append(f"without QC scores, all {' and '.join(missing)} images were taken as reliable")
    return tuple(notes)


def _asymmetry(real: NDArray[np.float64], generated: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cohen's d of the asymmetry index per region; NaN where somebody has none."""
    paired = np.isfinite(real).all(axis=0) & np.isfinite(generated).all(axis=0)
    out = np.full(real.shape[1], np.nan)
    out[paired] = cohens_d(real[:, paired], generated[:, paired])
    return out


def _logarithm(values: ArrayLike) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        return np.log(np.asarray(values, np.float64))
