"""Whether two networks differ by more than chance on the same images. No NumPy needed."""

import dataclasses
import math

_EXACT_BELOW = 25  # images on which just one of the two is right


@dataclasses.dataclass(frozen=True)
class PairedTest:
    """McNemar's test (Psychometrika 12, 1947).

    Attributes:
        only_a, only_b: int, images on which A alone, B alone is right.
        method: "exact binomial", or "chi-squared with continuity correction".
        statistic: float, chi-squared with one degree of freedom; None of the exact test.
        p_value: float, two-sided: how probable such a difference or a larger one is if both are equally good.
    """

    only_a: int
    only_b: int
    method: str
    statistic: float | None
    p_value: float


def mcnemar(only_a, only_b):
    """The `PairedTest` of two counts. Exact below 25 images in all: there the approximation is poor."""
    total = only_a + only_b
    if total < _EXACT_BELOW:
        tail = sum(math.comb(total, count) for count in range(min(only_a, only_b) + 1))
        return PairedTest(only_a, only_b, "exact binomial", None, min(1.0, 2 * tail / 2**total))
    statistic = max(abs(only_a - only_b) - 1, 0) ** 2 / total
    # A chi-squared number with one degree of freedom is the square of a standard normal one.
    return PairedTest(only_a, only_b, "chi-squared with continuity correction", statistic,
                      math.erfc(math.sqrt(statistic / 2)))
