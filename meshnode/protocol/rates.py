"""Token buckets: how much of something may happen in a time. The caller owns the clock."""

_ROUNDING = 1e-6
"""By how much a bucket may seem emptier than it is, because floats are rounded."""


class TokenBucket:
    """Allows ``burst`` at once and ``rate`` a second in the long run."""

    __slots__ = ("_at", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at = now

    def left(self, now: float) -> float:
        """Return how much may be taken at once."""
        return min(self.burst, self._left + (now - self._at) * self.rate)

    def when(self, now: float, amount: float, *, keep: float = 0.0) -> float:
        """Return when ``amount`` may be taken, if nothing else is."""
        return now + max(amount + keep - self.left(now), 0.0) / self.rate

    def take(self, now: float, amount: float = 1.0, *, keep: float = 0.0) -> bool:
        """Take ``amount`` if that much is left, and ``keep`` beside it."""
        left = self.left(now)
        if left + _ROUNDING < amount + keep:
            return False
        self._left, self._at = left - amount, now
        return True


class NamedBuckets:
    """A bucket for each of many names: ``burst`` seconds' worth at once, a second's worth a second.

    A full bucket takes no memory.
    """

    __slots__ = ("_burst", "_busy", "_sweep_at")

    _LEAST = 256
    """Names from which on full buckets are looked for."""

    def __init__(self, burst: float) -> None:
        self._burst = burst
        self._busy: dict[str, float] = {}
        """When the bucket of each name is full again."""
        self._sweep_at = self._LEAST

    def take(self, name: str, now: float, seconds: float) -> bool:
        """Take so many seconds' worth if that much is left."""
        if self.when(name, now, seconds) > now:
            return False
        self.add(name, now, seconds)
        return True

    def when(self, name: str, now: float, seconds: float) -> float:
        """Return when the name may take so many seconds' worth."""
        return max(self._busy.get(name, now) + seconds - self._burst, now)

    def add(self, name: str, now: float, seconds: float) -> None:
        """Take so many seconds' worth, left or not."""
        self._busy[name] = max(self._busy.get(name, now), now) + seconds
        if len(self._busy) >= self._sweep_at:
            self._busy = {n: until for n, until in self._busy.items() if until > now}
            self._sweep_at = max(2 * len(self._busy), self._LEAST)

    def __len__(self) -> int:
        return len(self._busy)
