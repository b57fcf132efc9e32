"""Kill a small training at random moments, start it again until it is done, and compare with an undisturbed run.

    python tests/exact_resume.py --kills=5 --seed=1

Every kind of randomness is on (dropout, attention dropout, stochastic depth, crop, flip), two replicas, a validation
split, an average of the weights and a test at the end; the cadences divide neither each other nor the epoch. Weights,
averages, optimizer and counters of the last and of the best checkpoint, run.json and metrics.jsonl (but timing/*) must
agree to the last bit. Prints each moment and the verdict; exit status 1 if anything differs.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[1]
FLAGS = """--dataset=digits --validation_fraction=0.15 --model=cct_2_3x1_16 --image_size=8 --batch_size=32 --epochs=2.5
    --eval_every_epochs=0.7 --checkpoint_every_steps=10 --log_every_steps=7 --num_replicas=2 --accumulate_steps=2
    --dropout_rate=0.1 --attention_dropout_rate=0.1 --drop_path_rate=0.1 --crop_padding=1 --flip=random
    --label_smoothing=0.1 --clip_norm=1 --warmup_epochs=0.5 --learning_rate=2e-3 --ema_decay=0.95""".split()
RECIPE = """--crop_padding=0 --random_resized_crop=0.5,1 --flip=alternating --auto_augment=rand-m9-mstd0.5-inc1
    --mixup_alpha=0.8 --cutmix_alpha=1 --erase_probability=0.25 --repeated_augmentation=2""".split()
STEPS = 96
_PATIENCE = 900.0  # seconds that a start, or the way to a moment, may take on a busy machine
_STATUS = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


def start(workdir, flags=()):
    """The training as a process of its own, its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", "cct_tf.train", *FLAGS, f"--workdir={workdir}", *flags], cwd=REPO,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.environ.get("PYTHONPATH") or str(REPO), "PYTHONUNBUFFERED": "1"})


def finish(process):
    """(exit status, stdout, stderr) of a process that ends by itself."""
    try:
        out, err = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def saved_steps(workdir):
    """Steps of the complete checkpoints, in order."""
    folder = pathlib.Path(workdir) / "checkpoints"
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted(int(name[5:]) for name in names if name.startswith("step_") and name[5:].isdigit())


def is_half_saved(workdir):
    """Whether a checkpoint is being written, or was left half-written."""
    folder = pathlib.Path(workdir) / "checkpoints"
    return folder.is_dir() and any(name.startswith(".partial-step") for name in os.listdir(folder))


