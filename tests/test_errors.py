"""Faults that have a line of their own, whatever raises them."""

import errno
import os
import re

import pytest
import tensorflow as tf

from cct_tf.errors import UserError, exit_status
from cct_tf.images import decode
from cct_tf.machine import files, memory
from cct_tf.settings import command

TOO_MANY = os.strerror(errno.EMFILE)


@pytest.mark.parametrize("error", [
    OSError(errno.EMFILE, TOO_MANY, "/data/a.png"),
    tf.errors.ResourceExhaustedError(None, None, f"/data/a.png; {TOO_MANY}")])
def test_too_many_open_files_are_a_matter_of_ulimit_and_not_of_the_batch(error):
    with pytest.raises(type(error)), memory.named_when_out(memory.TRAINING, 16):
        raise error
    status, line = exit_status(error)
    assert status == 2
    assert re.match(r"ulimit -n: expected more open files than the [\d,]+ .* at /data/a.png; `ulimit -n 65536`", line)
    with pytest.raises(UserError, match="^ulimit -n: "), command.errors_named():
        raise error


def test_too_many_open_files_are_no_fault_of_an_image(tmp_path, monkeypatch):
    """With --on_bad_image=skip such an image would be left out."""
    def fail(*_, **__):
        raise OSError(errno.EMFILE, TOO_MANY)

    monkeypatch.setattr(files, "read", fail)
    monkeypatch.setattr(decode, "_open", fail)
    for read in (decode.read_bytes, decode.check_header):
        with pytest.raises(OSError, match=TOO_MANY):
            read(str(tmp_path / "a.png"))
