"""From a config to its network, and from a checkpoint to a trained one."""

import dataclasses

from cct_tf.machine import own_code
from cct_tf.machine.console import Console
from cct_tf.models import create_model, own
from cct_tf.runs import checkpoint, run_record

# Keras' dtype policies; "mixed" keeps the variables in float32.
_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def build_model(config, num_classes):
    """The network of a config. Call it under the strategy's scope."""
    model = config.model
    if own_code.is_named(model.model):
        return own.build(model.model, num_classes, config.augment.image_size, config.data.channels, config.run.seed,
                         _POLICIES[model.precision])
    return create_model(
        model.model, num_classes=num_classes, image_size=config.augment.image_size,
        positional_embedding=model.positional_embedding, norm_order=model.norm_order,
        dropout_rate=model.dropout_rate, attention_dropout_rate=model.attention_dropout_rate,
        drop_path_rate=model.drop_path_rate, seed=config.run.seed,
        dtype=_POLICIES[model.precision], channels=config.data.channels, qk_norm=model.qk_norm,
        zero_init_outputs=model.zero_init_outputs)


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network with the weights of a checkpoint.

    Attributes:
        model: keras.Model.
        path: pathlib.Path of its checkpoint.
        record: `run_record.Record` of it.
        weights: "raw", or "ema" or "average" for averaged weights.
    """

    model: object
    path: object
    record: run_record.Record
    weights: str

    @property
    def thresholds(self):
        """As `Record.thresholds_of` these weights."""
        return self.record.thresholds_of(self.weights)


def load_model(config, num_classes, choose, weights="auto", flag="--checkpoint"):
    """The network of a checkpoint. Call it under the strategy's scope.

    Args:
        config: `config.Config` of the run.
        num_classes: int K.
        choose: function () -> (path, Record) of the checkpoint, such as `selection.Selection.find`. Called last: while
            its run goes on, the folder found at the start may have been removed.
        weights: "auto", "raw", "ema" or "average", see `run_record.choose_weights`.
        flag: the flag that names the checkpoint, for messages.

    Returns:
        Loaded.

    Raises:
        UserError: the checkpoint can't be read, or does not have these weights.
    """
    model = build_model(config, num_classes)
    path, record = choose()
    chosen = run_record.choose_weights(record, weights)
    recorded = (record.resolved.own_code or {}).get(config.model.model)
    if recorded and recorded != own_code.checksum("model", config.model.model):
        Console(quiet=True).warn(f"{config.model.model} has changed since {path} was written")
    try:
        checkpoint.restore_weights(path, model, chosen)
    except run_record.Unreadable as error:
        raise run_record.not_readable(error, flag) from None
    return Loaded(model, path, record, chosen)
