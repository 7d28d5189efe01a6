"""For each recall that is asked for, the fastest setting of a peer that reaches it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

from search_peers.peer import Peer

Trial = Callable[[dict[str, object]], tuple[float, float]]
"""Search with a setting; return recall and queries per second."""


@dataclass(frozen=True)
class Choice:
    """A setting of a peer: which family, which step of the grid; `qps` as seen while tuning."""

    family: int
    step: int
    qps: float


class Tuner:
    """Finds settings; recall is taken to rise along the peer's grid.

    Every trial is remembered, so that the second target starts from what the first has shown, and
    the step found for one family is the first guess for the next.
    """

    def __init__(self, peer: Peer, trial: Trial) -> None:
        self._peer = peer
        self._trial = trial
        self._seen: dict[tuple[int, int], tuple[float, float]] = {}

    def tune(self, targets: Sequence[float]) -> dict[float, Choice | None]:
        """Return for each target the fastest choice that reaches it, or None if no family does."""
        best: dict[float, Choice | None] = {}
        for target in targets:
            step, stride, choices = len(self._peer.grid) // 3, max(1, len(self._peer.grid) // 16), []
            for family in range(len(self._peer.families)):
                found = self._first_step(family, target, step, stride)
                if found is not None:
                    step, stride = found, 1  # the next family is probably near
                    choices.append(Choice(family, found, self._try(family, found)[1]))
            best[target] = self._fastest(choices)
        return best

    def _fastest(self, choices: Sequence[Choice]) -> Choice | None:
        """Return the fastest choice; those within a quarter of it are timed once more first."""
        front = max((choice.qps for choice in choices), default=0.0)
        close = [choice for choice in choices if choice.qps > 0.75 * front]
        if len(close) > 1:
            close = [
                Choice(one.family, one.step, max(one.qps, self._trial(self._peer.setting(one.family, one.step))[1]))
                for one in close
            ]
        return max(close, key=lambda choice: choice.qps, default=None)

    def _try(self, family: int, step: int) -> tuple[float, float]:
        if (family, step) not in self._seen:
            self._seen[family, step] = self._trial(self._peer.setting(family, step))
        return self._seen[family, step]

    def _first_step(self, family: int, target: float, guess: int, stride: int) -> int | None:
        """Return the first grid step whose recall is at least `target`: walk from `guess`, then bisect."""
        last = len(self._peer.grid) - 1
        low, high = -1, last + 1  # low misses the target, high reaches it
        for (seen_family, step), (recall, _) in self._seen.items():
            if seen_family == family:
                low, high = (max(low, step), high) if recall < target else (low, min(high, step))
        while high - low > 1:
            step = min(max(guess, low + 1), high - 1)
            reached = self._try(family, step)[0] >= target
            low, high = (low, step) if reached else (step, high)
            if low < 0 or high > last:  # one side is open: walk, faster and faster
                guess, stride = (step - stride if reached else step + stride), stride * 2
            else:
                guess = self._between(family, low, high, target)
        return high if high <= last else None

    def _between(self, family: int, low: int, high: int, target: float) -> int:
        """Guess the step between two seen ones; the share of misses falls about exponentially."""
        below, above, wanted = (
            log(max(1 - recall, 1e-5)) for recall in (self._try(family, low)[0], self._try(family, high)[0], target)
        )
        share = (below - wanted) / (below - above) if below > above else 0.5
        return low + round(min(max(share, 0.15), 0.85) * (high - low))
