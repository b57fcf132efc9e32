"""What every image of a run is decoded to: its channels, and the bits of each.

--channels=3 is colour, --channels=1 grey (Pillow's "L"): images of either kind become it, and alpha is dropped. With
any other number an image is taken as it is stored, and has to have that many channels. --bits=16 keeps 16 bits; a level
l of 8 bits is 257 l of them, so white stays white.

No TensorFlow here. Legend: H W height and width, C channels.
"""

import dataclasses

import numpy as np

GREY = (19595, 38470, 7471)  # Pillow's weights of red, green and blue, in 2^-16
HALF = 0x8000


@dataclasses.dataclass(frozen=True)
class PixelType:
    """See the module's docstring.

    Attributes:
        channels: int C.
        bits: 8 or 16.
    """

    channels: int = 3
    bits: int = 8

    @property
    def dtype(self):
        """NumPy's type of a level: uint8 or uint16."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    @property
    def white(self):
        """The highest level: 255 or 65535."""
        return 2**self.bits - 1

    @property
    def num_bytes(self):
        """Bytes of a pixel."""
        return self.channels * self.dtype.itemsize

    @property
    def is_colour_or_grey(self):
        """Whether images of other numbers of channels are converted, and not refused."""
        return self.channels in (1, 3)

    def describe(self):
        """Words for the plan; nothing of 8 bits in colour."""
        kind = {1: ", grey", 3: ""}.get(self.channels, f", {self.channels} channels")
        return kind + (", 16 bits" if self.bits == 16 else "")


RGB = PixelType()


def of_config(data):
    """The PixelType of a `config.DataConfig`."""
    return PixelType(data.channels, data.bits)


def levels_of(pixel_type, pixels):
    """Pixels as they were decoded, as those of a type.

    Args:
        pixel_type: PixelType.
        pixels: uint8 or uint16 NumPy array [H, W, C], or a batch of them.

    Returns:
        The same in its dtype and channels; the same array where there is nothing to do.

    Raises:
        ValueError: another number of channels, or more bits.
    """
    if pixels.dtype != pixel_type.dtype:
        if pixels.dtype != np.uint8:
            raise ValueError(f"expected {pixel_type.bits} bits per channel, found {8 * pixels.dtype.itemsize} "
                             "(--bits=16 keeps them)")
        pixels = pixels.astype(np.uint16) * np.uint16(257)
    found = pixels.shape[-1]
    if found == pixel_type.channels:
        return pixels
    if not pixel_type.is_colour_or_grey or found > 4:
        raise ValueError(f"expected {pixel_type.channels} channel{'s' * (pixel_type.channels != 1)}, found {found}")
    pixels = pixels[..., :3 if found == 4 else 1 if found == 2 else None]  # without alpha
    if pixel_type.channels == 3:
        return np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else np.ascontiguousarray(pixels)
    if pixels.shape[-1] == 1:
        return np.ascontiguousarray(pixels)
    total = sum(pixels[..., channel].astype(np.uint64) * weight for channel, weight in enumerate(GREY)) + HALF
    return (total >> 16).astype(pixels.dtype)[..., None]
