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


def costs(advance, seconds):
    """What a piece of work takes: (seconds, seconds of all processors in this process). Args: as of `rate`."""
    done, began, processors, taken = 0, time.perf_counter(), time.process_time(), 0.0
    while taken < seconds:
        done += advance()
        taken = time.perf_counter() - began
    return taken / done, (time.process_time() - processors) / done


def in_turn(sides, repeats, seconds):
    """Measure several things alternately.

    Args:
        sides: dict name -> function of seconds that returns a rate, or costs.
        repeats: int, rounds.
        seconds: float, of one measurement.

    Returns:
        dict name -> list of `repeats` results.
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
