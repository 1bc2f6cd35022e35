"""A run: set up, compile and warm up, train on the clock, evaluate; each of them reported apart, in lines for
people and, where a harness listens, in events (crates/protocol/src/event.rs)."""

import dataclasses
import os
import time
from pathlib import Path

import numpy as np

from .. import BEGAN, VERSION, run, weights
from ..command import DATA, FAILURE, NOT_FINITE, Failure
from ..run import FINAL, INITIAL, LOSSES, ORDER, event
from . import recipe, text as texts


def main(command, devices, open_session):
    run.main(command, devices, open_session, _run)


def _run(command, devices, open_session):
    devices(command.backend)  # raises Unavailable
    text = texts.read(command.data)
    shape = command.shape
    if shape.vocabulary is None:
        shape = dataclasses.replace(shape, vocabulary=text.vocabulary)
    elif text.vocabulary > shape.vocabulary:
        raise Failure(DATA, f"{text.name}: {text.vocabulary} tokens for a vocabulary of {shape.vocabulary}")
    if len(text.train) <= shape.context:
        raise Failure(DATA, f"{text.name}: {len(text.train)} tokens for windows of {shape.context} and a target")
    if folder := os.environ.get("TRAINMARK_VERIFY"):
        session = open_session(command, shape, text.train)
        _verify(command, session, shape, Path(folder))
        return session.close()
    initial = recipe.initial_parameters(shape, command.seed)
    session = open_session(command, shape, text.train)
    setup_s = time.perf_counter() - BEGAN

    clock = time.perf_counter()
    session.set_parameters(initial)
    session.warm_up(*_stretch(command, shape, text, 0, min(command.report_every, command.steps)))
    session.predict(np.zeros((command.batch, shape.context), np.int64))
    session.set_parameters(initial)
    compile_s = time.perf_counter() - clock
    _announce(command, session, shape, text, setup_s, compile_s)
    _train(command, session, shape, text)
    session.close()


def _stretch(command, shape, text, first, count):
    """The arguments of `Session.train` for some steps."""
    places = len(text.train) - shape.context
    starts = recipe.windows(command.seed, first, count, command.batch, places)
    return _share(command, starts), recipe.rates(command, first, count)


def _share(command, starts):
    """This rank's windows of each step."""
    share = command.batch // command.rank.count
    return np.ascontiguousarray(starts[:, command.rank.number * share :][:, :share])


def _train(command, session, shape, text):
    train_s = done = 0
    while done < command.steps:
        count = min(command.report_every - done % command.report_every, command.steps - done)
        if command.eval_every:
            count = min(count, command.eval_every - done % command.eval_every)
        # The recipe is drawn off the clock: it is not the framework's work.
        starts, rates = _stretch(command, shape, text, done, count)
        session.meet()  # the first rank may have evaluated meanwhile
        clock = time.perf_counter()
        losses = session.train(starts, rates)
        seconds = time.perf_counter() - clock
        train_s += seconds
        bad = np.flatnonzero(~np.isfinite(losses))
        if bad.size:
            raise Failure(NOT_FINITE, f"loss is not finite at step {done + bad[0] + 1}")
        done += count
        if command.rank.number > 0:
            continue
        loss, more, said = float(np.mean(losses, dtype=np.float64)), {}, ""
        if command.eval_every and done % command.eval_every == 0 and done < command.steps:
            value = _validation_loss(command, session, shape, text)
            more, said = {"metrics": {"val_loss": value}}, f"   val_loss {value:.4f}"
        print(f"step {done} loss {loss:.4f}   {seconds:.3f} s{said}", flush=True)
        event("progress", step=done, seconds=train_s, loss=loss, **more)
    _conclude(command, session, shape, text, train_s)


