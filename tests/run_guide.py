"""Run the code of the Python guide (docs/python*.md) in this process, block after block, and tell what it has left.

stdin: JSON list of the blocks; stdout: at its end a line of JSON, the facts that tests/test_guide.py judges.
"""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf


def _facts(kept):
    """{name: what JSON takes} from the names that each block left behind."""
    first, mirrored, seen, run, authors, data, invert, mean, small = kept
    images, facts = first["images"].astype("float32"), {}
    facts["accuracy"] = first["model"].evaluate(images[1438:], first["digits"].target[1438:], verbose=0)[1]
    np.savez("digits.npz", images=images[:8], logits=first["model"](images[:8]))
    strategy = mirrored["strategy"]
    drawn = strategy.experimental_local_results(
        strategy.run(lambda: mirrored["mirrored"]._draw_seeds(tf.constant(4))))
    facts |= {"replicas": len(drawn), "same seeds": bool(tf.reduce_all(drawn[0] == drawn[1])),
              "mirrored updates": int(mirrored["mirrored"].optimizer.iterations.numpy())}
    facts["vectors"] = list(seen["vectors"].shape)
    facts["shares"] = [list(seen["shares"].shape), np.sum(seen["shares"], axis=1).tolist()]
    facts["maps"] = {name: [list(value.shape), np.sum(value, axis=(1, 2)).tolist()]
                     for name, value in seen["maps"].items()}
    for name, block, size in (("run", run, 16), ("authors", authors, 32)):
        facts[name] = np.asarray(block["model"](tf.ones([1, size, size, 3])))[0].tolist()
    batches = list(data["data"].take(2))
    batch = (data["pixels"][:64], data["digits"].target[:64])
    steps = [data["augmented"](tf.constant(step, tf.int64), batch)[0].numpy() for step in (0, 0, 1)]
    facts["augmented"] = [list(batches[0][0].shape), batches[0][0].dtype.name,
                          bool((steps[0] == steps[1]).all()), float((steps[0] != steps[2]).mean())]
    facts["trained"] = int(data["model"].optimizer.iterations.numpy())
    flags = np.asarray(invert["invert"].sample(invert["seeds"]))
    levels = np.where(flags[:, None, None, None], 255 - invert["pixels"][:1438], invert["pixels"][:1438])
    facts["inverted"] = [float(flags.mean()), bool((levels == invert["inverted"].numpy()).all())]
    facts |= _of_layers(mean["model"], small["small"], images[:8])
    return facts


def _of_layers(mean, small, images):
    tokens = mean.norm(mean._encode(images))
    expected = mean.head(mean.pooling(tokens) + tf.reduce_mean(tokens, axis=1))
    loaded = keras.models.load_model("with_mean.keras")
    facts = {"mean": [float(tf.reduce_max(abs(model(images) - expected))) for model in (mean, loaded)],
             "updates": int(small.optimizer.iterations.numpy())}
    seeds = tf.range(8, dtype=tf.int32)
    with_seeds = [small(images, seeds=seeds + shift, training=True).numpy() for shift in (0, 0, 1)]
    drawn = [small(images, training=True).numpy() for _ in range(2)]
    facts["masks"] = [bool((with_seeds[0] == with_seeds[1]).all()), bool((with_seeds[0] == with_seeds[2]).all()),
                      bool((drawn[0] == drawn[1]).all())]
    try:
        small.block_0(small.tokenizer(images), training=True)
    except ValueError as error:
        facts["no seeds"] = str(error)
    return facts


def main():
    cpu, = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    names, kept = {}, []
    for place, block in enumerate(json.load(sys.stdin)):
        file = pathlib.Path(f"block_{place}.py")
        file.write_text(block)  # where TensorFlow looks for the source of a function
        exec(compile(block, file, "exec"), names)
        kept.append(dict(names))
    print(json.dumps(_facts(kept)))


if __name__ == "__main__":
    main()
