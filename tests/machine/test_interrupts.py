"""Signals and a closed output, as the loop and the other workers learn of them. No TensorFlow."""

import contextlib
import os
import signal
import time

import pytest

from cct_tf.errors import Interrupted
from cct_tf.machine.interrupts import Interrupts


@contextlib.contextmanager
def installed(disposition=signal.SIG_DFL):
    """`Interrupts` of this process, which was started with such a disposition of SIGHUP."""
    before = signal.signal(signal.SIGHUP, disposition)
    interrupts = Interrupts().install()
    try:
        yield interrupts
    finally:
        interrupts.uninstall()
        assert signal.signal(signal.SIGHUP, before) == disposition


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_is_for_the_loop_to_look_at_and_the_other_workers_are_told(number, capfd):
    with installed() as interrupts:
        told = []
        interrupts.tell, interrupts.can_save = told.append, True
        os.kill(os.getpid(), number)
        end = time.monotonic() + 10
        while not told and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(Interrupted, match=f"{number.name}: saved step 7") as raised:
            interrupts.check("saved step 7")
    assert told == [number] and raised.value.exit_status == 128 + number
    assert capfd.readouterr().err == f"{number.name}: finishing the step and saving\n"


def test_before_the_first_step_a_lost_terminal_ends_the_command():
    with installed(), pytest.raises(Interrupted, match="SIGHUP before the first step") as raised:
        os.kill(os.getpid(), signal.SIGHUP)
    assert raised.value.exit_status == 129


def test_a_lost_terminal_makes_no_difference_under_nohup():
    with installed(signal.SIG_IGN) as interrupts:
        with interrupts.held():  # which sets the handlers once more
            pass
        os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert interrupts.requested is None


def test_a_closed_output_asks_to_stop_as_a_signal_does(capfd):
    with installed() as interrupts, pytest.raises(Interrupted, match="closed output before the first step") as raised:
        interrupts.output_closed()
    assert raised.value.exit_status == 141
    with installed() as interrupts:
        interrupts.can_save = True
        interrupts.output_closed()
        with pytest.raises(Interrupted, match="closed output: saved") as raised:
            interrupts.check("saved")
    assert raised.value.exit_status == 141
    assert capfd.readouterr().err == "closed output: finishing the step and saving\n"
