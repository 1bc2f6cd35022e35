"""A run: set up, compile and warm up, train epoch by epoch on the clock, test; each of them reported
apart, in lines for people and, where a harness listens, in events (crates/protocol/src/event.rs)."""

import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

from . import BEGAN, VERSION, dataset, recipe, weights
from .command import (
    DATA, FAILURE, INTERRUPTED, NOT_FINITE, UNAVAILABLE, Failure, Rank, Unavailable, fail,
)
from .session import Job

RANK = Rank.of_environment()

# What a verification puts into its folder and expects there (crates/protocol/src/verify.rs).
INITIAL, ORDER, LOSSES, FINAL = "initial.safetensors", "order.u32", "losses.f32", "final.safetensors"


def main(command, devices, open_session, train=None):
    """`train` is what a run does, of the MNIST models if none is given; whatever ends it has its exit code."""
    try:
        if command.probe:
            probe(command, devices)
        else:
            (train or _train)(command, devices, open_session)
        sys.stdout.flush()
    except Failure as failure:
        fail(failure)
    except Unavailable as reason:
        fail(Failure(UNAVAILABLE, f"{command.backend}: {reason}"))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # whoever reads has gone, and knows it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILURE)


def probe(command, devices):
    """Prints what this machine can do."""
    backends = []
    for backend in command.backends:
        entry = {"backend": backend, "models": list(command.models), "devices": []}
        try:
            entry["devices"] = [vars(device) for device in devices(backend)]
        except Unavailable as reason:
            entry["unavailable"] = str(reason)
        backends.append(entry)
    found = {"trainer": command.trainer, "version": VERSION, "backends": backends}
    print(json.dumps(found, indent=2))


def _train(command, devices, open_session):
    devices(command.backend)  # raises Unavailable
    if command.save is not None and not command.save.resolve().parent.is_dir():
        raise Failure(FAILURE, f"cannot write --save {command.save}: there is no such folder")
    data = dataset.read(command.data)
    verification = os.environ.get("TRAINMARK_VERIFY")
    initial = _initial(command, verification)
    job = Job(
        model=command.model, sizes=command.sizes, backend=command.backend, compile=command.compile,
        threads=command.threads, batch=command.batch, learning_rate=command.learning_rate,
        images=data.images, labels=data.labels,
    )
    session = open_session(job)
    if verification:
        return _verify(session, initial, Path(verification))
    setup_s = time.perf_counter() - BEGAN

    compile_s = _warm_up(session, command, data, initial)
    _announce(command, session, data, initial, setup_s, compile_s)
    train_s = 0.0
    for epoch in range(command.epochs):
        # The recipe's order is drawn off the clock: it is not the framework's work, and this loop in
        # Python takes longer than any framework's own permutation would.
        order = recipe.order(len(data.images), command.seed, epoch)
        clock = time.perf_counter()
        losses = session.train(order)
        seconds = time.perf_counter() - clock
        train_s += seconds
        _report_epoch(command, session, data, epoch + 1, losses, seconds)
    _conclude(command, session, data, train_s)


def _initial(command, verification):
    shapes = recipe.shapes(command.model, command.sizes)
    if verification:
        return weights.load(Path(verification) / INITIAL, shapes)
    if command.load is not None:
        return weights.load(command.load, shapes)
    return recipe.initial_parameters(command.model, command.sizes, command.seed)


def _warm_up(session, command, data, initial):
    """Compiles, and trains and predicts a little with weights that are then thrown away."""
    clock = time.perf_counter()
    session.set_parameters(initial)
    order = recipe.order(len(data.images), command.seed, 0)
    session.warm_up(order)
    _predict(session, data.images[:1])
    session.set_parameters(initial)
    return time.perf_counter() - clock


def _verify(session, initial, folder):
    """The given steps instead of a training, for the harness to compare."""
    session.set_parameters(initial)
    try:
        order = np.frombuffer((folder / ORDER).read_bytes(), "<u4").astype(np.int64)
    except (OSError, ValueError) as error:
        raise Failure(DATA, f"cannot read {folder / ORDER}: {error}") from error
    losses = np.asarray(session.train(order), "<f4")
    weights.replace(folder / LOSSES, losses.tobytes())
    weights.save(folder / FINAL, session.parameters())


