#!/usr/bin/env python3
"""Our CUDA plans, PyTorch and JAX on one GPU: the same weights, the same order of samples, float32.

    cargo build --release -p trainmark-backend-cuda --example epochs
    python3 crates/backend-cuda/bench/compare.py --data DIR_WITH_MNIST --record records/NAME.json

All programs stay loaded, and those of a model take turns: each round runs all of them once in a new
random order, one at a time. Of each, `train_s` is the host's clock from the first epoch's start to the
device's last result, compilation and warm-up before it. Prints a table, and keeps every sample."""

import argparse
import contextlib
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

from turns import Program

HERE = pathlib.Path(__file__).resolve().parent
OURS = [("cuda", "fused"), ("cuda", "kernels"), ("cudagraph", "default")]
PYTORCH = [("pytorch", "graph"), ("pytorch", "compiled")]
JAX = [("jax", "scan"), ("jax", "scan-unrolled")]
RATES = {"mlp": 0.01, "cnn": 0.01, "attention": 0.1}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--epochs-program", default="target/release/examples/epochs")
    parser.add_argument("--models", nargs="+", default=list(RATES), choices=list(RATES))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed", type=int, default=1, help="of the order of the programs")
    parser.add_argument("--record", type=pathlib.Path, help="where to keep every sample, as JSON")
    return parser.parse_args()


def start(args, model, contestant, recipe):
    framework, variant = contestant
    common = ["--model", model, "--lr", str(RATES[model]), "--data", str(args.data), "--serve"]
    if framework in ("pytorch", "jax"):
        script = HERE / f"baseline_{framework}.py"
        command = [sys.executable, script, "--variant", variant, "--recipe", recipe, *common]
    else:
        plan = [] if variant == "default" else ["--plan", variant]
        command = [args.epochs_program, "--backend", framework, *plan, *common]
        command += ["--epochs", str(args.epochs)]
    return Program(contestant, command, {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"})


def answer_of(program):
    return program.answer() or sys.exit(1)


CONTESTANTS = OURS + PYTORCH + JAX


def start_all(args, model, recipe):
    subprocess.run([args.epochs_program, "--model", model, "--epochs", str(args.epochs),
                    "--export", recipe, "--data", str(args.data)], check=True)
    return {it: start(args, model, it, recipe) for it in CONTESTANTS}


def stop(running):
    for program in running.values():
        program.close()


def measure(args, model, running, shuffler):
    samples = {it: [] for it in CONTESTANTS}
    for _ in range(args.rounds):
        for it in shuffler.sample(CONTESTANTS, len(CONTESTANTS)):
            running[it].ask()
            samples[it].append(answer_of(running[it]))
    rows = []
    for (framework, variant), lines in samples.items():
        of = lambda key: [line[key] for line in lines if key in line]
        rows.append({
            "model": model, "framework": framework, "variant": variant,
            "median_train_s": statistics.median(of("train_s")),
            "median_device_s": statistics.median(of("device_s")) if of("device_s") else None,
            "accuracy_percent": lines[-1]["accuracy_percent"], "loss": lines[-1]["loss"],
            "device_peak_bytes": lines[-1].get("device_peak_bytes"),
            "train_s": of("train_s"), "device_s": of("device_s"),
        })
    return rows


def best(rows, of):
    return min((row for row in rows if (row["framework"], row["variant"]) in of),
               key=lambda row: row["median_train_s"])


def table(rows):
    lines = ["| model | program | train ms | device ms | accuracy % | of best PyTorch | of best JAX |",
             "|---|---|---|---|---|---|---|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        torch, jax = (best(of_model, of)["median_train_s"] for of in (PYTORCH, JAX))
        for row in of_model:
            device_s = row["median_device_s"]
            device = "" if device_s is None else f"{1e3 * device_s:.1f}"
            train_s = row["median_train_s"]
            lines.append(
                f"| {model} | {row['framework']} {row['variant']} | {1e3 * train_s:.1f} | {device} "
                f"| {row['accuracy_percent']:.2f} | {torch / train_s:.1f}x | {jax / train_s:.1f}x |")
    return "\n".join(lines)


def surroundings():
    query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
    gpu = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"],
                         capture_output=True, text=True).stdout.strip()
    versions = "import torch, jax; print(torch.__version__, torch.version.cuda, jax.__version__)"
    torch, cuda, jax = subprocess.run([sys.executable, "-c", versions], capture_output=True,
                                      text=True).stdout.split()[-3:]
    return {"gpu": dict(zip(query.split(","), gpu.split(", "))), "pytorch": f"{torch} (CUDA {cuda})",
            "jax": jax, "date": datetime.datetime.now(datetime.timezone.utc).isoformat("T", "seconds"),
            "command": shlex.join(["python3", *sys.argv])}


def main():
    args = arguments()
    shuffler = random.Random(args.seed)
    record = {**surroundings(), "batch": 32, "epochs": args.epochs, "rounds": args.rounds, "rows": []}
    with contextlib.ExitStack() as stack:
        running = {}
        for model in args.models:
            folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            running[model] = start_all(args, model, folder)
            stack.callback(stop, running[model])
        for of_model in running.values(): # all compile at once; nothing is timed before all are ready
            for program in of_model.values():
                answer_of(program)
        for model, of_model in running.items():
            record["rows"] += measure(args, model, of_model, shuffler)
            print(table(record["rows"]), flush=True)
            if args.record:  # after each model: what was measured is kept
                args.record.write_text(json.dumps(record, indent=1) + "\n")


main()
