"""What a config became on a machine with its data: the part of `run.json` under `resolved`. No TensorFlow here.

A run writes all of it, weights converted without a data set only what the network itself tells. Records of every
version are read: `from_json` gives what a version did where it did not record it.
"""

import dataclasses

from cct_tf import sizes


@dataclasses.dataclass(frozen=True)
class Resolved:
    """Values that were worked out, not given. None: not recorded, or there is no such thing.

    Of the network:

    Attributes:
        image_size: int, side of its input in pixels, or (height, width), see `cct_tf.sizes`.
        classes: tuple of K names; empty for weights converted without a data set.
        num_classes: int K. None, given to the constructor: as many as `classes`.

    Of the data set (weights converted without one have none of it):

        num_examples: dict, split name -> images; empty without a data set.
        mean, std: tuples of floats, one a channel, of pixels in [0, 1].
        statistics_computed: bool, whether mean and std were computed from the training images, and stay.
        fingerprint, evaluated_fingerprint: text, of all images and of those that are evaluated, see `source.Source`.
        folds_fingerprint: text, of the set that --fold divides, see `source.Source`.
        fingerprints_before: tuple of text, of images that the run had before it went on with others.
        folder: dict of an image folder: "held", bool, whether its images are held decoded, and "fingerprints", dict by
            split of text, see `source.Source.split_fingerprint`. Whoever needs one split opens no file of the others.
        order: text, how images are shuffled, for people; see `source.Source`.
        left_out: tuple of dicts of the files of an image folder that --on_bad_image=skip left out when the run began,
            see `datasets.recorded_files`. None: not recorded, or none may be.
        found_broken: tuple of dicts of the images found broken since, see `assembly.found_broken`.
        data_rules: dict of the fields of `source.Rules`. None: recorded by version 0, see `source.rules_of`.
        own_code: dict of the CRC-32 of the files of --dataset, --model and --augment by what names them; or None.
        teachers: tuple of the CRC-32 of the weights of --teacher, hex digits; or None.

    Of the run (converted weights have none of it):

        total_steps: int.
        initial_weights: dict {"from": name, "checksum": text, "changes": list of text} of the weights that it started
            from; None where they were random.
        device: "CPU" or "GPU"; num_replicas, num_workers: int; threads: int, within an operation.
        precision: "float32", "bfloat16" or "float16", what the network computes in. None: as the config says, which
            was never "auto" then.
        jit: "off", "encoder" or "all", what XLA compiles; accumulate_steps: int, micro-batches of a replica.
        class_weights: tuple of K floats, where the file or flag --class_weights gives them.
        fused_update, fast_forms, recompute: bool, as the flags of these names.
    """

    image_size: int | tuple
    classes: tuple
    num_examples: dict
    num_classes: int | None = None
    mean: tuple | None = None
    std: tuple | None = None
    statistics_computed: bool = False
    fingerprint: str | None = None
    evaluated_fingerprint: str | None = None
    folds_fingerprint: str | None = None
    fingerprints_before: tuple = ()
    folder: dict | None = None
    left_out: tuple | None = None
    found_broken: tuple = ()
    order: str | None = None
    data_rules: dict | None = None
    own_code: dict | None = None
    teachers: tuple | None = None
    total_steps: int | None = None
    initial_weights: dict | None = None
    class_weights: tuple | None = None
    device: str | None = None
    num_replicas: int | None = None
    num_workers: int | None = None
    threads: int | None = None
    precision: str | None = None
    jit: str | None = None
    accumulate_steps: int | None = None
    fused_update: bool | None = None
    fast_forms: bool | None = None
    recompute: bool | None = None

    def __post_init__(self):
        if self.num_classes is None:
            object.__setattr__(self, "num_classes", len(self.classes))

    @classmethod
    def from_json(cls, found):
        """`Resolved` of what a run.json of any version holds; keys that this version does not know are ignored.

        Args:
            found: dict.

        Raises:
            KeyError: a key is missing that every version wrote.
        """
        if "device" in found:  # a run's: before these were recorded
            found = {"num_workers": 1, "accumulate_steps": 1} | found
        known = {field.name: found[field.name] for field in dataclasses.fields(cls)
                 if field.name in found or field.default is dataclasses.MISSING}
        for name in ("classes", "mean", "std", "fingerprints_before", "left_out", "found_broken", "class_weights",
                     "teachers"):
            if known.get(name) is not None:
                known[name] = tuple(known[name])
        known["image_size"] = sizes.as_size(known["image_size"])
        if isinstance(known.get("jit"), bool):  # before XLA compiled parts of the network
            known["jit"] = "all" if known["jit"] else "off"
        return cls(**known)

    def as_json(self):
        """The dict for run.json, without what is not there; `from_json` gives the same `Resolved` of it."""
        return {name: value for name, value in dataclasses.asdict(self).items()
                if value is not None and (value or name not in ("fingerprints_before", "found_broken"))}

    @property
    def evaluated_split(self):
        """As of `source.Source`."""
        return "validation" if "validation" in self.num_examples else "test"

    @property
    def has_data(self):
        """Whether the data set is known."""
        return bool(self.num_examples)
