"""Compare the input pipeline with timm's: both in turn in one run, pair by pair.

    python3 -m venv DIR && DIR/bin/pip install timm==1.0.31 torch==2.13.0 torchvision 'Pillow<13'
    python tests/compare_timm.py --timm_python=DIR/bin/python

Both read the same JPEGs from disk, made on the spot, at 224 pixels, shuffled, with the same settings of augmentation:
`imagenet` is the recipe of configs/imagenet_paper_224.cfg (resized crop, flip, RandAugment, mixup and cutmix, erasing),
`crop` its resized crop and flip alone. timm has `create_loader` with some processes, as in its own training script;
cct_tf one process. Each is a process tree of its own that is stopped while another is measured, and has some seconds
first that don't count. Batches count when they are what the network takes, normalised and erased; with --to=host when
they are ready for the device as uint8.

Processor time is that of all processes of a side, user and system: it says more than images/s on a busy machine.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

REPO = pathlib.Path(__file__).resolve().parents[1]
PACKAGES = "timm==1.0.31 torch==2.13.0 torchvision 'Pillow<13'"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROWS = {"imagenet": [f"--flagfile={REPO}/configs/imagenet_paper_224.cfg", "--test_split=test"],
        "crop": ["--random_resized_crop=0.08,1", "--flip=random", "--model=cct_14_7x2_224", "--mean=0.485,0.456,0.406",
                 "--std=0.229,0.224,0.225"]}
WAYS = {"exact": [], "resize": ["--resize=fast"], "decode": ["--decode=fast"],
        "both": ["--decode=fast", "--resize=fast"]}
_LARGE = 2**20  # pixels of a source from which batches are small, or a pair would take minutes
_FEWEST = 8  # batches of a measurement
_DRAIN_SECONDS, _DRAIN_BATCHES = 1.0, 6  # what was prepared ahead, and what processes had begun when they were stopped


# A side, in a process of its own.

def of_cct_tf(task):
    """Function that waits for the next batch and returns how many images it has."""
    from cct_tf.machine import runtime
    runtime.start_tensorflow()
    import tensorflow as tf

    from cct_tf.assembly import inputs
    from cct_tf.augment.stages import on_device
    from cct_tf.data import pipeline
    from cct_tf.machine.console import Console
    from cct_tf.models import variants
    from cct_tf.settings import config, flags
    given = flags.parse([*ROWS[task["row"]], "--dataset=folder", f"--data_dir={task['folder']}", "--in_memory_gib=0",
                         f"--batch_size={task['batch_size']}", f"--image_size={task['side']}", *task["flags"]],
                        list(config.FIELDS.values()))
    settings = config.from_dict(given)
    images = inputs.open_images(settings, Console(quiet=True))
    transform = inputs.make_transform(settings, images, variants.resolve(settings.model.model, task["side"]))
    stages = inputs.training_stages(settings, images, transform)
    batches = iter(pipeline.train_batches(images.source.splits["train"], stages, inputs.make_sampling(settings), 0,
                                          10**9))
    finish = tf.function(functools.partial(on_device, stages=stages), autograph=False)

    def advance():
        batch = next(batches)
        return int((finish(batch) if task["to"] == "network" else batch["image"]).shape[0])

    return advance


def of_timm(task):
    """The same of timm's loader."""
    import torch
    from timm.data import FastCollateMixup, ImageDataset, create_loader
    dataset = ImageDataset(f"{task['folder']}/train")
    dataset.reader.samples *= 10**6 // len(dataset.reader.samples)  # no epoch ends meanwhile
    full = task["row"] == "imagenet"
    mix = FastCollateMixup(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch",
                           label_smoothing=0.1, num_classes=2)
    loader = create_loader(
        dataset, (3, task["side"], task["side"]), task["batch_size"], is_training=True, scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3), hflip=0.5, interpolation="random", color_jitter=None, mean=MEAN, std=STD,
        auto_augment="rand-m9-mstd0.5-inc1" if full else None, re_prob=0.25 if full else 0.0, re_mode="pixel",
        collate_fn=mix if full else None, num_workers=task["processes"], device=torch.device("cpu"))
    batches = iter(loader if task["to"] == "network" else loader.loader)
    return lambda: next(batches)[0].shape[0]


def processor_seconds():
    """Processor time of this process and those it has started, which are in its process group."""
    ticks, group = 0, str(os.getpgrp())
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):  # ended meanwhile
            fields = pathlib.Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:13])) if fields[2] == group else 0
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(advance, seconds):
    """(images/s, processor seconds an image) over at least `seconds` and eight batches."""
    batches, began = 0, time.perf_counter()
    while batches < _DRAIN_BATCHES or time.perf_counter() - began < min(_DRAIN_SECONDS, seconds):
        advance()
        batches += 1
    images, batches, processors, began, taken = 0, 0, processor_seconds(), time.perf_counter(), 0.0
    while batches < _FEWEST or taken < seconds:
        images += advance()
        batches += 1
        taken = time.perf_counter() - began
    return images / taken, (processor_seconds() - processors) / images


