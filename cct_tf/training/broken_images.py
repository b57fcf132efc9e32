"""What a run does about images that it finds broken (--on_bad_image=skip): written down, agreed on, named, counted.

What stands for a broken image follows from the place of that image, so workers need not agree before each step. They
do after each chunk, so that an image which is mended meanwhile stays broken for all of them.
"""

from cct_tf.assembly import found_broken
from cct_tf.runs.found_broken_file import FoundBrokenFile, joined

_MOST_NAMED = 20  # at once: of a shard that is cut off many records are broken


class BrokenImages:
    """The broken images of a run.

    Args:
        prepared: `preparation.Prepared`.
    """

    def __init__(self, prepared):
        self._source, self._workdir = prepared.data.images.source, prepared.workdir
        self._console, self._peers = prepared.console, prepared.peers
        self._bears = found_broken.is_bearing(self._source)
        reads_anew = prepared.start.record is None or prepared.config.run.accept_config_change
        self._agreed = {} if reads_anew else _positions(prepared.start.resolved.found_broken)  # those were named

    def listen(self):
        """Write down what is found from now on, and what was found in this start already, before anything else."""
        if not self._bears:
            return
        file = FoundBrokenFile(self._workdir.path, self._peers.index, self._source.fingerprint)
        found_broken.listen(self._source, file.add)
        for row in self._not_agreed():
            file.add(row)

    def _not_agreed(self):
        return [row for row in found_broken.rows(self._source)
                if self._agreed.get(_key(row), -1) != row["position"]]

    def agree(self):
        """Tell the other workers what was found, and take what they found; all call this. Worker 0 names it."""
        if not self._bears:
            return
        found = joined(*self._peers.exchange(self._not_agreed()))
        found_broken.add(self._source, found)
        new = [row for row in found if _key(row) not in self._agreed]
        self._agreed |= _positions(found_broken.rows(self._source))
        if new and self._peers.is_chief:
            for row in new[:_MOST_NAMED]:
                then = ("the next image takes its place" if row["split"] == "train"
                        else f"it counts for nothing in the {row['split']} split")
                self._console.warn(f"broken image: {self._name(row)}: {row['reason']}; from here on {then}")
            if len(new) > _MOST_NAMED:
                self._console.warn(f"{len(new) - _MOST_NAMED:,} more broken images, for which the same holds; "
                                   "broken_images.txt lists them all")
            self._workdir.describe_data(self._source, self.named())

    def _name(self, row):
        return self._source.splits[row["split"]].reader.origin(row["place"])

    def named(self):
        """(path, reason) of each, for people: list."""
        return [(self._name(row), row["reason"]) for row in found_broken.rows(self._source)]

    def rows(self, positions):
        """Rows for the record of a checkpoint that so many positions of the training order lead to: tuple of dicts."""
        return tuple(found_broken.rows(self._source, positions))

    def counted(self, positions):
        """How many training images were replaced so far, for a log record: dict; empty where none can be."""
        if not self._source.splits["train"].reader.broken:
            return {}
        return {"data/broken_images": sum(row["split"] == "train" for row in self.rows(positions))}


def _key(row):
    return row["split"], row["place"]


def _positions(rows):
    return {_key(row): row["position"] for row in rows}
