"""The comparison with timm: it needs timm only to run, and its ratios are what they are called."""

import itertools
import os
import subprocess
import sys

import pytest

from cct_tf.benchmark import photographs
from tests import compare_timm


@pytest.mark.parametrize("python", [sys.executable, "/nowhere/python"])
def test_without_timm_it_says_what_to_install_in_one_line(python):
    done = subprocess.run([sys.executable, compare_timm.__file__, f"--timm_python={python}"], capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": str(compare_timm.REPO)})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"error: --timm_python: expected a Python that has timm, found {python} (")
    assert done.stderr.endswith(f"pip install {compare_timm.PACKAGES}\n")


@pytest.mark.parametrize("to", ["network", "host"])
def test_our_side_counts_the_images_of_whole_batches(tmp_path, to):
    photographs.write(tmp_path, (40, 30), 6)
    advance = compare_timm.of_cct_tf({"row": "crop", "folder": str(tmp_path), "batch_size": 4, "side": 32, "to": to,
                                      "flags": []})
    assert [advance() for _ in range(4)] == [4] * 4  # more than an epoch


def test_a_measurement_begins_after_what_was_prepared_ahead(monkeypatch):
    calls = []
    monkeypatch.setattr(compare_timm.time, "perf_counter", itertools.count(0.0, 0.25).__next__)
    monkeypatch.setattr(compare_timm, "processor_seconds", itertools.count(1.0, 16.0).__next__)
    rate, processors = compare_timm.measure(lambda: calls.append(1) or 4, 3.0)
    assert len(calls) == 6 + 3 + 12  # six batches and a second, then three seconds
    assert (rate, processors) == (4 * 12 / 3.0, 16.0 / (4 * 12))


def test_at_least_eight_batches_count(monkeypatch):
    monkeypatch.setattr(compare_timm.time, "perf_counter", itertools.count(0.0, 10.0).__next__)
    calls = []
    rate, _ = compare_timm.measure(lambda: calls.append(1) or 5, 3.0)
    assert len(calls) == 6 + 8 and rate == 5 * 8 / 80.0


def test_processor_time_is_that_of_all_processes_of_a_side():
    before = compare_timm.processor_seconds()
    with subprocess.Popen([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass\n"
                                                 "print(flush=True)\ninput()"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        child.stdout.readline()
        assert compare_timm.processor_seconds() - before >= 0.45
        child.communicate("\n")


def test_sides_take_turns_and_every_second_round_goes_backwards():
    order = []

    class Side:
        def __init__(self, name):
            self.name = name

        def measure(self, seconds):
            order.append(self.name)
            return len(order), seconds

    found = compare_timm.in_turn({name: Side(name) for name in ("exact", "timm")}, 2, 0.5)
    assert order == ["exact", "timm", "timm", "exact"]
    assert found == {"exact": [(1, 0.5), (4, 0.5)], "timm": [(2, 0.5), (3, 0.5)]}


def test_ratios_are_of_pairs_and_above_one_where_we_are_faster():
    found = {"exact": [(300.0, 0.002), (400.0, 0.004), (900.0, 0.002)],
             "timm": [(100.0, 0.004), (200.0, 0.004), (300.0, 0.008)]}
    line, = compare_timm.line("500x375", "crop", found)
    assert line == ("| 500x375 | crop | exact | 400 (300-900) | 200 (100-300) | 3.00 (2.00-3.00) | 2.00 | 4.00 | "
                    "2.00 (1.00-4.00) |")
