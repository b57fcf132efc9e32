"""From a checkpoint to a checked export: written under a hidden name, compared on real images, then renamed."""

import contextlib
import dataclasses
import os
import pathlib
import shutil
import signal

import tensorflow as tf

import cct_tf
from cct_tf.assembly import inputs, keras_file, networks
from cct_tf.data.source import rules_of
from cct_tf.errors import Interrupted, OutsideFault, UserError, storage_fault
from cct_tf.evaluation.multilabel import HALF
from cct_tf.evaluation.prediction import Network
from cct_tf.export import check, reading, samples
from cct_tf.images import decode, pixel_type
from cct_tf.runs import export_metadata as metadata_lib


@dataclasses.dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
        kind: `formats.Format`.
        output: pathlib.Path.
        quantize: "none" or "int8".
        calibration_images, check_images: ints, the most images to calibrate with and to compare on.
        paths: list of image files to use instead of the run's data set; empty for the data set.
        part: `tree.Part` of the data set that holds them, see `recorded_data.part_of`; None: all of it is opened.
    """

    kind: object
    output: pathlib.Path
    quantize: str
    calibration_images: int
    check_images: int
    paths: list
    part: object = None


@dataclasses.dataclass(frozen=True)
class Written:
    """A finished export.

    Attributes:
        loaded: `networks.Loaded`, the checkpoint.
        comparison: `check.Comparison`.
        sample: `samples.Sample` that was compared.
        num_bytes: int, size of the file, or of all files in the folder.
    """

    loaded: networks.Loaded
    comparison: check.Comparison
    sample: samples.Sample
    num_bytes: int


def export(config, record, choose, weights, request, console):
    """Export a checkpoint.

    Args:
        config: `config.Config` of the run.
        record: `run_record.Record` of the run.
        choose, weights: see `networks.load_model`.
        request: Request.
        console: `console.Console`.

    Returns:
        Written.

    Raises:
        UserError: the checkpoint or the images can't be read, or the export differs too much from the network; nothing
            of it is left then.
    """
    # Whatever the run's precision: converters don't support bfloat16, and the comparison allows 1e-5.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, precision="float32"))
    rules = rules_of(record.resolved)
    bit_depth = rules.bit_depth
    calibration, sample = _samples(config, record, request, bit_depth, console)
    with console.phase("loading the weights"), tf.device("CPU:0"):
        loaded = networks.load_model(config, record.resolved.num_classes, choose, weights)
    transform = inputs.make_transform(config, inputs.recorded_images(record.resolved), loaded.model)
    if request.kind.name == "saved_model":  # which prepares images itself, so both are compared on the same pixels
        transform = dataclasses.replace(transform, resampler="matrix")
    network = Network(loaded.model, transform, "CPU", check.BATCH, bit_depth=bit_depth)
    metadata = _metadata(config, loaded, request.quantize, rules)
    with _hidden(request.output) as path:
        with console.phase(f"converting to {request.kind.name}"):
            ranges = None if calibration is None else samples.prepared(calibration, network)
            _write(request.kind, loaded.model, metadata, path, ranges)
        with console.phase(f"comparing on {sample.count} {sample.name}"):
            comparison = _compared(network, request, path, sample)
        check.judge(comparison, request.kind, request.quantize, sample)
        num_bytes = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
        _rename(path, request.output)
    return Written(loaded, comparison, sample, num_bytes)


def _samples(config, record, request, bit_depth, console):
    """Two Samples: to calibrate with (None unless the export is quantised) and to compare on."""
    quantized, kind = request.quantize != "none", pixel_type.of_config(config.data)
    if request.paths:
        counts = request.calibration_images if quantized else None, request.check_images
        return tuple(count and samples.of_files(request.paths, count, (bit_depth, kind), console) for count in counts)
    source = samples.of_run(config, record, request.part, console)
    split = source.splits["test" if "test" in source.splits else source.evaluated_split]
    calibration = samples.of_split(source.splits["train"], request.calibration_images) if quantized else None
    return calibration, samples.of_split(split, request.check_images)


def _metadata(config, loaded, quantize, rules):
    resolved, thresholds = loaded.record.resolved, None
    if config.data.task == "multilabel":
        thresholds = list(loaded.thresholds or (HALF,) * resolved.num_classes)
    return metadata_lib.Metadata(
        classes=list(resolved.classes), image_size=loaded.model.image_size, crop_pct=config.augment.crop_pct,
        fit=config.augment.fit, channels=config.data.channels, bits=config.data.bits,
        mean=list(resolved.mean), std=list(resolved.std), model=config.model.model,
        checkpoint=loaded.path.name, step=loaded.record.step, weights=loaded.weights, quantize=quantize,
        cct_tf=cct_tf.__version__, bit_depth=rules.bit_depth, resampler=rules.resampler, task=config.data.task,
        thresholds=thresholds)


def _write(kind, model, metadata, path, calibration):
    if kind.name == "keras":
        keras_file.save(model, path)
        metadata_lib.add_to_zip(metadata, path)
    elif kind.name == "saved_model":
        from cct_tf.export import saved_model
        saved_model.write(model, metadata, path)
    elif kind.name == "litert":
        from cct_tf.export import litert_file
        litert_file.write(model, metadata, path, calibration)
    else:
        from cct_tf.export import onnx_file
        onnx_file.write(model, metadata, path)


def _compared(network, request, path, sample):
    flag = f"--format={request.kind.name}"
    try:
        metadata = metadata_lib.read(flag, str(path), request.kind.name)
        with reading.opened(flag, path, request.kind, metadata, isolated=True) as found, tf.device("CPU:0"):
            return check.compare(network, found, sample)
    except decode.BrokenImage:
        raise  # of the images, not of the export
    except (UserError, check.Broken) as error:
        raise UserError(f"{flag}: expected an export that can be run, found one that can't ({error}); nothing was "
                        "written") from None


@contextlib.contextmanager
def _hidden(output):
    """Context manager of a hidden path to write to: in `output` if that is a folder, else beside it, with its suffix.

    On leaving, also after SIGTERM or SIGHUP, whatever is still at the hidden path is removed.

    Raises:
        OutsideFault: the storage is full, or the folder gone.
    """
    folder = output if output.is_dir() else output.parent
    path = folder / f".{os.getpid()}-{output.name}"
    folder.mkdir(parents=True, exist_ok=True)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in handlers.items():
        if handler != signal.SIG_IGN:  # as under nohup
            signal.signal(number, _stop)
    try:
        yield path
    except Exception as error:
        fault = storage_fault(error) or (None if folder.is_dir() else f"{folder}: the folder is gone")
        if fault is None:
            raise
        raise OutsideFault(f"{fault}; nothing was written") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.unlink()


def _stop(number, frame):
    raise Interrupted(number, f"{signal.Signals(number).name}: nothing was written")


def _rename(path, output):
    """Move an export to `output`. A folder there is filled, not replaced: it may be a link or a file system's root."""
    if not output.is_dir():
        os.replace(path, output)
        return
    if any(not each.name.startswith(".") for each in output.iterdir()):
        raise UserError(f"--output: expected a folder that stays empty, found files in {str(output)!r} since; nothing "
                        "was written")
    # saved_model.pb last: with it the folder counts as a SavedModel.
    for each in sorted(path.iterdir(), key=lambda each: each.name == "saved_model.pb"):
        os.replace(each, output / each.name)
