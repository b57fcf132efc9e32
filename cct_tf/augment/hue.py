"""Turning the hue of an image as torchvision does on Pillow's images: to "HSV" of 8 bits, a shift, and back.

Pillow computes in float32 and float64 by turns and rounds to levels. What it computes from two levels is looked up in
tables that are made the same way in NumPy. So every pixel is Pillow's, also where XLA contracts a product and a sum.

Legend: B batch, H W image; h s v levels of hue, saturation, value; sixth of the circle i, place f in it.
"""

import functools

import numpy as np
import tensorflow as tf

# Which of v, p, q, t each channel gets in each sixth.
_V, _P, _Q, _T = range(4)
_CHANNELS = np.array([[_V, _Q, _P, _P, _T, _V], [_T, _V, _V, _Q, _P, _P], [_P, _P, _T, _V, _V, _Q]])


@functools.cache
def _to_hue():
    """uint8 [6, 256, 256]: the hue by (2 * largest channel + case), numerator and range of the channels.

    The hue lies between two ratios; one of them is 1, of the smallest channel. Case 1: it is the one subtracted.
    """
    part, spread = np.arange(256, dtype=np.float32)[:, None], np.maximum(np.arange(256, dtype=np.float32), 1)[None]
    ratio = (part / spread).astype(np.float64)
    hues = [(start + part).astype(np.float32) for start in (0.0, 2.0, 4.0) for part in (1 - ratio, ratio - 1)]
    turns = np.fmod(np.stack(hues).astype(np.float64) / 6.0 + 1.0, 1.0).astype(np.float32)
    return np.clip(np.trunc(turns.astype(np.float64) * 255.0), 0, 255).astype(np.uint8)


@functools.cache
def _to_saturation():
    """uint8 [256, 256]: the saturation by range of the channels and the largest of them."""
    levels = np.arange(256, dtype=np.float32)
    ratio = levels[:, None] / np.maximum(levels, 1)[None]
    return np.clip(np.trunc(ratio.astype(np.float64) * 255.0), 0, 255).astype(np.uint8)


@functools.cache
def _from_hsv():
    """(int32 [256] sixths by h; float64 [3, 256, 256], what v is multiplied by for p, q and t, by h and s)."""
    place = np.arange(256, dtype=np.float64) * 6.0 / 255.0
    sixth = np.floor(place)
    within = (place - sixth).astype(np.float32)[:, None]
    share = (np.arange(256, dtype=np.float64) / 255.0).astype(np.float32)[None]
    p = np.broadcast_to(1.0 - share.astype(np.float64), [256, 256])
    q = 1.0 - (share * within).astype(np.float64)
    t = 1.0 - share.astype(np.float64) * (1.0 - within.astype(np.float64))
    return (sixth % 6).astype(np.int32), np.stack([p, q, t])


def _hsv(levels):
    """int32 [B, H, W, 3] -> (h, s, v), int32 [B, H, W] each: Image.convert("HSV")."""
    channels = tf.unstack(levels, axis=3)
    most, spread = tf.reduce_max(levels, axis=3), tf.reduce_max(levels, axis=3) - tf.reduce_min(levels, axis=3)
    largest = tf.argmax(levels, axis=3, output_type=tf.int32)
    before, after = (most - tf.where(largest == 0, channels[first], tf.where(largest == 1, channels[second], third))
                     for first, second, third in ((2, 0, channels[1]), (1, 2, channels[0])))
    case = tf.cast(after == spread, tf.int32)
    place = ((2 * largest + case) * 256 + tf.where(case == 1, before, after)) * 256 + spread
    hue = tf.cast(tf.gather(_to_hue().reshape(-1), place), tf.int32)
    saturation = tf.cast(tf.gather(_to_saturation().reshape(-1), spread * 256 + most), tf.int32)
    return tf.where(spread == 0, 0, hue), saturation, most


def _rounded(values):
    """float64 >= 0 to the nearest whole number, halves up; `tf.where` keeps XLA from contracting product and sum."""
    values = tf.where(values >= 0.0, values, 0.0)
    return tf.cast(tf.floor(values + 0.5), tf.int32)


def _rgb(hue, saturation, value):
    """(h, s, v) -> int32 [B, H, W, 3]: Image.convert("RGB")."""
    sixths, factors = _from_hsv()
    place, level = hue * 256 + saturation, tf.cast(value, tf.float64)
    found = [value, *(_rounded(level * tf.gather(factor.reshape(-1), place)) for factor in factors)]
    sixth = tf.gather(sixths, hue)

    def channel(kinds):
        which = tf.gather(kinds.astype(np.int32), sixth)
        return tf.where(which == _V, found[_V], tf.where(which == _P, found[_P], tf.where(
            which == _Q, found[_Q], found[_T])))

    colour = tf.stack([channel(kinds) for kinds in _CHANNELS], axis=3)
    return tf.where((saturation == 0)[..., None], value[..., None], colour)


@functools.partial(tf.function, jit_compile=True, autograph=False)
def turn(images, chosen, shift):
    """Turn the hue of some images of a batch.

    Args:
        images: uint8 [B, H, W, 3].
        chosen: bool [B], which of them.
        shift: int32 [B], levels of hue, of 256 around the circle.

    Returns:
        uint8 [B, H, W, 3]. A shift of 0 also goes to HSV and back, and may change a level, as in torchvision.
    """
    hue, saturation, value = _hsv(tf.cast(images, tf.int32))
    turned = tf.math.floormod(hue + shift[:, None, None], 256)
    return tf.where(chosen[:, None, None, None], tf.cast(_rgb(turned, saturation, value), tf.uint8), images)
