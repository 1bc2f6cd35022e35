#!/usr/bin/env python3
"""Our GPT, PyTorch's and JAX's on one GPU: the same parameters, the same windows, in turns.

    cargo build --release -p trainmark-backend-cuda --example gpt
    python3 crates/backend-cuda/bench/gpt_compare.py --record records/NAME.json

All programs of a job stay loaded; each round runs all of them once in a new random order, one at a
time. Compilation and warm-up come before the clock. Prints a table, and keeps every sample."""

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
import tempfile

from turns import Program, opened

HERE = pathlib.Path(__file__).resolve().parent
STEPS = {"small": 400, "char": 60, "gpt2": 12}
JOBS = ["small-bf16", "char-bf16", "gpt2-bf16", "small-float32"]
CONTESTANTS = [("cuda", "default"), ("pytorch", "graph"), ("pytorch", "compiled"), ("jax", "default")]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="target/release/examples/gpt")
    parser.add_argument("--jobs", nargs="+", default=JOBS, help="PRESET-PRECISION")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the order of the programs")
    parser.add_argument("--record", type=pathlib.Path, help="where to keep every sample, as JSON")
    return parser.parse_args()


def program(args, preset, precision, contestant, folder):
    framework, variant = contestant
    common = ["--preset", preset, "--precision", precision, "--steps", str(STEPS[preset]),
              "--repeats", str(args.rounds), "--serve"]
    if framework == "cuda":
        command = [args.program, "time", *common]
    else:
        script = HERE / f"gpt_{framework}.py"
        command = [sys.executable, script, "--variant", variant, "--folder", folder, *common]
    return Program(contestant, command, {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"})


def measure(args, job, folder, shuffler):
    preset, precision = job.split("-")
    contestants = [it for it in CONTESTANTS if precision == "bf16" or it[0] != "jax"]
    subprocess.run([args.program, "export", "--preset", preset, "--steps", str(STEPS[preset]),
                    "--repeats", str(args.rounds), "--out", folder], check=True)
    running = opened([program(args, preset, precision, it, folder) for it in contestants])
    samples = {it.name: [] for it in running}
    for _ in range(args.rounds):
        for it in shuffler.sample(running, len(running)):
            it.ask()
            if line := it.answer():
                samples[it.name].append(line)
    for it in running:
        it.close()
    rows = []
    for (framework, variant), lines in samples.items():
        of = lambda key: [line[key] for line in lines if key in line]
        if lines:
            rows.append({
                "job": job, "framework": framework, "variant": variant,
                "version": lines[0]["version"], "median_step_ms": statistics.median(of("step_ms")),
                "first_losses": lines[-1]["first_losses"], "last_loss": lines[-1]["last_loss"],
                "memory_bytes": lines[-1]["memory_bytes"], "step_ms": of("step_ms"),
                "device_step_ms": of("device_step_ms"),
            })
    return rows


def table(rows):
    lines = ["| job | program | ms a step | last loss | memory GB | of best PyTorch | of JAX |",
             "|---|---|---|---|---|---|---|"]
    for row in rows:
        best = lambda framework: min((it["median_step_ms"] for it in rows if it["framework"] == framework
                                      and it["job"] == row["job"]), default=float("nan"))
        step_ms = row["median_step_ms"]
        lines.append(
            f"| {row['job']} | {row['framework']} {row['variant']} | {step_ms:.4f} "
            f"| {row['last_loss']:.4f} | {row['memory_bytes'] / 1e9:.2f} "
            f"| {best('pytorch') / step_ms:.2f}x | {best('jax') / step_ms:.2f}x |")
    return "\n".join(lines)


def surroundings():
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    gpu = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                         capture_output=True, text=True).stdout.strip()
    return {"gpu": dict(zip(query.split(","), gpu.split(", "))),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
            "command": shlex.join(["python3", *sys.argv])}


def main():
    args = arguments()
    shuffler = random.Random(args.seed)
    record = {**surroundings(), "rounds": args.rounds, "steps": STEPS, "rows": []}
    for job in args.jobs:
        with tempfile.TemporaryDirectory() as folder:
            record["rows"] += measure(args, job, pathlib.Path(folder), shuffler)
        print(table(record["rows"]), flush=True)
        if args.record:  # after each job: what was measured is kept
            args.record.write_text(json.dumps(record, indent=1) + "\n")


main()
