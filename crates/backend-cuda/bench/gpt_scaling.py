#!/usr/bin/env python3
"""Our GPT on each GPU alone, on all at once but each for itself, on all together with that many times the windows, and on
all together with the same windows, in turns, with clocks and power. All programs stay loaded; each round has a new random
order.

    cargo build --release -p trainmark-backend-cuda --example gpt
    python3 crates/backend-cuda/bench/gpt_scaling.py --gpus 0,1 --record records/NAME.json

*Efficiency* is the rate of all together with that many times the windows, of the sum of the rates of each alone.
*Speed-up* is the mean time of each alone over that of all together with the same windows."""

import argparse
import datetime
import json
import os
import pathlib
import random
import shlex
import statistics
import subprocess
import sys
import threading
import time

from turns import Program, opened

WINDOWS = {"char": 64, "gpt2": 16}
# Of a turn. In its first second a GPU at its power limit is faster than later, and then for some steps slower.
STEPS = {"char": 2500, "gpt2": 300}
TOGETHER = ["at once", "more", "same"]
SMI = ["nvidia-smi", "--format=csv,noheader,nounits"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="target/release/examples/gpt")
    parser.add_argument("--gpus", default="0,1", help="as nvidia-smi counts")
    parser.add_argument("--preset", choices=WINDOWS, default="gpt2")
    parser.add_argument("--steps", type=int, help="of a turn; without it about eight seconds' worth on an H200")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=1, help="of the order of the turns")
    parser.add_argument("--record", type=pathlib.Path, help="where to keep every sample, as JSON")
    args = parser.parse_args()
    if "," not in args.gpus:
        parser.error("--gpus: two are needed at least")
    args.steps = args.steps or STEPS[args.preset]
    return args


class Clocks:
    """SM clocks in MHz, watts and reasons of all GPUs, twenty times a second."""

    def __init__(self):
        query = "--query-gpu=index,clocks.sm,power.draw.instant,clocks_event_reasons.active"
        self.smi = subprocess.Popen([*SMI, query, "-lms", "50"], stdout=subprocess.PIPE, text=True)
        self.seen = []
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        for line in self.smi.stdout:
            gpu, mhz, watts, reasons = line.strip().split(", ")
            if mhz.isdigit() and watts.replace(".", "").isdigit():  # and not [N/A]
                self.seen.append((time.monotonic(), gpu, int(mhz), float(watts), reasons))

    def during(self, gpu, begin, end):
        """After the first quarter of a turn: the mean, lowest and highest clock, the mean power, and NVML's bits for
        why the clock was held down."""
        begin += (end - begin) / 4
        seen = [it[2:] for it in self.seen if it[1] == gpu and begin < it[0] < end]
        if not seen:
            return None
        clocks, watts, reasons = zip(*seen)
        return {"sm_mhz": [statistics.mean(clocks), min(clocks), max(clocks)], "watts": statistics.mean(watts),
                "reasons": sorted(set(reasons))}


def program(args, name, gpus, windows):
    command = [args.program, "time", "--serve", "--preset", args.preset, "--batch", str(windows),
               "--steps", str(args.steps), "--repeats", str(args.rounds), "--device", ",".join(gpus)]
    return Program(name, command, {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})


def turn(name, programs, gpus, clocks):
    begin = time.monotonic()
    for it in programs:
        it.ask()
    answers = [it.answer() for it in programs]
    if None in answers:
        sys.exit(f"{name} has no time")
    end = time.monotonic()
    step_ms = [answer["device_step_ms"] for answer in answers]
    return {"turn": name, "step_ms": step_ms, "gpus": {gpu: clocks.during(gpu, begin, end) for gpu in gpus}}


def efficiency(alone_ms, together_ms):
    """Of as many windows on each GPU."""
    return len(alone_ms) / together_ms / sum(1 / ms for ms in alone_ms)


def speed_up(alone_ms, together_ms):
    """Of the same windows on all GPUs."""
    return statistics.mean(alone_ms) / together_ms


def summary(gpus, rounds):
    """Lines of Markdown."""
    of = lambda name: [max(turn["step_ms"]) for turns in rounds for turn in turns if turn["turn"] == name]
    lines = ["| turn | ms a step | rounds |", "|---|---|---|"]
    for name in [*gpus, *TOGETHER]:
        times = ", ".join(f"{ms:.3f}" for ms in of(name))
        lines.append(f"| {name} | {statistics.median(of(name)):.3f} | {times} |")
    alone = [of(gpu) for gpu in gpus]
    medians = [statistics.median(times) for times in alone]
    for title, name, figure, digits in [("Efficiency", "more", efficiency, ".1%"), ("Speed-up", "same", speed_up, ".2f")]:
        each = [figure(alone_ms, ms) for *alone_ms, ms in zip(*alone, of(name))]
        lines.append(f"\n{title} by the medians {figure(medians, statistics.median(of(name))):{digits}}; round by "
                     f"round {statistics.median(each):{digits}} ({min(each):{digits}} to {max(each):{digits}})")
    return "\n".join(lines)


def main():
    args = arguments()
    gpus, shuffler = args.gpus.split(","), random.Random(args.seed)
    windows = WINDOWS[args.preset]
    programs = [*((gpu, [gpu], windows) for gpu in gpus), ("more", gpus, windows * len(gpus)), ("same", gpus, windows)]
    running = {it.name: it for it in opened(program(args, *it) for it in programs)}
    if len(running) < len(programs):
        sys.exit("not all programs opened")
    turns = {name: [it] for name, it in running.items()} | {"at once": [running[gpu] for gpu in gpus]}
    query = "--query-gpu=index,name,uuid,driver_version,power.limit,clocks.max.sm"
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
        "command": shlex.join(["python3", *sys.argv]), "preset": args.preset, "steps": args.steps,
        "gpus": subprocess.run([*SMI, query], capture_output=True, text=True).stdout.splitlines(),
        "rounds": [],
    }
    clocks = Clocks()
    for _ in range(args.rounds):
        order = shuffler.sample(list(turns), len(turns))
        record["rounds"].append([turn(name, turns[name], gpus, clocks) for name in order])
        if args.record:
            args.record.write_text(json.dumps(record, indent=1) + "\n")
    clocks.smi.kill()
    for it in running.values():
        it.close()
    print(summary(gpus, record["rounds"]))


main()