def wait_until(process, condition):
    """Look every half millisecond until `condition()`; False if the process ends first."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            process.kill()
            raise TimeoutError("the awaited moment never came")
        time.sleep(0.0005)
    return True


def await_moment(process, workdir, kind, step, evaluated, luck):
    """Wait for a moment at or after `step`: while saving, while evaluating, or anywhere; False if there was none."""
    if kind == "start":
        time.sleep(luck.uniform(0.5, 12.0))
        return process.poll() is None
    # What an earlier kill left half-written goes first.
    if not wait_until(process, lambda: not is_half_saved(workdir)):
        return False
    if not wait_until(process, lambda: max(saved_steps(workdir), default=0) >= step):
        return False
    if kind == "saving":
        return wait_until(process, lambda: is_half_saved(workdir))
    if kind == "evaluation":
        if not wait_until(process, lambda: any(saved >= step for saved in evaluated & set(saved_steps(workdir)))):
            return False
    time.sleep(luck.uniform(0.0, 0.3))
    return process.poll() is None


def situation(workdir):
    """What the stopped process was doing, as far as its files tell."""
    steps, saving = saved_steps(workdir), is_half_saved(workdir)
    file = pathlib.Path(workdir) / "metrics.jsonl"
    records = file.read_bytes().count(b"\n") if file.exists() else 0
    doing = "writing a checkpoint, " if saving else ""
    return f"{doing}last checkpoint {steps[-1] if steps else None}, {records} records"


def disturb(workdir, number, kind, step, evaluated, luck):
    """One start, ended by signal `number`; returns a line that describes the moment."""
    process = start(workdir)
    if not await_moment(process, workdir, kind, step, evaluated, luck):
        status, _, err = finish(process)
        if status:
            raise RuntimeError(f"ended with status {status} before it was killed: {err}")
        return f"{number.name} {kind}: came too late, the run had ended"
    os.kill(process.pid, signal.SIGSTOP)
    moment = situation(workdir)
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGCONT)
    status, _, err = finish(process)
    if status != _STATUS[number]:
        raise RuntimeError(f"expected status {_STATUS[number]} after {number.name}, found {status}: {err}")
    return f"{number.name} at {kind} (from step {step} on): {moment}"


def _newest(folder):
    return max(path for path in pathlib.Path(folder).glob("step_*") if path.name[5:].isdigit())


def tensors(folder):
    """{name: array} of the newest checkpoint in a folder."""
    import tensorflow as tf
    newest = _newest(folder)
    reader = tf.train.load_checkpoint(str(newest / "weights"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def records(workdir):
    """Lines of metrics.jsonl without timing/*."""
    lines = (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if not key.startswith("timing/")} for line in lines]


def run_record(workdir):
    """run.json of the newest checkpoint, without the work folder's name and the checksum over it."""
    newest = _newest(pathlib.Path(workdir) / "checkpoints")
    record = json.loads((newest / "run.json").read_text())
    del record["config"]["workdir"], record["checksum"]
    return newest.name, record


def _bytes(value):
    return value.tobytes() if hasattr(value, "tobytes") else value


def differences(one, other):
    """What differs between two finished work folders: a list of lines, empty if nothing does."""
    found = []
    for folder in ("checkpoints", "best"):
        first, second = tensors(pathlib.Path(one) / folder), tensors(pathlib.Path(other) / folder)
        if first.keys() != second.keys():
            found.append(f"{folder}: names {sorted(first.keys() ^ second.keys())}")
        found += [f"{folder}: {name}" for name in first.keys() & second.keys()
                  if _bytes(first[name]) != _bytes(second[name])]
    if run_record(one) != run_record(other):
        found.append(f"run.json: {run_record(one)} and {run_record(other)}")
    before, after = records(one), records(other)
    found += [f"metrics.jsonl: {left} and {right}" for left, right in zip(before, after, strict=False)
              if left != right]
    if len(before) != len(after):
        found.append(f"metrics.jsonl: {len(before)} and {len(after)} records")
    return found


def evaluated_steps(workdir):
    """Steps at which a finished run evaluated."""
    return {record["step"] for record in records(workdir) if "eval/loss" in record}


def plan_moments(kills, luck):
    """`kills` moments in the order of their steps: (kind, step), each kind drawn at least once if there are enough."""
    kinds = (["saving", "evaluation", "training", "start"] * kills)[:kills]
    luck.shuffle(kinds)
    return list(zip(kinds, sorted(luck.randrange(0, STEPS - 16) for _ in kinds), strict=True))


def check(kills, seed, signals, folder, undisturbed=None, say=print, go_on=lambda workdir: finish(start(workdir))):
    """Disturb a run and compare it; returns the list of differences.

    Args:
        kills: int, how often it is disturbed.
        seed: int, of the moments.
        signals: list of signal numbers, taken in turn.
        folder: where the work folders go.
        undisturbed: work folder of a finished run, made if None.
        say: function of a line.
        go_on: the last start, function of the work folder that gives what `finish` does.
    """
    luck = random.Random(seed)
    if undisturbed is None:
        undisturbed = pathlib.Path(folder) / "undisturbed"
        status, _, err = finish(start(undisturbed))
        if status:
            raise RuntimeError(f"the undisturbed run ended with status {status}: {err}")
    workdir = pathlib.Path(folder) / "disturbed"
    evaluated = evaluated_steps(undisturbed)
    for index, (kind, step) in enumerate(plan_moments(kills, luck)):
        say(f"{index + 1}. {disturb(workdir, signals[index % len(signals)], kind, step, evaluated, luck)}")
    status, _, err = go_on(workdir)
    if status or err:
        raise RuntimeError(f"the last start ended with status {status}: {err}")
    return differences(undisturbed, workdir)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signals", default="SIGKILL", help="names, taken in turn: SIGKILL,SIGTERM,SIGINT")
    parser.add_argument("--recipe", action="store_true", help="with all of the augmentation on, which starts slower")
    parser.add_argument("--flags", default="", help="more of the training, --flags='--precision=bfloat16 --jit=on'")
    options = parser.parse_args()
    if options.recipe:
        FLAGS.extend(RECIPE)
    FLAGS.extend(options.flags.split())
    signals = [signal.Signals[name] for name in options.signals.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TMPDIR"] = folder  # what is killed leaves files behind
        found = check(options.kills, options.seed, signals, folder)
        count = len(tensors(pathlib.Path(folder) / "disturbed" / "checkpoints"))
    print("\n".join(found) if found else f"identical: {count} tensors of the last checkpoint, the best one, run.json "
          "and metrics.jsonl")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
