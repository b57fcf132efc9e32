"""The worker processes of one start: started, watched, signalled, killed. Linux only.

Signals are not handled but waited for: those of `watched` stay blocked in this process, `next_signal` takes them one at
a time. So nothing interrupts the supervisor, and it sees who sent a signal.
"""

import ctypes
import dataclasses
import json
import math
import os
import random
import signal
import socket
import subprocess

# Below the ports that Linux gives to outgoing connections, or a worker's connection could take another's port.
_PORTS = range(20000, 32768)
_SI_KERNEL = 0x80  # siginfo's si_code of what the kernel sent by itself, as a terminal's Ctrl-C
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclasses.dataclass(frozen=True)
class End:
    """How a worker ended.

    Attributes:
        index: of the worker.
        pid: its process id.
        status: exit status, or minus the number of the signal that killed it.
        killed: whether it was `Group.kill` that did.
    """

    index: int
    pid: int
    status: int
    killed: bool = False

    def __str__(self):
        how = f"ended with status {self.status}" if self.status >= 0 else f"was killed by {signal_name(-self.status)}"
        return f"worker {self.index} (pid {self.pid}) {how}"


def watched():
    """The signals that are waited for; not SIGHUP where it was ignored at the start, as under nohup."""
    hang_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, *hang_up)


def signal_name(number):
    """SIGKILL for 9; real-time signals have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def next_signal(seconds):
    """siginfo of the next of `watched()`, or None after so many seconds (may be infinite)."""
    if math.isinf(seconds):
        return signal.sigwaitinfo(watched())
    return signal.sigtimedwait(watched(), max(seconds, 0))


def is_from_terminal(info):
    """Whether a terminal sent this signal: then every process of the group, so each worker, has got it."""
    return info.si_signo == signal.SIGINT and info.si_code == _SI_KERNEL


def free_ports(count):
    """Different ports that nobody listens on now. Raises OSError where there are not that many."""
    found, sockets = [], []
    try:
        for port in random.sample(_PORTS, len(_PORTS)):
            if len(found) == count:
                return found
            sockets.append(socket.socket())
            try:
                sockets[-1].bind(("", port))
                found.append(port)
            except OSError:
                pass
        raise OSError(f"no {count} free ports in {_PORTS.start}-{_PORTS.stop - 1}")
    finally:
        for each in sockets:
            each.close()


def _state(pid):
    """The letter of a process's state in /proc, or None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return None


def _prepare_child(parent):
    """Runs in the child before the trainer: it dies with the supervisor, however that ends, and gets its signals."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # gone before the line above
        os._exit(128 + signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched())


class Group:
    """N running workers, in the process group of the supervisor.

    Args:
        command: list of strings, the same for all.
        count: how many.
        devices: CUDA_VISIBLE_DEVICES of each, a list of text, or None to leave it as it is.

    Attributes:
        running: dict index -> subprocess.Popen.
    """

    def __init__(self, command, count, devices):
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
        self.running = {}
        parent = os.getpid()
        try:
            for index in range(count):
                task = {"type": "worker", "index": index}
                environment = os.environ | {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}
                if devices:
                    environment["CUDA_VISIBLE_DEVICES"] = devices[index]
                self.running[index] = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                                                       preexec_fn=lambda: _prepare_child(parent))
        except BaseException:
            self.kill()
            raise

    def __str__(self):
        """`[0] pid 123, [1] pid 124` of those running."""
        return ", ".join(f"[{index}] pid {process.pid}" for index, process in self.running.items())

    def reap(self):
        """Those that ended since the last call: list of End."""
        ended = [index for index, process in self.running.items() if process.poll() is not None]
        return [self._end(index) for index in ended]

    def is_stopped(self):
        """Whether every running worker is stopped (by SIGSTOP or a debugger), so that none can end by itself."""
        return all(_state(process.pid) in ("T", "t") for process in self.running.values())

    def signal(self, number):
        """Send a signal to all that run."""
        for process in self.running.values():
            process.send_signal(number)

    def kill(self):
        """SIGKILL what is left and wait for it; a stopped process takes no other signal. Returns a list of End."""
        self.signal(signal.SIGKILL)
        for process in self.running.values():
            process.wait()
        return [self._end(index, killed=True) for index in list(self.running)]

    def _end(self, index, killed=False):
        process = self.running.pop(index)
        return End(index, process.pid, process.returncode, killed and process.returncode == -signal.SIGKILL)
