"""What a run is: frozen dataclasses, each field declared once. No TensorFlow here.

A field carries its type, default, range or choices, its help, and which of two kinds it is:

* `defines the result`: another value is another run. A resume must have the same one, or say so
  (`--accept_config_change`).
* `how`: it changes speed, place or cadence, never what is computed. A resume may change it.

`cct_tf.settings.flags` makes one absl flag per field, of the field's name. `None` means "the variant's own", "the data
set's own" or "off", as the help says.
"""

import dataclasses
import typing

from cct_tf import sizes
from cct_tf.errors import UserError
from cct_tf.settings import averages, consistency, measure
from cct_tf.settings.fields import Field, option

PLACES = ("data_dir", "image_root", "class_names")  # where the data of a run is on this machine


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data set: where the images come from and how they are split."""

    dataset: str = option("digits", "digits (scikit-learn's), folder, table, npz, or the name of a TFDS "
                          "image-classification set")
    data_dir: str | None = option(None, "folder of the TFDS sets, root of the image folder, the table, or the .npz "
                                  "file", how=True, path=True, remote=True)
    image_root: str | None = option(None, "folder that the paths of a table are relative to; default: the table's own",
                                    how=True, path=True, remote=True)
    columns: str | None = option(None, "columns of a table that have other names, such as "
                                 "path:filename,label:diagnosis; nothing behind the colon leaves one unread; with "
                                  "--task=multilabel labels:PATTERN names columns of 0 and 1, one for each class")
    class_names: str | None = option(None, "names of a table's classes in their order, one a line or as JSON; default: "
                                     "its labels, sorted", how=True, path=True, remote=True)
    task: str = option("single", "single: an image has one label; multilabel: any number of them, by binary "
                       "cross-entropy of each class (tables and npz sets)", choices=tuple(measure.TASKS))
    train_split: str = option("train", "TFDS split, split of a table, or folder to train on")
    validation_fraction: float = option(0.0, "share of the training images held out for validation; stratified by "
                                        "class where the set is indexed", minimum=0.0, below=1.0)
    fold: str | None = option(None, "2/5: the second of five parts of the training images is the validation split; "
                              "stratified by class, and the images of a table's group in one part")
    test_split: str = option("test", "TFDS split, split of a table, or folder to test on; the set's own "
                             "validation split where it has no test split")
    split_seed: int = option(0, "seed of the validation split or the folds; not the run's seed, so that runs stay "
                             "comparable", minimum=0, maximum=2**63 - 1)
    channels: int = option(3, "channels of the images, through the network too: 3, colours; 1, grey (Pillow's L); "
                           "another number, as they are stored, in npz, TIFF or with alpha", minimum=1, maximum=1024)
    bits: int = option(8, "bits a channel: 8, or 16, which keeps those of 16-bit images (npz of uint16, PNG, TIFF)",
                       minimum=8, maximum=16)
    on_bad_image: str = option("stop", "what a broken image does: end the run; or be left out when the run begins, "
                               "and later replaced by the next image (in evaluation masked), and counted",
                               choices=("stop", "skip"))
    in_memory_gib: float = option(8.0, "data sets up to this size (GiB) are held in memory, larger ones are read "
                                  "from disk, TFDS sets of TFRecord files as a stream", minimum=0.0)
    pipeline_gib: float = option(2.0, "memory (GiB) that all stages of the input pipeline share for images in work",
                                 above=0.0, how=True)
    decode: str = option("exact", "JPEGs for a random resized crop: exact, as Pillow decodes them; or fast, in "
                         "training alone, at 1/2, 1/4 or 1/8 of their size where the crop stays as large as the "
                         "network's input",
                         choices=("exact", "fast"))
    resize: str = option("exact", "random resized crops of photographs: exact, as Pillow resizes them; or fast, in "
                         "training alone, by SIMD instructions in a third of the time, where some pixels differ by a "
                         "level (needs cykooz-resizer)", choices=("exact", "fast"))
    shuffle_window: int = option(8192, "records shuffled at a time when a data set is streamed", minimum=1)
    sampler: str = option("none", "which images an epoch trains on: none, each once; balanced, as many draws with "
                          "replacement, each class equally often; sqrt, by the square root of its images (sets whose "
                          "labels are known beforehand)", choices=("none", "balanced", "sqrt"))

    @property
    def holds_out(self):
        """Whether the validation split is taken from the training images."""
        return bool(self.validation_fraction or self.fold)


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Image preparation and augmentation."""

    image_size: int | tuple[int, int] | None = option(None, "side of the network's input in pixels, or H,W, its height "
                                                      "and width; default: the model's own", minimum=8, pair=True)
    crop_padding: int = option(0, "random crop after padding with this many pixels of zeros on each side; 0 = off",
                               minimum=0)
    random_resized_crop: tuple[float, ...] | None = option(
        None, "MIN,MAX share of the area of a random resized crop, such as 0.8,1; empty = off",
        above=0.0, maximum=1.0, length=(2,))
    crop_ratio: tuple[float, ...] = option((0.75, 1.3333333333333333), "MIN,MAX aspect ratio (width / height) of the "
                                           "random resized crop", above=0.0, length=(2,))
    flip: str = option("none", "horizontal flip: random, half of the draws; alternating, every second epoch of an "
                       "image, the first at random (arXiv:2404.00498); or none",
                       choices=("random", "alternating", "none"))
    vertical_flip: bool = option(False, "vertical flip of half of the draws")
    color_jitter: tuple[float, ...] | None = option(
        None, "torchvision's colour jitter in random order: one number for brightness, contrast and saturation, or "
        "three, or four with the hue (at most 0.5); empty = off", minimum=0.0, length=(1, 3, 4))
    auto_augment: str = option("none", "policy of augmentation: cifar10 (the authors' reading), cifar10_torchvision, "
                               "imagenet, svhn, trivial, or RandAugment such as rand-m9-mstd0.5-inc1; or none")
    auto_augment_off_epoch: int = option(0, "images of this epoch (from 0) and later ones are not augmented by the "
                                         "policy; 0 = never off", minimum=0)
    augment: str | None = option(None, "stages of your own, such as ./mine.py:Stage, with commas between them: they "
                                 "come before mixing, or last on the device")
    repeated_augmentation: int = option(1, "draws of each image in a batch (arXiv:1902.05509); 1 = off", minimum=1)
    mixup_alpha: float = option(0.0, "mixup with a share from Beta(alpha, alpha) (arXiv:1710.09412); 0 = off",
                                minimum=0.0)
    cutmix_alpha: float = option(0.0, "cutmix with a share from Beta(alpha, alpha) (arXiv:1905.04899); 0 = off",
                                 minimum=0.0)
    mix_probability: float = option(1.0, "share of the batches that are mixed", minimum=0.0, maximum=1.0)
    mix_switch_probability: float = option(0.5, "share of cutmix among the mixed batches, where both are on",
                                           minimum=0.0, maximum=1.0)
    mix_off_epoch: int = option(0, "batches that begin in this epoch (from 0) or later are not mixed; 0 = never off",
                                minimum=0)
    erase_probability: float = option(0.0, "share of the images in which a box is erased (arXiv:1708.04896); 0 = off",
                                      minimum=0.0, maximum=1.0)
    erase_mode: str = option("pixel", "what is put into the box: the mean, or normal noise of each channel or pixel",
                             choices=("constant", "channel", "pixel"))
    fit: str = option("crop", "how whole images come to the network's size, in evaluation and in training without a "
                      "random resized crop: crop, resized to cover it and its centre cut out; pad, all of the image, "
                      "with the mean beside it; stretch, each side to its own length",
                      choices=("crop", "pad", "stretch"))
    crop_pct: float = option(1.0, "evaluation: the shorter side is resized to image_size / crop_pct before the centre "
                             "crop", above=0.0, maximum=1.0)
    mean: tuple[float, ...] | None = option(None, "mean of the pixels in [0, 1], one value or one a channel; "
                                            "default: the data set's own, or computed")
    std: tuple[float, ...] | None = option(None, "standard deviation of the pixels in [0, 1], one value or one a "
                                           "channel; default: the data set's own, or computed", above=0.0)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Network."""

    model: str = option("cct_2_3x2_32", "variant; `python -m cct_tf.models` lists them; or a network of your own, such "
                        "as ./mine.py:build")
    positional_embedding: str | None = option(None, "position embedding; default: the model's own",
                                              choices=("learnable", "sine", "none"))
    norm_order: str | None = option(None, "LayerNorm before each residual branch (pre) or as the authors wrote it; "
                                    "default: the model's own", choices=("authors", "pre"))
    qk_norm: bool = option(False, "LayerNorm of the queries and keys of each head before their product "
                           "(arXiv:2302.05442)")
    zero_init_outputs: bool = option(False, "the last layer of each residual branch starts at zero, so that at first "
                                     "a branch adds nothing")
    dropout_rate: float | None = option(None, "dropout; default: the model's own", minimum=0.0, below=1.0)
    attention_dropout_rate: float | None = option(None, "dropout of attention weights; default: the model's own",
                                                  minimum=0.0, below=1.0)
    drop_path_rate: float | None = option(None, "stochastic depth of the last block; default: the model's own",
                                          minimum=0.0, below=1.0)
    init_from: str | None = option(None, "weights to start from: a work folder (its best), a checkpoint folder, a "
                                   ".keras, .pth or .safetensors file; positions are resized, a head for other classes "
                                   "is new", path=True, remote=True)
    init_weights: str = option("auto", "which: raw, ema (their moving average), average (another one), or auto: "
                               "an average where a run kept one, and of a .pth file the only ones",
                               choices=("auto", "raw", "ema", "average"))
    freeze: str | None = option(None, "weights that do not learn: tokenizer, encoder (class token, positions, blocks, "
                                "final norm), all_but_head, or patterns of their paths such as block_[0-3]; several "
                                "with commas")
    precision: str = option("float32", "what the network computes in, in training and evaluation; weights, optimizer, "
                            "norms, softmax, logits and loss stay float32. float16 scales the loss; auto: bfloat16 on "
                            "CPUs that were measured to be faster so, and it stays as the run began",
                            choices=("auto", "float32", "bfloat16", "float16"))


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimisation."""

    batch_size: int = option(128, "images per update, over all replicas and micro-batches", minimum=1,
                             maximum=1_000_000)
    epochs: float = option(30.0, "epochs of the schedule, without the cool-down", above=0.0, maximum=1e6)
    train_steps: int | None = option(None, "length of the whole run in steps, cool-down included; wins over epochs",
                                     minimum=1, maximum=10**10)
    learning_rate: float = option(5e-4, "peak learning rate", minimum=0.0)
    min_learning_rate: float = option(0.0, "where the schedule ends, and the rate of the cool-down", minimum=0.0)
    warmup_learning_rate: float = option(0.0, "where the linear warm-up starts", minimum=0.0)
    learning_rate_scaling: str = option("none", "linear: the three learning rates above are per 256 images and "
                                        "multiplied by batch_size / 256 (arXiv:1706.02677)",
                                        choices=("none", "linear"))
    layer_decay: float = option(1.0, "learning rate of a block relative to the one after it, for fine-tuning "
                                "(arXiv:2106.08254); weight decay follows; 1 = off", above=0.0, maximum=1.0)
    warmup_epochs: float = option(0.0, "length of the warm-up, which covers the start of the schedule", minimum=0.0)
    warmup_shape: str = option("linear", "linear, or reciprocal: learning_rate / (warmup_epochs - epoch), the authors' "
                               "in their AutoAugment runs", choices=("linear", "reciprocal"))
    warmup_prefix: bool = option(False, "cosine and linear begin where the warm-up ends instead of counting from "
                                "step 0")
    cooldown_epochs: float = option(0.0, "epochs at min_learning_rate after the schedule", minimum=0.0)
    schedule: str = option("cosine", "learning-rate schedule: cosine or linear to min_learning_rate; wsd, constant "
                           "until it decays at the end (arXiv:2404.06395); or constant",
                           choices=("cosine", "linear", "wsd", "constant"))
    decay_share: float = option(0.2, "share of the epochs in which wsd decays", above=0.0, maximum=1.0)
    decay_shape: str = option("linear", "how wsd decays: linear, or 1-sqrt, by 1 minus the root of the share that is "
                              "done (arXiv:2405.18392)", choices=("linear", "1-sqrt"))
    schedule_unit: str = option("step", "how often the learning rate changes", choices=("step", "epoch"))
    optimizer: str = option("adamw", "optimizer; muon takes AdamW for what is no matrix; schedule_free_adamw "
                            "evaluates an average of its own and wants --schedule=constant (arXiv:2405.15682)",
                            choices=("adamw", "sgd", "lion", "lamb", "muon", averages.SCHEDULE_FREE))
    muon_convolutions: bool = option(False, "muon takes kernels of convolutions too, as matrices [height x width x "
                                     "channels, filters]; off: AdamW takes them")
    muon_split_qkv: bool = option(False, "muon takes the kernels of queries, keys and values each by itself; off: as "
                                  "one matrix")
    momentum: float = option(0.9, "momentum of sgd (Nesterov's) and muon", minimum=0.0, below=1.0)
    beta_1: float = option(0.9, "decay of the first moment of adamw, lion, lamb and muon's adamw; of "
                           "schedule_free_adamw the share of the average in the weights", minimum=0.0, below=1.0)
    beta_2: float = option(0.999, "decay of the second moment of adamw, schedule_free_adamw, lamb and muon's adamw, "
                           "and of lion's momentum", minimum=0.0, below=1.0)
    weight_decay: float = option(0.03, "decoupled weight decay, times the learning rate per update", minimum=0.0)
    weight_decay_mask: str = option("matrices", "which variables decay: those of two or more dimensions, or all",
                                    choices=("matrices", "all"))
    cautious_weight_decay: bool = option(False, "decay only values that the update does not move away from 0 "
                                         "(arXiv:2510.12402)")
    corrected_weight_decay: bool = option(False, "kernels before the head decay by the square of the learning rate "
                                          "over its peak, not by the learning rate (arXiv:2506.02285)")
    adam_epsilon: float = option(1e-8, "epsilon of adamw, schedule_free_adamw, lamb, and muon's adamw", above=0.0)
    loss: str = option("cross_entropy", "cross_entropy of soft targets, or bce: binary cross-entropy of each class, "
                       "averaged over the classes (arXiv:2110.00476), as always with --task=multilabel",
                       choices=("cross_entropy", "bce"))
    class_weights: str = option("none", "what an example counts by its class: balanced, n / (classes x images of its "
                                "class); or cat=2,dog=1, or FILE.json such as {\"cat\": 2}, where others count 1; with "
                                "--task=multilabel the terms of the classes count so")
    label_smoothing: float = option(0.0, "share of the label spread over all classes; with --task=multilabel over yes "
                                    "and no of each", minimum=0.0, below=1.0)
    clip_norm: float | None = option(None, "largest global norm of the gradient; default: no clipping", above=0.0)
    ema_decay: float = option(0.0, "decay per update of an exponential moving average of the weights, evaluated beside "
                              "them; 0 = off", minimum=0.0, below=1.0)
    ema_warmup: bool = option(True, "the decay of update t is at most (1 + t) / (10 + t)")
    average_last: float = option(0.0, "epochs at the end of the run over which the weights are averaged, all updates "
                                 "alike; the average is evaluated beside them; 0 = off", minimum=0.0)
    max_skipped_updates: int = option(20, "non-finite updates in a row after which on_divergence acts", minimum=1,
                                      how=True)
    # `how`: it changes nothing of a run that does not diverge, and of one that does there is no result to differ from;
    # so a run that stopped can be taken up again by its own command.
    on_divergence: str = option("stop", "then the run stops, or goes back (rollback) to the newest checkpoint before "
                                "them and on at half the learning rate, at most 3 times", choices=("stop", "rollback"),
                                how=True)

    @property
    def average(self):
        """The kind of average of the weights that the run keeps, see `averages.kind`."""
        return averages.kind(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Distillation: what the network learns from trained ones."""

    # `how`: a place. The weights themselves are recorded by their checksum, and others refused.
    teacher: str | None = option(None, "networks to learn from: work folders (their best), checkpoint folders, .keras, "
                                 ".pth or .safetensors files, SavedModels of cct_tf.export; several with commas; of "
                                 "the same classes", how=True)
    teacher_mean: tuple[float, ...] | None = option(None, "mean of the pixels in [0, 1] that teachers from files were "
                                                    "trained on, which don't hold it; one value or one a channel")
    teacher_std: tuple[float, ...] | None = option(None, "their standard deviation, likewise", above=0.0)
    distill: str = option("soft", "soft: temperature^2 times the divergence from the teachers' softened probabilities "
                          "(arXiv:1503.02531); hard: cross-entropy of the class they place first (arXiv:2012.12877)",
                          choices=("soft", "hard"))
    distill_weight: float = option(1.0, "what this is multiplied by, before it is added to the loss of the labels",
                                   above=0.0)
    distill_temperature: float = option(1.0, "temperature of soft", above=0.0)
    distill_standardize: bool = option(False, "logits of both are brought to mean 0 and deviation 1 before, of soft "
                                       "(arXiv:2403.01427)")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The run: where, how long, how often, on what."""

    workdir: str | None = option(None, "folder of the run: checkpoints, metrics, event files (required)", how=True,
                                 path=True)
    seed: int = option(0, "seed of the run: initial weights, order, augmentation, dropout", minimum=0,
                       maximum=2**63 - 1)
    early_stop_evaluations: int = option(0, "the run ends after this many evaluations in a row without a new best; "
                                         "0 = never", minimum=0)
    best_metric: str | None = option(None, "metric of the evaluation that chooses the best checkpoint: top1, "
                                     "balanced_accuracy, loss or macro_f1; with --task=multilabel map, loss or f1 (at "
                                     "0.5, mean over the classes); default: top1 or map",
                                     choices=tuple(dict.fromkeys(sum(measure.TASKS.values(), ()))))
    test_at_end: bool = option(True, "test the best weights on the test split when the run ends, where a validation "
                               "split chose them; off: leave the test split for cct_tf.evaluate", how=True)
    eval_batch_size: int = option(256, "images per evaluation batch, over all replicas", minimum=1, how=True)
    accumulate_steps: int | None = option(None, "micro-batches per update on each replica; default: such that they fit "
                                          "into the cache of a CPU, 1 on GPUs", minimum=1, how=True)
    log_every_steps: int = option(50, "steps between two log records", minimum=1, how=True)
    eval_every_epochs: float = option(1.0, "epochs between two evaluations", above=0.0, how=True)
    eval_every_steps: int | None = option(None, "steps between two evaluations; wins over eval_every_epochs",
                                          minimum=1, how=True)
    checkpoint_every_steps: int = option(500, "steps between two checkpoints (each evaluation saves one too)",
                                         minimum=1, how=True)
    async_save: bool = option(False, "write checkpoints in a thread, from a copy in the host's memory, while training "
                              "goes on; for GPUs: on a CPU it is slower", how=True)
    backup_dir: str | None = option(None, "folder elsewhere, such as gs://bucket/run, that gets a copy of the work "
                                    "folder with each checkpoint; an empty work folder goes on from it", how=True)
    keep_checkpoints: int = option(3, "number of latest checkpoints to keep, beside the best", minimum=1, how=True)
    device: str = option("auto", "what to compute on: auto, all GPUs or else the CPU; cpu; gpu, all of them; or some "
                         "by their numbers, such as gpu:2,3", how=True)
    num_replicas: int | None = option(None, "devices to train on; default: all GPUs, or one CPU. On a CPU machine "
                                      "more than one makes logical devices; with several workers, of each", minimum=1,
                                     how=True)
    strategy: str = option("auto", "single: one device; mirrored: the devices of this machine; multi_worker: of all "
                           "machines in TF_CONFIG; auto: by TF_CONFIG and the devices there are",
                           choices=("auto", "single", "mirrored", "multi_worker"), how=True)
    collectives: str = option("auto", "how gradients are summed over workers: ring (gRPC), nccl (GPUs), or auto: what "
                              "TensorFlow chooses", choices=("auto", "ring", "nccl"), how=True)
    collective_timeout: float = option(1800.0, "seconds between two meetings of the workers (about one a second) that "
                                       "end the run; compiling, an evaluation and a save fall between two", above=0.0,
                                       how=True)
    startup_timeout: float = option(300.0, "seconds a worker waits for the others to start", above=0.0,
                                    transient=True)
    jit: str = option("auto", "what of the step XLA compiles: nothing, the encoder (all but the tokenizer), or all; on "
                      "is encoder on CPUs, all on GPUs; auto decides by device and length of the run",
                      choices=("auto", "on", "off", "encoder", "all"), how=True)
    fast_forms: bool = option(True, "have XLA compile forms of layers that were written for it; off: the plain layers",
                              how=True)
    recompute: bool = option(False, "compute each block's activations again in the backward pass instead of keeping "
                             "them: less memory, about a third more time", how=True)
    fused_update: bool = option(True, "adamw, sgd and muon's adamw update each variable by one kernel; off: by the "
                                "dozens of operations of Keras' formulas", how=True)
    deterministic: bool = option(False, "use deterministic kernels only (GPU), at some cost in speed", how=True)
    compile_cache: str = option("auto", "folder (with a slash, as ./cache) where programs compiled by XLA are kept for "
                                "the next start; auto: cct_tf/xla in the user's cache folder; or off", transient=True,
                                path=True)
    profile_steps: str | None = option(None, "A:B, trace the steps A to B, both included, the first being 1, for the "
                                       "profiler of TensorBoard", transient=True)
    accept_config_change: bool = option(False, "resume although fields that define the result, or the files of an "
                                        "image folder, have changed",
                                        transient=True)
    restart_if_unreadable: bool = option(False, "where every checkpoint of the work folder is damaged, set them and "
                                         "the results aside and start anew", transient=True)
    dry_run: bool = option(False, "show the plan, do one step on all devices, say how much memory it took, leave the "
                           "work folder alone",
                           transient=True)
    debug: bool = option(False, "show the traceback of an error", transient=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run. Each consumer gets its own part."""

    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    distill: DistillConfig = DistillConfig()
    run: RunConfig = RunConfig()

    def value(self, name):
        """The value of the field called `name`, in whichever part it is."""
        return getattr(getattr(self, FIELDS[name].part), name)

    @property
    def measure(self):
        """The `measure.Measure` that chooses the best checkpoint."""
        return measure.measure_of({"task": self.data.task, "best_metric": self.run.best_metric})

    def as_dict(self, transient=False):
        """Flat `{field name: value}` in the order of declaration; transient fields only if asked for."""
        return {name: self.value(name) for name, field in FIELDS.items() if transient or not field.transient}


def _fields():
    table = {}
    for part in dataclasses.fields(Config):
        part_class = part.type
        hints = typing.get_type_hints(part_class)
        for field in dataclasses.fields(part_class):
            members = [t for t in typing.get_args(hints[field.name]) if t is not type(None)]
            optional = type(None) in typing.get_args(hints[field.name])
            kind = (members[0] if optional else hints[field.name])
            kind = typing.get_origin(kind) or kind
            table[field.name] = Field(field.name, part.name, part_class.__doc__.strip(), kind, optional,
                                      field.default, **field.metadata)
    return table


FIELDS = _fields()


def from_dict(values):
    """Config from a flat `{field name: value}`, as `Config.as_dict` gives it; missing fields take their defaults.

    Raises:
        UserError: a name that is no field, or a value out of range.
    """
    parts = {part.name: {} for part in dataclasses.fields(Config)}
    for name, value in values.items():
        if name not in FIELDS:
            raise UserError(f"{name}: no such config field")
        field = FIELDS[name]
        if isinstance(value, list):
            value = tuple(value)
        if field.pair:
            value = sizes.as_size(value)
        if field.problem(value):
            raise UserError(f"--{name}: expected {field.expectation()}, found {value!r}")
        parts[field.part][name] = value
    config = Config(**{part.name: part.type(**parts[part.name]) for part in dataclasses.fields(Config)})
    consistency.check(config)
    return config


def differences(old, new):
    """Fields that differ between two flat dicts of a run.

    Args:
        old, new: as `Config.as_dict` gives them. A field that one lacks counts as its default, so that a field
            added in a later version does not make old runs differ.

    Returns:
        (defining, how): two lists of (name, old value, new value).
    """
    defining, how = [], []
    for name, field in FIELDS.items():
        if field.transient:
            continue
        before, after = old.get(name, field.default), new.get(name, field.default)
        before = tuple(before) if isinstance(before, list) else before
        after = tuple(after) if isinstance(after, list) else after
        if before != after:
            (how if field.how else defining).append((name, before, after))
    return defining, how
