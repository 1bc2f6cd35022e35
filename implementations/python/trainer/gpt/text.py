"""The text: the bytes of a file, sorted into a vocabulary; nine tenths to train on. As `crates/text`."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..command import DATA, Failure
from ..recipe import words

FILES = {"tinyshakespeare.txt": "shakespeare", "babble.txt": "babble"}
SUBFOLDERS = ("", "text", "shakespeare", "../text")
SHA256 = {
    "shakespeare": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    "babble": "72a8f357781d4da091217387c9d0b347cb7138163aba3e292dca94b470fb4a7f",
}


@dataclass(frozen=True)
class Text:
    name: str
    sha256: str
    vocabulary: int
    train: Any  # (tokens,), uint16
    validation: Any


def read(chosen):
    """The text at `chosen`; else at $TRAINMARK_DATA, else in ./data."""
    named = Path(chosen or os.environ.get("TRAINMARK_DATA") or "data")
    if str(named) == "tokens":
        return _tokens()
    path = _find(named)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Failure(DATA, f"{path}: {error}") from error
    sha256 = hashlib.sha256(content).hexdigest()
    known = {digest: name for name, digest in SHA256.items()}
    own = FILES.get(path.name, path.stem)
    name = known.get(sha256) or (f"not-{own}" if own in SHA256 else own)
    vocabulary, tokens = np.unique(np.frombuffer(content, np.uint8), return_inverse=True)
    return _split(name, sha256, len(vocabulary), tokens.astype(np.uint16))


def _split(name, sha256, vocabulary, tokens):
    if len(tokens) < 20:
        raise Failure(DATA, f"{name}: {len(tokens)} characters; a text has at least 20")
    train = len(tokens) * 9 // 10
    return Text(name, sha256, vocabulary, tokens[:train], tokens[train:])


def _find(named):
    if named.is_file():
        return named
    for file in FILES:
        for folder in SUBFOLDERS:
            if (named / folder / file).is_file():
                return named / folder / file
    raise Failure(DATA, f"--data {named}: no text there; name a file, or a folder that holds {next(iter(FILES))}")


def _tokens():
    """`crates/text/src/synthetic.rs`."""
    vocabulary, length = 50_304, 1 << 20
    word = words(50_304, 0, length).astype(np.uint64)
    shift = np.uint64(32)
    cube = (((word * word) >> shift) * word) >> shift
    tokens = ((np.uint64(vocabulary) * cube) >> shift).astype("<u2")
    return _split("tokens", hashlib.sha256(tokens.tobytes()).hexdigest(), vocabulary, tokens)
