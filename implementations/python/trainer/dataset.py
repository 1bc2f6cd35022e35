"""The data: four IDX files, plain or gzip, read whole, and known by their bytes."""

import gzip
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .command import DATA, Failure

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
SUBFOLDERS = ("", "mnist", "MNIST/raw")


@dataclass(frozen=True)
class Dataset:
    name: str
    sha256: str  # METHOD.md: over the four digests
    images: Any  # (samples, 784), uint8
    labels: Any  # (samples,), uint8
    test_images: Any
    test_labels: Any


def read(chosen):
    """The dataset in the folder `chosen`; else in $TRAINMARK_DATA, else in ./data."""
    named = chosen or os.environ.get("TRAINMARK_DATA") or "data"
    folder = _find(Path(named))
    contents = [_content(folder, name) for name in FILES]
    digests = [hashlib.sha256(content).hexdigest() for content in contents]
    arrays = [_array(folder / name, content) for name, content in zip(FILES, contents)]
    for kind, images, labels in (("training", *arrays[:2]), ("test", *arrays[2:])):
        if len(images) != len(labels) or len(images) == 0:
            _wrong(f"{folder}: {len(images)} {kind} images and {len(labels)} labels")
        if labels.max() > 9:
            _wrong(f"{folder}: a {kind} label above 9")
    sha256 = hashlib.sha256("\n".join(digests).encode()).hexdigest()
    return Dataset(folder.name, sha256, *arrays)


def _find(chosen):
    for folder in (chosen / name for name in SUBFOLDERS):
        if _file(folder, FILES[0]):
            return folder
    _wrong(
        f"--data {chosen}: no dataset there; it needs {FILES[0]} and its three companions, plain or "
        "with .gz: `trainmark fetch` gets MNIST"
    )


def _file(folder, name):
    variants = (name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz")
    return next((folder / file for file in variants if (folder / file).is_file()), None)


def _content(folder, name):
    file = _file(folder, name)
    if file is None:
        _wrong(f"{folder}: {name} is missing")
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if file.suffix == ".gz" else content
    except (OSError, EOFError, ValueError) as error:
        _wrong(f"{file}: {error}")


def _array(file, content):
    """The IDX format: zero, zero, 8 for unsigned bytes, the number of dimensions, their lengths."""
    dimensions = 3 if "images" in file.name else 1
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes((0, 0, 8, dimensions)):
        _wrong(f"{file}: no IDX file of unsigned bytes with {dimensions} dimensions")
    lengths = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    if dimensions == 3 and lengths[1:] != [28, 28]:
        _wrong(f"{file}: images of {lengths[1]}x{lengths[2]} pixels, not of 28x28")
    values = np.frombuffer(content, np.uint8, offset=header)
    if values.size != lengths[0] * (784 if dimensions == 3 else 1):
        _wrong(f"{file}: {values.size} bytes of data where the header says {lengths}")
    return values.reshape(-1, 784) if dimensions == 3 else values


def _wrong(message):
    raise Failure(DATA, message)
