"""A network of Keras' own layers, with what a student may not have: a teacher from a file."""

import keras
import numpy as np


def write(path, side=8, units=10, activation=None):
    """Write one with statistics that move in training and a random layer to a .keras file; returns the keras.Model."""
    draws = np.random.default_rng(2)
    images = keras.Input([side, side, 3])
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(8, 3)(images))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(keras.layers.ReLU()(x)))
    model = keras.Model(images, keras.layers.Dense(units, activation)(x))
    model.set_weights([draws.normal(0.5 if "variance" in weight.path else 0.0, 0.1, weight.shape)
                       for weight in model.weights])
    model.save(path)
    return model
