"""Break an image file under running trainings with --on_bad_image=skip, and compare with runs that knew it.

    python tests/broken_mid_run.py

Twice: two workers of launch/workers.sh, which have to go on; and one process that gets SIGKILL as soon as it wrote
down what it found, after which the file is removed and the same command goes on. Either run is compared with the one
that goes on from the checkpoint of the step that met the file, with the file mended and listed in the record.
Checkpoints, run.json and metrics.jsonl (but timing/*) must agree to the last bit. Prints what happened and the
verdict; exit status 1 if anything differs.
"""

import dataclasses
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from cct_tf.runs import run_record  # noqa: E402
from tests import exact_resume  # noqa: E402

BATCH, STEPS = 8, 90
FLAGS = f"""--dataset=folder --in_memory_gib=0 --pipeline_gib=0.01 --on_bad_image=skip --validation_fraction=0.25
    --model=cct_2_3x1_16 --image_size=16 --random_resized_crop=0.3,1 --flip=random --mixup_alpha=0.8 --dropout_rate=0.1
    --batch_size={BATCH} --train_steps={STEPS} --warmup_epochs=1 --log_every_steps=1 --checkpoint_every_steps=1
    --keep_checkpoints=99 --eval_every_steps=1000""".split()
_PATIENCE = 900.0  # seconds of a start on a busy machine
_BREAK_AT = 10  # step of the checkpoint after which the file breaks


def make_images(folder):
    """48 JPEGs of two classes."""
    draws = np.random.default_rng(0)
    for index in range(48):
        path = folder / "ab"[index % 2] / f"{index // 2}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, [48, 64, 3], np.uint8)).save(path)


def _start(workdir, images, workers):
    command = [exact_resume.REPO / "launch/workers.sh", str(workers)] if workers > 1 else [
        sys.executable, "-m", "cct_tf.train"]
    environment = {"PYTHONPATH": str(exact_resume.REPO), "CCT_VENV": sys.prefix} | os.environ
    return subprocess.Popen([*command, *FLAGS, f"--workdir={workdir}", f"--data_dir={images}"], cwd=exact_resume.REPO,
                            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _finish(process, status=0):
    """What the process said until it ended with a status."""
    try:
        out, _ = process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.terminate()  # workers.sh ends its workers
        raise
    if process.returncode != status:
        raise RuntimeError(f"expected status {status}, found {process.returncode}: {out}")
    return out


def _replace(path, contents):
    """In one go: a reader sees the old file or the new one."""
    path.with_name(".new").write_bytes(contents)
    os.replace(path.with_name(".new"), path)


def _broken_run(workdir, images, victim, workers):
    """A run to its end under which `victim` is cut off; returns what it said."""
    process = _start(workdir, images, workers)
    exact_resume.wait_until(process, lambda: max(exact_resume.saved_steps(workdir), default=0) >= _BREAK_AT)
    contents = victim.read_bytes()
    _replace(victim, contents[:len(contents) // 2])
    if workers > 1:
        return _finish(process)
    found = workdir / "found_broken_0.jsonl"
    exact_resume.wait_until(process, lambda: found.exists() and found.read_bytes().endswith(b"\n"))
    process.send_signal(signal.SIGKILL)
    said = _finish(process, -signal.SIGKILL)
    print(f"   killed after checkpoint {exact_resume.saved_steps(workdir)[-1]}")
    victim.unlink()
    return said + _finish(_start(workdir, images, workers))


def _known_run(workdir, finished, images, workers):
    """The run whose record lists the file: from the checkpoint of `finished` before the step that met it on."""
    shutil.copytree(finished, workdir)
    row, = run_record.read_record(run_record.list_checkpoints(workdir / "checkpoints")[-1]).resolved.found_broken
    known = row["position"] // BATCH  # later than what was read ahead while the file was sound
    for path in run_record.list_checkpoints(workdir / "checkpoints"):
        record = run_record.read_record(path)
        if record.step > known:
            shutil.rmtree(path)
        elif record.step == known:
            listed = dataclasses.replace(record.resolved, found_broken=(row,))
            run_record.write_record(path, dataclasses.replace(record, resolved=listed))
    shutil.rmtree(workdir / "best")
    for path in [*workdir.glob("found_broken_*"), workdir / "broken_images.txt"]:
        path.unlink(missing_ok=True)
    _finish(_start(workdir, images, workers))
    return row, known


def check(folder, workers):
    """One run and what it should be; returns the list of differences."""
    images, victim = folder / "images", folder / "images/b/7.jpg"
    make_images(images)
    contents, began = victim.read_bytes(), time.monotonic()
    said = _broken_run(folder / "run", images, victim, workers)
    if said.count("b/7.jpg: the file is cut off") != 1:
        raise RuntimeError(f"expected one line that names the file, found {said}")
    if said.count("workers.sh: started") > 1:
        raise RuntimeError(f"expected workers that go on, found that they were started again: {said}")
    _replace(victim, contents)
    row, known = _known_run(folder / "known", folder / "run", images, workers)
    print(f"   met at position {row['position']}, step {row['position'] // BATCH}; compared from step {known} on; "
          f"{time.monotonic() - began:.0f} s")
    return exact_resume.differences(folder / "run", folder / "known")


def main():
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, workers in enumerate((2, 1)):
            print("two workers" if workers > 1 else "one process, killed", flush=True)
            found += check(pathlib.Path(folder) / str(number), workers)
    print("\n".join(found) if found else "identical: checkpoints, best, run.json and metrics.jsonl of both")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
