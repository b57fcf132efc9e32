"""Getting a TFDS builder whose data is there: prepared before, or now from its original files or the network.

TFDS itself retries for more than three minutes without a network and then raises many lines; here what is missing is
found first and said in one.
"""

import contextlib
import io
import os
import pathlib
import socket
import threading
import time
import urllib.parse
import urllib.request
import warnings

import absl.logging
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import download_manager, extractor, resource, util

from cct_tf.errors import OutsideFault, UserError, nearest
from cct_tf.readers import progress

_CONNECT_SECONDS = 5.0


@contextlib.contextmanager
def quiet():
    """TFDS without its notices, bars, log lines and warnings: stdout may be promised to others."""
    before = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        absl.logging.set_verbosity(before)


def prepared_builder(config, stream=None):
    """The builder of --dataset, its data prepared in --data_dir.

    Args:
        config: DataConfig.
        stream: text stream for progress, or None.

    Returns:
        tfds.core.DatasetBuilder.

    Raises:
        UserError: no such set; no data, no original files and no network, with the two ways on; damaged originals.
        OutsideFault: a download that began and failed.
    """
    with quiet():
        builder = _builder(config)
        if builder.is_prepared():
            return builder
        _require_images(builder, config)
        if os.path.isdir(builder.data_dir):
            raise UserError(f"--dataset={config.dataset}: expected a complete set in {builder.data_dir}, found one "
                            "without its description; copy it again, or delete the folder and prepare the set again")
        originals = _Originals(builder)
        missing = originals.missing()
        if missing:
            _require_network(builder, config, originals, missing)
        progress.say(stream, f"preparing {config.dataset} in {builder.data_dir}, once ...")
        begin = time.monotonic()
        _prepare(builder, config, originals)
        progress.say(stream, f"prepared in {time.monotonic() - begin:.0f} s")
    return builder


