"""Letters in pictures. matplotlib's own font, DejaVu Sans, has none of Chinese, Japanese, Korean and many others.

    readable(class_names)    names that can be drawn, or numbers in their place
    choose(figure)           the fonts for what stands in a figure, just before it is drawn
"""

import functools

_OWN = "DejaVu Sans"


def _found_in(path, letters):
    """Those of `letters` (frozenset of int) that matplotlib can draw with a font file."""
    from matplotlib import ft2font
    try:
        font = ft2font.FT2Font(path)
    except (OSError, RuntimeError):  # a file that FreeType can't read
        return frozenset()
    # matplotlib refuses fonts of pictures, such as Noto Color Emoji; the font of last resort has a box for each letter.
    if not font.scalable or "last resort" in font.family_name.lower():
        return frozenset()
    return frozenset(letter for letter in letters if font.get_char_index(letter))


@functools.cache
def _own_letters():
    """The code points of DejaVu Sans."""
    from matplotlib import font_manager
    return frozenset(font_manager.get_font(font_manager.findfont(_OWN)).get_charmap())


@functools.cache
def _installed():
    """Paths of the system's fonts, those without serifs and of normal weight first."""
    from matplotlib import font_manager

    def key(path):
        name = path.lower()
        return "serif" in name, "bold" in name or "light" in name or "black" in name, "mono" in name, path

    return sorted(font_manager.findSystemFonts(), key=key)


@functools.cache
def _family(path):
    """The name of a font file's family, known to matplotlib from now on."""
    from matplotlib import font_manager
    font_manager.fontManager.addfont(path)
    return font_manager.get_font(path).family_name


@functools.cache
def _covering(letters):
    """Families that have `letters` (frozenset of int, none of DejaVu Sans), and those letters that no font has.

    Returns:
        (tuple of family names, frozenset of int).
    """
    families = ()
    for path in _installed():
        found = _found_in(path, letters)
        if found:
            families += (_family(path),)
            letters -= found
        if not letters:
            break
    return families, letters


def _foreign(text):
    """The letters of a text that DejaVu Sans lacks, frozenset of int."""
    letters = {ord(letter) for letter in text if not letter.isspace()}
    return frozenset(letters - _own_letters()) if max(letters, default=0) > 0x17F else frozenset()


def readable(class_names):
    """Class names as pictures can show them.

    Args:
        class_names: sequence of K strings.

    Returns:
        list of K strings; a name with letters that no installed font has is replaced by its number, such as `class 3`.
    """
    _, lacking = _covering(_foreign("".join(class_names)))
    return [f"class {number}" if lacking.intersection(map(ord, name)) else name
            for number, name in enumerate(class_names)]


def choose(figure):
    """Give every text of a matplotlib figure the fonts that have its letters."""
    from matplotlib.text import Text
    for text in figure.findobj(Text):
        foreign = _foreign(text.get_text())
        if foreign:
            text.set_fontfamily([_OWN, *_covering(foreign)[0]])
