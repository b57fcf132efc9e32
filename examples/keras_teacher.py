r"""A teacher with BatchNormalization, trained by Keras alone; `--teacher` of cct_tf.train takes the file it writes.

    python -m examples.keras_teacher --data_dir=DIR --output=runs/teacher.keras
    python -m cct_tf.train --flagfile=configs/cifar10_30_epochs.cfg --data_dir=DIR --teacher=runs/teacher.keras \
        --teacher_mean=0.4914,0.4822,0.4465 --teacher_std=0.2470,0.2435,0.2616 --distill_temperature=3

Network and recipe are those of arXiv:2404.00498 (airbench) with Muon for the kernels, for CPUs: batches of 2,000 images
in parts of 250, each normalised by itself. The images held out are those of configs/cifar10_30_epochs.cfg, so that a
student is judged on images that its teacher has not seen.

Legend: B images, H W height and width, C channels.
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from keras import layers, ops

from cct_tf.datasets import registry
from cct_tf.machine import runtime
from cct_tf.settings.config import DataConfig

MEAN, DEVIATION = np.float32([0.4914, 0.4822, 0.4465]), np.float32([0.2470, 0.2435, 0.2616])
BATCH, PARTS = 2000, 8
KERNELS, BIASES, HEAD, MOMENTUM = 0.24, 0.053, 0.67, 0.85  # learning rates; momentum of what Muon leaves


def network(num_classes, widths):
    """A keras.Model of normalised images [B, 32, 32, 3] -> logits [B, num_classes]."""
    images = keras.Input((32, 32, 3))
    x = ops.gelu(layers.Conv2D(24, 2, name="whitening")(images))
    for block, width in enumerate(widths):
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv_{block}_0")(x)
        x = layers.MaxPooling2D(2)(x)
        x = ops.gelu(_norm(f"norm_{block}_0")(x))
        x = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"conv_{block}_1")(x)
        x = ops.gelu(_norm(f"norm_{block}_1")(x))
    start = keras.initializers.RandomNormal(stddev=1.0)
    logits = layers.Dense(num_classes, use_bias=False, kernel_initializer=start, name="head")(ops.max(x, axis=(1, 2)))
    return keras.Model(images, logits / widths[-1])


def _norm(name):
    return layers.BatchNormalization(momentum=1 - 0.4 / PARTS, epsilon=1e-5, scale=False, name=name)


def set_first_kernels(model, images):
    """The first layer decorrelates the colours of 2 x 2 pixels; the others begin by passing their input on."""
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))  # [B, H - 1, W - 1, C, 2, 2]
    patches = patches.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 12)
    variances, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    kernel = (vectors / np.sqrt(variances + 5e-4)).reshape(2, 2, 3, 12)
    whitening = model.get_layer("whitening")
    whitening.kernel.assign(np.concatenate([kernel, -kernel], axis=-1))
    whitening.kernel.trainable = False
    for layer in model.layers:
        if layer.name.startswith("conv_"):
            kernel = layer.kernel.numpy().copy()
            shared = min(kernel.shape[2:])
            kernel[..., :shared] = 0
            kernel[1, 1, range(shared), range(shared)] = 1
            layer.kernel.assign(kernel)


class Muon(keras.optimizers.Optimizer):
    """Kernels keep their norm and move by orthogonal matrices; the others by SGD with Nesterov's momentum.

    The learning rate is a factor, 1 at first. The first variable, the bias of the first layer, stands still after 3/8
    of the way to 0.
    """

    def build(self, variables):
        super().build(variables)
        self.newton_schulz = keras.optimizers.Muon().zeropower_via_newtonschulz5  # (matrix, steps)
        self.moments = [self.add_variable_from_reference(variable, "momentum") for variable in variables]

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        moment = self.moments[index]
        if len(variable.shape) == 4:
            self.assign(moment, 0.6 * moment + gradient)
            update = self.newton_schulz(ops.reshape(gradient + 0.6 * moment, (-1, variable.shape[-1])), 3)
            kept = variable * (variable.shape[-1] ** 0.5 / ops.norm(ops.reshape(variable, -1)))
            self.assign(variable, kept - KERNELS * learning_rate * ops.reshape(update, variable.shape))
            return
        rate = HEAD if len(variable.shape) == 2 else BIASES
        if index == 0:
            learning_rate = ops.maximum(0.0, 1 - (1 - learning_rate) * 8 / 3)
        gradient = gradient * PARTS + variable * (2e-6 * BATCH / rate)  # a sum over the batch
        self.assign(moment, MOMENTUM * moment + gradient)
        self.assign_sub(variable, rate * learning_rate * (gradient + MOMENTUM * moment))


def batches(images, labels, epochs, seed):
    """Parts of batches, shifted by up to two pixels, mirrored in every other epoch; an epoch's last batch is dropped.

    Yields:
        (epoch, images [B, 32, 32, C], labels [B, classes]).
    """
    draws, size = np.random.default_rng(seed), BATCH // PARTS
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), "reflect")
    mirrored = draws.random(len(images)) < 0.5
    for epoch in range(epochs):
        order = draws.permutation(len(images))[:len(images) // BATCH * BATCH]
        for chosen in order.reshape(-1, size):
            starts = draws.integers(0, 5, (size, 2))
            part = np.stack([padded[image, top:top + 32, left:left + 32]
                             for image, (top, left) in zip(chosen, starts, strict=True)])
            part[mirrored[chosen]] = part[mirrored[chosen], :, ::-1]
            yield epoch, part, labels[chosen]
        mirrored = ~mirrored


def _arrays(split, num_classes):
    images, labels = zip(*split.images(range(split.num_examples)), strict=True)
    return (np.stack(images) / np.float32(255) - MEAN) / DEVIATION, np.eye(num_classes, dtype=np.float32)[list(labels)]


def _accuracy(model, images, labels):
    parts = np.array_split(np.arange(len(images)), -(-len(images) // 500))
    found = np.concatenate([model.predict_on_batch(images[part]).argmax(axis=1) for part in parts])
    return np.mean(found == labels.argmax(axis=1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", default="cifar10", help="as of cct_tf.train; images of 32 x 32 pixels")
    parser.add_argument("--data_dir", default="", help="as of cct_tf.train")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/teacher.keras"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--widths", type=int, nargs=3, default=(64, 256, 256))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    runtime.start_tensorflow()
    source = registry.open_source(DataConfig(dataset=args.dataset, data_dir=args.data_dir, validation_fraction=0.1))
    data = {name: _arrays(split, source.num_classes) for name, split in source.splits.items()}
    shape = data["train"][0].shape
    if shape[0] < BATCH or shape[1:] != (32, 32, 3):
        parser.error(f"--dataset: expected at least {BATCH} training images of 32 x 32 pixels and 3 channels, found "
                     f"{shape[0]} of {shape[1]} x {shape[2]} and {shape[3]}")
    keras.utils.set_random_seed(args.seed)
    model = network(source.num_classes, args.widths)
    set_first_kernels(model, data["train"][0][:5000])
    steps_of_epoch = len(data["train"][0]) // BATCH * PARTS
    rate = keras.optimizers.schedules.PolynomialDecay(1.0, args.epochs * steps_of_epoch, 0.0)
    model.compile(Muon(rate, gradient_accumulation_steps=PARTS),
                  keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2, reduction="sum"))
    start = time.monotonic()
    for step, (epoch, images, labels) in enumerate(batches(*data["train"], args.epochs, args.seed), 1):
        model.train_on_batch(images, labels)
        if step % steps_of_epoch == 0:
            accuracy = _accuracy(model, *data["validation"])
            minutes = (time.monotonic() - start) / 60
            print(f"epoch {epoch + 1}/{args.epochs}: {accuracy:.2%} of the validation images, {minutes:.1f} minutes",
                  flush=True)
    accuracy = _accuracy(model, *data["test"])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    model.save(args.output)
    print(f"{args.output}: {model.count_params():,} parameters, {accuracy:.2%} of the test images")


if __name__ == "__main__":
    main()
