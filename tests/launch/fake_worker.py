"""Stands in for `python -m cct_tf.train`: does what the work folder's `plan` says, start by start and worker by worker.

plan: {"0": [first start, second start, ...], "1": ...}, each a list of actions; the last start's are repeated:
    {"exit": status}  {"kill": signal}  {"sleep": seconds}  {"hang": true, "on": {"15": status}}  {"checkpoint": step}
    {"after": {"0": "stopped", "1": "started"}} waits until the first start of these workers has come so far
Each start is a line of `starts`; with "on", what the signals do is set before.
"""

import json
import os
import pathlib
import signal
import sys
import time

workdir = pathlib.Path(next(text for text in sys.argv if text.startswith("--workdir=")).partition("=")[2])
config = json.loads(os.environ["TF_CONFIG"])
index = str(config["task"]["index"])


def write(name, record):
    with open(workdir / name, "ab", buffering=0) as file:
        file.write(json.dumps(record).encode() + b"\n")


def on_signal(status):
    def act(number, frame):
        write("signals", [index, number])
        if status is not None:
            sys.exit(status)
    return act


def has(other, state):
    """Whether another worker has started, or is "stopped" by a signal too."""
    pids = [each["pid"] for each in map(json.loads, open(workdir / "starts")) if each["index"] == other]
    if state == "started" or not pids:
        return bool(pids)
    return pathlib.Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[0] == "T"


starts = json.loads((workdir / "plan").read_text())[index]
number = len([1 for line in open(workdir / "starts") if json.loads(line)["index"] == index])
plan = starts[min(number, len(starts) - 1)]
for action in plan:
    for name, status in action.get("on", {}).items():
        signal.signal(int(name), on_signal(status))
write("starts", {"index": index, "pid": os.getpid(), "group": os.getpgrp(), "cluster": config["cluster"]["worker"],
                 "argv": sys.argv[1:], "devices": os.environ.get("CUDA_VISIBLE_DEVICES")})
for action in plan:
    if "checkpoint" in action:
        (workdir / f"checkpoints/step_{action['checkpoint']:08d}").mkdir(parents=True, exist_ok=True)
    time.sleep(action.get("sleep", 0))
    while not all(has(other, state) for other, state in action.get("after", {}).items()):
        time.sleep(0.01)
    if "kill" in action:
        os.kill(os.getpid(), action["kill"])
    while "hang" in action:
        time.sleep(0.02)
    if "exit" in action:
        sys.exit(action["exit"])
