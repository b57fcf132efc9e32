"""How anything is timed here: slices of some seconds, taken in turn, of which the median counts. No TensorFlow here.

Other work on the machine comes and goes, so what is to be compared is measured alternately and compared pair by pair.
"""

import statistics
import time


def rate(advance, seconds):
    """What is done in a second.

    Args:
        advance: function without arguments that does some work, waits for its end and returns how much it was.
        seconds: float, measured for at least that long.
    """
    done, began, taken = 0, time.perf_counter(), 0.0
    while taken < seconds:
        done += advance()
        taken = time.perf_counter() - began
    return done / taken


def in_turn(sides, repeats, seconds):
    """Measure several things alternately.

    Args:
        sides: dict name -> function of seconds that returns a rate.
        repeats: int, rounds.
        seconds: float, of one measurement.

    Returns:
        dict name -> list of `repeats` rates.
    """
    found = {name: [] for name in sides}
    for _ in range(repeats):
        for name, measure in sides.items():
            found[name].append(measure(seconds))
    return found


def spread(values, name="images_per_second"):
    """{name: median, "lowest", "highest"}."""
    return {name: statistics.median(values), "lowest": min(values), "highest": max(values)}


def pairs(ours, others):
    """Ratios of two lists measured in turn: {"ratio": their median, "ratios": one of each round}."""
    ratios = [mine / other for mine, other in zip(ours, others, strict=True)]
    return {"ratio": statistics.median(ratios), "ratios": ratios}