def serve():
    """A task as JSON on stdin, then a line of seconds for each measurement, which is answered by a line of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print must not be taken for an answer
    task = json.loads(sys.stdin.readline())
    advance = {"timm": of_timm, "cct_tf": of_cct_tf}[task["side_of"]](task)
    advance()
    print("null", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(advance, json.loads(line))), file=answers, flush=True)
    os.killpg(0, signal.SIGKILL)  # with the processes of a loader, which may wait for each other


# All sides.

class Side:
    """One side; a context manager. It runs while it is measured, and is stopped else.

    Args:
        python: path of the interpreter.
        task: dict, see `serve`.
    """

    def __init__(self, python, task):
        self._python, self._task = python, task

    def __enter__(self):
        self._errors = tempfile.TemporaryFile("w+")
        environment = {"PYTHONPATH": os.environ.get("PYTHONPATH") or str(REPO), "TF_CPP_MIN_LOG_LEVEL": "3"}
        self._process = subprocess.Popen(
            [self._python, __file__, "--serve"], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._errors, start_new_session=True, env=os.environ | environment)
        try:
            self._ask(self._task)
            os.killpg(self._process.pid, signal.SIGSTOP)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                file.close()

    def measure(self, seconds):
        """As the function `measure`."""
        os.killpg(self._process.pid, signal.SIGCONT)
        found = self._ask(seconds)
        os.killpg(self._process.pid, signal.SIGSTOP)
        return found

    def _ask(self, question):
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        if not answer:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"the process of {self._task['side_of']} ended: {self._errors.read()[-2000:]}")
        return json.loads(answer)


def in_turn(sides, pairs, seconds):
    """dict name -> list of (images/s, processor seconds an image), of each round one; every second round backwards."""
    found = {name: [] for name in sides}
    for number in range(pairs):
        for name in list(sides)[::-1 if number % 2 else 1]:
            found[name].append(sides[name].measure(seconds))
    return found


def spread(values, digits):
    """Median and range in words."""
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def line(sources, row, found):
    """Lines of the table: each side of cct_tf beside timm's."""
    def processor_ms(side):
        return f"{1e3 * statistics.median([taken for _, taken in side]):.2f}"

    theirs = found["timm"]
    for name in (name for name in found if name != "timm"):
        ours = found[name]
        rates = [mine / other for (mine, _), (other, _) in zip(ours, theirs, strict=True)]
        times = [other / mine for (_, mine), (_, other) in zip(ours, theirs, strict=True)]
        cells = [sources, row, name, spread([rate for rate, _ in ours], 0), spread([rate for rate, _ in theirs], 0),
                 spread(rates, 2), processor_ms(ours), processor_ms(theirs), spread(times, 2)]
        yield f"| {' | '.join(cells)} |"


def versions(python):
    """What of timm an interpreter has, in words; ends the program if it lacks something."""
    code = "import PIL, timm, torch, torchvision as v; print(timm.__version__, torch.__version__, v.__version__, " \
        "PIL.__version__)"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    except OSError as error:
        done = subprocess.CompletedProcess([], 1, "", f"{error.strerror}")
    if done.returncode:
        reason = (done.stderr.strip() or "no answer").splitlines()[-1]
        print(f"error: --timm_python: expected a Python that has timm, found {python} ({reason}); make one by python3 "
              f"-m venv DIR && DIR/bin/pip install {PACKAGES}", file=sys.stderr)
        sys.exit(2)
    return "timm {}, torch {}, torchvision {}, Pillow {}".format(*done.stdout.split())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--timm_python", default=sys.executable, help="interpreter that has timm")
    parser.add_argument("--source_sizes", default="500x375,4000x3000")
    parser.add_argument("--rows", default="imagenet,crop", help="imagenet and crop")
    parser.add_argument("--ways", default="exact", help=f"of cct_tf, some of {','.join(WAYS)}")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a measurement, at least")
    parser.add_argument("--processes", type=int, default=2, help="of timm's loader")
    parser.add_argument("--batch_size", type=int, help="default: 64, and 16 of sources above a megapixel")
    parser.add_argument("--side", type=int, default=224, help="pixels of the network's input")
    parser.add_argument("--to", default="network", choices=("network", "host"))
    parser.add_argument("--flags", default="", help="further flags of cct_tf.train")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no stopped side stays behind
    theirs = versions(options.timm_python)
    from cct_tf.benchmark import machine, photographs
    ours = machine.describe()
    print(f"{ours['cpu']}, {ours['instruction_set']}, {ours['processors']} processors; tensorflow "
          f"{ours['versions']['tensorflow']}; {theirs}, {options.processes} processes\n\n| sources | recipe | way | "
          "cct_tf images/s | timm images/s | ratio | cct_tf ms of processor | timm | ratio |\n" + "|---" * 9 + "|")
    for text in options.source_sizes.split(","):
        size = photographs.parse_size(text)
        with photographs.folder(size) as folder:
            for row in options.rows.split(","):
                task = {"folder": str(folder), "row": row, "side": options.side, "to": options.to,
                        "processes": options.processes,
                        "batch_size": options.batch_size or (64 if size[0] * size[1] < _LARGE else 16)}
                compare(options, text, task)


def compare(options, sources, task):
    """Measure one row and print its lines."""
    more = shlex.split(options.flags)
    with contextlib.ExitStack() as stack:
        sides = {name: Side(sys.executable, task | {"side_of": "cct_tf", "flags": [*WAYS[name], *more]})
                 for name in options.ways.split(",")}
        sides["timm"] = Side(options.timm_python, task | {"side_of": "timm"})
        for side in sides.values():
            stack.enter_context(side)
        found = in_turn(sides, options.pairs, options.seconds)
    print("\n".join(line(sources, task["row"], found)), flush=True)


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["--serve"] else main()