def _conclude(command, session, shape, text, train_s):
    tokens = command.steps * command.batch * shape.context
    flop = recipe.flop_per_token(shape) * tokens
    ranks = command.rank.count
    event(
        "trained", train_s=train_s, steps=command.steps, work=tokens / ranks, dense_flop=flop / ranks,
        **session.measured(),
    )
    if command.rank.number > 0:
        return session.meet()  # until the first one has evaluated
    clock = time.perf_counter()
    predictions = command.predictions or os.environ.get("TRAINMARK_PREDICTIONS")
    try:
        loss = _validation_loss(command, session, shape, text, predictions)
    except OSError as error:
        raise Failure(FAILURE, f"cannot write the predictions, {predictions}: {error}") from error
    eval_s = time.perf_counter() - clock
    event("evaluated", eval_s=eval_s, metrics={"val_loss": loss})
    print(f"trained   in {train_s:.3f} s: {command.steps:,} steps, {1e3 * train_s / command.steps:.3f} ms each, "
          f"{tokens / train_s:,.0f} tokens/s, {1e-9 * flop / train_s:.1f} GFLOP/s")
    print(f"evaluated in {eval_s:.3f} s: {len(text.validation) - 1:,} positions, each once")
    print(f"val_loss {loss:.4f}", flush=True)
    session.meet()


def _validation_loss(command, session, shape, text, predictions=None):
    """The mean loss over every validation token but the first (crates/text/src/validation.rs)."""
    inputs, targets = text.validation[:-1].astype(np.int64), text.validation[1:].astype(np.int64)
    piece = command.batch * shape.context  # one compiled shape: the last is filled up
    total, file = 0.0, open(predictions, "wb") if predictions else None
    for begin in range(0, len(inputs), piece):
        given = inputs[begin : begin + piece]
        filled = np.zeros(piece, np.int64)
        filled[: len(given)] = given
        logits = session.predict(filled.reshape(command.batch, shape.context))
        logits = np.asarray(logits, np.float32).reshape(piece, shape.vocabulary)[: len(given)]
        if file:
            file.write(logits.astype("<f4").tobytes())
        shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
        chosen = shifted[np.arange(len(given)), targets[begin : begin + piece]]
        total += float(np.sum(np.log(np.exp(shifted).sum(1)) - chosen))
    if file:
        file.close()
    return total / len(inputs)


def _verify(command, session, shape, folder):
    """The given steps instead of a training, for the harness to compare."""
    initial = weights.load(folder / INITIAL, recipe.shapes(shape))
    try:
        starts = np.frombuffer((folder / ORDER).read_bytes(), "<u4").astype(np.int64)
        starts = starts.reshape(-1, command.batch)
    except (OSError, ValueError) as error:
        raise Failure(DATA, f"cannot read {folder / ORDER}: {error}") from error
    stretch = _share(command, starts), recipe.rates(command, 0, len(starts))
    # As before a training: what is captured or compiled there is what is compared.
    session.set_parameters(initial)
    session.warm_up(*stretch)
    session.set_parameters(initial)
    losses = session.train(*stretch)
    if command.rank.number > 0:
        return session.meet()
    weights.replace(folder / LOSSES, np.asarray(losses, "<f4").tobytes())
    parameters, first, second = session.state()
    tensors = {name: parameters[name] for name, _ in recipe.shapes(shape)}
    tensors |= {f"exp_avg.{name}": values for name, values in first.items()}
    tensors |= {f"exp_avg_sq.{name}": values for name, values in second.items()}
    weights.save(folder / FINAL, tensors)
    session.meet()


def _announce(command, session, shape, text, setup_s, compile_s):
    parameters = sum(int(np.prod(sizes)) for _, sizes in recipe.shapes(shape))
    threads = session.threads or command.threads
    ranks = command.rank.count if command.rank.count > 1 else None
    event(
        "started", protocol=2, version=session.version or VERSION, device=session.device, path=session.path,
        threads=threads, precision=command.precision, parameters=parameters, compiled=command.compile, ranks=ranks,
    )
    event("dataset", name=text.name, sha256=text.sha256)
    event("ready", setup_s=setup_s, compile_s=compile_s)
    if command.rank.number > 0:
        return
    compiled = ", compiled" if command.compile else ""
    print(f"model     gpt, {shape.layers} layers, {shape.heads} heads, width {shape.width}, context "
          f"{shape.context}, {shape.vocabulary:,} tokens, {parameters:,} parameters")
    print(f"data      {text.name}: {len(text.train):,} training and {len(text.validation):,} validation tokens")
    print(f"backend   {command.backend}: {session.device}, {session.path}, {threads} threads, "
          f"{command.precision}{compiled}")
    print(f"training  {command.steps:,} steps of {command.batch} windows, learning rate "
          f"{command.learning_rate} after {command.warmup} steps, seed {command.seed}")
    print(f"ready     in {setup_s:.3f} s, compiled and warm in {compile_s:.3f} s", flush=True)
