"""How much of something may happen in a time; the caller owns the clock."""


class Bucket:
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

    def take(self, now: float, amount: float = 1.0, *, keep: float = 0.0) -> bool:
        """Take ``amount`` if that much is left, and ``keep`` beside it."""
        left = self.left(now)
        if left < amount + keep:
            return False
        self._left, self._at = left - amount, now
        return True
