"""Signals and a closed output, as the loop and the other workers learn of them. No TensorFlow."""

import contextlib
import os
import signal
import threading
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
        end = time.monotonic() + 60
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


@contextlib.contextmanager
def installed_in_a_program():
    """`Interrupts` of a process that goes on after the run; yields it, and the list of what its own handler is told."""
    told = []
    before = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
    interrupts = Interrupts(owns_process=False).install()
    try:
        yield interrupts, told
    finally:
        interrupts.uninstall()
        interrupts.uninstall()  # once is enough
        assert signal.getsignal(signal.SIGINT)(0, None) is None and told.pop() == 0
        signal.signal(signal.SIGINT, before)


def _await_line(capfd):
    """The line on a SIGINT, which a thread writes."""
    end, err = time.monotonic() + 60, ""
    while not err and time.monotonic() < end:
        time.sleep(0.01)
        err = capfd.readouterr().err
    assert err == "SIGINT: finishing the step and saving; Ctrl-C again stops without saving\n"


def test_a_second_sigint_leaves_a_program_alive(capfd):
    with installed_in_a_program() as (interrupts, told):
        interrupts.can_save = True
        os.kill(os.getpid(), signal.SIGINT)
        _await_line(capfd)
        assert interrupts.requested == signal.SIGINT
        with pytest.raises(Interrupted, match="^SIGINT again: stopped at once") as raised:
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # on the way out
    interrupts.pass_on()
    assert raised.value.exit_status == 130 and told == []


def test_a_program_gets_its_wake_up_file_descriptor_back_and_a_signal_that_came_too_late(capfd):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        with installed_in_a_program() as (interrupts, told):
            interrupts.can_save = True
            os.kill(os.getpid(), signal.SIGINT)
            _await_line(capfd)
            assert told == []
        own = signal.signal(signal.SIGINT, lambda number, frame: told.append(number))
        interrupts.pass_on()
        signal.signal(signal.SIGINT, own)
        assert told == [signal.SIGINT] and os.read(reading, 9) == bytes([signal.SIGINT])
        assert signal.set_wakeup_fd(before) == writing
    finally:
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)


def test_in_a_program_a_signal_waits_until_an_import_is_done():
    done = []
    with installed_in_a_program() as (interrupts, _), pytest.raises(Interrupted, match="^SIGINT before the first step"):
        with interrupts.held():
            # A thread of the program that blocks no signal: the handler runs in the main thread all the same.
            thread = threading.Thread(target=lambda: (
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT]), os.kill(os.getpid(), signal.SIGINT)))
            thread.start()
            thread.join()
            time.sleep(0.05)
            done.append(True)
    assert done == [True]


def test_outside_the_main_thread_nothing_is_installed_and_stop_is_heard():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        interrupts = Interrupts(owns_process=False).install()
        with interrupts.held():
            found.append(signal.getsignal(signal.SIGTERM) == before)
        interrupts.stop("program.stop()")
        interrupts.output_closed()  # too late, and no signal is sent, which would end the process
        interrupts.uninstall()
        interrupts.pass_on()
        try:
            interrupts.check("saved")
        except Interrupted as error:
            found.append((str(error), error.exit_status))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True, ("program.stop(): saved", 143)]
    closed = Interrupts(owns_process=False)
    closed.output_closed()
    assert closed.requested == signal.SIGPIPE