def _builder(config):
    try:
        return tfds.builder(config.dataset, data_dir=config.data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        raise UserError(f"--dataset: expected a TFDS set, found {config.dataset!r}"
                        + nearest(config.dataset, known)) from error
    except (ValueError, AssertionError, ImportError, OSError) as error:
        raise UserError(f"--dataset: expected a TFDS set that can be opened, found {config.dataset!r}: "
                        f"{first_line(error)}") from error


def first_line(error):
    """The first line of an error's text, at most 300 characters."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def image_and_label(info):
    """(image key, label key) of a set with one image and one class label per example, else None."""
    features = dict(info.features.items()) if hasattr(info.features, "items") else {}
    if info.supervised_keys and all(isinstance(key, str) for key in info.supervised_keys):
        keys = info.supervised_keys
    else:
        by_type = [[key for key, feature in features.items() if isinstance(feature, kind)]
                   for kind in (tfds.features.Image, tfds.features.ClassLabel)]
        if [len(found) for found in by_type] != [1, 1]:
            return None
        keys = (by_type[0][0], by_type[1][0])
    image, label = (features.get(key) for key in keys)
    ours = isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel)
    return tuple(keys) if ours else None


def _require_images(builder, config):
    """Raise UserError before anything is downloaded if the set is not for image classification."""
    if image_and_label(builder.info) is None:
        raise UserError(not_images(builder.info, config))


def not_images(info, config):
    """The message for a set that is not for image classification."""
    found = ", ".join(f"{key} ({type(feature).__name__})" for key, feature in info.features.items()) \
        if hasattr(info.features, "items") else type(info.features).__name__
    return (f"--dataset: expected an image-classification set (an image and its class), found {config.dataset!r} with "
            f"{found[:200]}")


class _Originals:
    """The original files of a builder, and where TFDS looks for them."""

    def __init__(self, builder):
        self.builder = builder
        self.downloads = pathlib.Path(builder.data_dir_root) / "downloads"
        self.manual = self.downloads / "manual"
        self.by_hand = bool(builder.MANUAL_DOWNLOAD_INSTRUCTIONS)

    def missing(self):
        """URLs of the files that are in neither the manual folder nor the download cache."""
        if self.by_hand and self.manual.is_dir() and any(self.manual.iterdir()):
            return []  # only the builder knows which files it wants; it will say
        return [url for url, info in self.builder.url_infos.items() if not self._is_here(url, info)]

    def _is_here(self, url, info):
        if info.filename and (self.manual / info.filename).exists():
            return True
        # The cache: named after the checksum or the URL alone, in the set's folder or (older) in downloads/ itself.
        return any(resource.is_locally_cached(tfds.core.Path(folder / resource.get_dl_fname(url, checksum)))
                   for folder in (self.downloads / self.builder.name, self.downloads)
                   for checksum in (info.checksum, None))

    def file_names(self, urls):
        """Names of the files behind URLs, the first few: `a.tar.gz, b.mat and 4 more`."""
        names = [self.builder.url_infos[url].filename or os.path.basename(urllib.parse.urlparse(url).path)
                 for url in urls]
        return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _require_network(builder, config, originals, missing):
    """Raise UserError if the missing files cannot be had: no host answers, or they have to be fetched by hand."""
    root, manual, name = builder.data_dir_root, originals.manual, builder.name
    where = f"--dataset={config.dataset}: expected the prepared set in {builder.data_dir} or its original files"
    ways = (f"either prepare it elsewhere (the same command on a machine with a network) and copy "
            f"{os.path.join(root, name)} here, or place the original files in {manual} and run again")
    names = originals.file_names(missing)
    if originals.by_hand:
        raise UserError(f"{where} ({names}), which TFDS may not download itself, in {manual}, found neither; {ways}")
    unreachable = sorted({urllib.parse.urlparse(url).hostname or url for url in missing if not _reachable(url)})
    if unreachable:
        raise UserError(f"{where} ({names}) in {manual}, found neither, and no connection to {unreachable[0]}; {ways}")


def _reachable(url):
    """Whether the URL's host (or the proxy for it) takes a connection within a few seconds."""
    parsed = urllib.parse.urlparse(url)
    proxy = urllib.request.getproxies().get(parsed.scheme)
    if proxy and not urllib.request.proxy_bypass(parsed.hostname or ""):
        parsed = urllib.parse.urlparse(proxy if "//" in proxy else f"//{proxy}")
    port = parsed.port or {"https": 443, "ftp": 21}.get(parsed.scheme, 80)
    answers = []

    def connect():  # in a thread, for resolving a name knows no timeout
        with contextlib.suppress(OSError), socket.create_connection((parsed.hostname, port), _CONNECT_SECONDS):
            answers.append(True)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_CONNECT_SECONDS)
    return bool(answers)


def _prepare(builder, config, originals):
    """Run TFDS' preparation, its errors made ours."""
    manual = {"manual_dir": originals.manual} if originals.manual.is_dir() else {}
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**manual))
    except download_manager.NonMatchingChecksumError as error:
        raise UserError(f"--dataset={config.dataset}: expected the original files with TFDS' checksums, found another: "
                        f"{first_line(error)}") from error
    except extractor.ExtractError as error:
        raise UserError(f"--dataset={config.dataset}: expected sound original files, found: "
                        f"{first_line(error)}") from error
    except ImportError as error:
        raise UserError(f"--dataset={config.dataset}: expected what TFDS needs to prepare it to be installed, found: "
                        f"{first_line(error)}") from error
    except (AssertionError, ValueError, FileNotFoundError) as error:
        raise UserError(f"--dataset={config.dataset}: expected the original files in {originals.manual}, found: "
                        f"{first_line(error)}") from error
    except (OSError, util.DownloadError) as error:  # storage, and every error of requests
        raise OutsideFault(f"--dataset={config.dataset}: preparing it in {builder.data_dir} failed: "
                           f"{first_line(error)}") from error