def _announce(command, session, data, initial, setup_s, compile_s):
    parameters = sum(values.size for values in initial.values())
    threads = session.threads or command.threads
    steps = -(-len(data.images) // command.batch)
    compiled = ", compiled" if command.compile else ""
    sizes = "".join(f", {name} {size}" for name, size in command.sizes.items())
    print(f"model     {command.model}{sizes}, {parameters:,} parameters")
    print(f"data      {data.name}: {len(data.images):,} training and {len(data.test_images):,} test images")
    print(f"backend   {command.backend}: {session.device}, {session.path}, {threads} threads, "
          f"{session.precision}{compiled}")
    print(f"training  {command.epochs} epochs of {steps:,} steps, batch {command.batch}, "
          f"learning rate {command.learning_rate}, seed {command.seed}")
    print(f"ready     in {setup_s:.3f} s, compiled and warm in {compile_s:.3f} s", flush=True)
    event(
        "started", protocol=1, version=session.version, device=session.device, path=session.path,
        threads=threads, precision=session.precision, parameters=parameters, compiled=command.compile,
    )
    event("dataset", name=data.name, sha256=data.sha256)
    event("ready", setup_s=setup_s, compile_s=compile_s)


def _report_epoch(command, session, data, epoch, losses, seconds):
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        raise Failure(NOT_FINITE, f"loss is not finite at epoch {epoch}, step {bad[0] + 1}")
    sizes = np.full(len(losses), command.batch, np.float64)
    sizes[-1] = len(data.images) - command.batch * (len(losses) - 1)
    loss = float(np.dot(losses.astype(np.float64), sizes) / sizes.sum())
    more = {}
    if command.eval_each_epoch:
        more["accuracy_percent"] = _accuracy(_predict(session, data.test_images), data.test_labels)
    tested = "".join(f"   {percent:.2f} %" for percent in more.values())
    print(f"epoch {epoch}/{command.epochs}   loss {loss:.4f}   {seconds:.3f} s{tested}", flush=True)
    event("epoch", epoch=epoch, loss=loss, seconds=seconds, **more)


def _conclude(command, session, data, train_s):
    samples = command.epochs * len(data.images)
    steps = command.epochs * -(-len(data.images) // command.batch)
    flop = recipe.dense_flop(command.model, command.sizes, samples, steps)
    event("trained", train_s=train_s, steps=steps, work=samples, dense_flop=flop, **session.measured())
    clock = time.perf_counter()
    labels = _predict(session, data.test_images)
    eval_s = time.perf_counter() - clock
    accuracy = _accuracy(labels, data.test_labels)
    if predictions := os.environ.get("TRAINMARK_PREDICTIONS"):
        try:
            Path(predictions).write_bytes(labels.tobytes())
        except OSError as error:
            raise Failure(FAILURE, f"cannot write $TRAINMARK_PREDICTIONS: {error}") from error
    event("evaluated", eval_s=eval_s, accuracy_percent=accuracy)
    if command.save is not None:
        weights.save(command.save, session.parameters())
    print(f"trained   in {train_s:.3f} s: {steps:,} steps, {1e6 * train_s / steps:.1f} us each")
    print(f"tested    in {eval_s:.3f} s")
    print(f"Test Accuracy: {accuracy:.2f}%")


def _predict(session, images):
    """Labels, uint8, in pieces of one size: the last is filled up with black images."""
    labels = []
    for begin in range(0, len(images), recipe.PREDICT_BATCH):
        piece = images[begin : begin + recipe.PREDICT_BATCH]
        filled = np.zeros((recipe.PREDICT_BATCH, 784), np.uint8)
        filled[: len(piece)] = piece
        labels.append(np.asarray(session.predict(filled)).astype(np.uint8)[: len(piece)])
    return np.concatenate(labels)


def _accuracy(labels, truth):
    return float(100 * np.mean(labels == truth))


def event(kind, /, **keys):
    """A line for the harness, where one listens."""
    if "TRAINMARK_PROTOCOL" in os.environ:
        known = {key: value for key, value in keys.items() if value is not None}
        if RANK.count > 1:
            known["rank"] = RANK.number
        assert all(math.isfinite(value) for value in known.values() if isinstance(value, float))
        print(":::TRAINMARK " + json.dumps({"event": kind, **known}), flush=True)
