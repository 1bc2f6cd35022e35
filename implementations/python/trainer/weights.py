"""Parameters in safetensors files: eight bytes with the length of a JSON header, the header, the data
(https://github.com/huggingface/safetensors, its README's "Format")."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np

from .command import DATA, FAILURE, Failure


def load(path, shapes):
    """The parameters of these `shapes`, which must be all that the file holds."""
    try:
        content = Path(path).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header.pop("__metadata__", None)
        data = memoryview(content)[8 + length :]
        parameters = {}
        for name, shape in shapes:
            entry = header.pop(name, None)
            if entry is None:
                raise ValueError(f"no tensor `{name}`")
            if entry["dtype"] != "F32" or tuple(entry["shape"]) != tuple(shape):
                raise ValueError(f"`{name}` is {entry['dtype']} {entry['shape']}, not F32 {list(shape)}")
            begin, end = entry["data_offsets"]
            parameters[name] = np.frombuffer(data[begin:end], "<f4").reshape(shape).copy()
        if header:
            raise ValueError(f"a tensor `{next(iter(header))}`, which the model does not have")
        return parameters
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Failure(DATA, f"cannot load {path}: {error}") from error


def save(path, parameters):
    """Writes the file whole or not at all."""
    header, chunks, begin = {"__metadata__": {"format": "pt"}}, [], 0
    for name, values in parameters.items():
        chunk = np.ascontiguousarray(values, "<f4").tobytes()
        offsets = [begin, begin + len(chunk)]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": offsets}
        chunks.append(chunk)
        begin += len(chunk)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    replace(path, len(text).to_bytes(8, "little") + text + b"".join(chunks))


def replace(path, content):
    """Writes beside the file, then renames over it."""
    path = Path(path)
    try:
        handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError as error:
        raise Failure(FAILURE, f"cannot write {path}: {error}") from error
