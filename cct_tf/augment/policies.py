"""The operations of augmentation policies and what their arguments mean. No TensorFlow here."""

import enum


class Op(enum.IntEnum):
    """What is done to an image, with the unit of its argument. The names are Pillow's and the policies'."""

    IDENTITY = 0
    AUTO_CONTRAST = 1  # no argument: ImageOps.autocontrast
    EQUALIZE = 2  # no argument: ImageOps.equalize
    INVERT = 3  # no argument: ImageOps.invert
    POSTERIZE = 4  # bits kept, a whole number from 0 to 8: ImageOps.posterize (0: black)
    SOLARIZE = 5  # levels from this one on are inverted, 0 to 256, may be fractional: ImageOps.solarize
    SOLARIZE_ADD = 6  # added to levels below 128, a whole number, clipped at 255
    BRIGHTNESS = 7  # factor, 1 = unchanged: ImageEnhance.Brightness
    CONTRAST = 8  # factor: ImageEnhance.Contrast
    COLOR = 9  # factor: ImageEnhance.Color
    SHARPNESS = 10  # factor: ImageEnhance.Sharpness
    SHEAR_X = 11  # coefficient k of Image.transform(AFFINE, (1, k, 0, 0, 1, 0))
    SHEAR_Y = 12  # k of (1, 0, 0, k, 1, 0)
    TRANSLATE_X = 13  # pixels k of (1, 0, k, 0, 1, 0), which moves the image to the left
    TRANSLATE_Y = 14  # pixels k of (1, 0, 0, 0, 1, k), which moves it up
    ROTATE = 15  # degrees counter-clockwise: Image.rotate about the centre


NEAREST, BILINEAR, BICUBIC = 0, 1, 2  # interpolation of SHEAR, TRANSLATE and ROTATE
