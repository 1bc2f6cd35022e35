#!/usr/bin/env python3
"""tables.py FOLDER...: the tables of records/, from folders of result files.

A folder of suites/frameworks.toml gives ours against the frameworks and against the machine, and so does one of
suites/gpt.toml, with the ratio to the best framework in each round; one of suites/scaling.toml gives the growth with
hidden units, batch, epochs and threads. Medians of the samples that
completed, as the result files have them; ratios are of the medians as they are printed. Where threads are
compared, runs whose round trips between two cores were not the usual ones (METHOD.md, Noise) have a line of
their own. Needs nothing but Python; `measure.sh` here calls it.
"""
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

OURS = "MNISTClassic"
# `FACTOR` of crates/machine/src/round_trip.rs.
FACTOR = 1.6


def load(folder):
    files = sorted(Path(folder).glob("*.json"))
    rows = [json.loads(file.read_text()) for file in files if not file.name.startswith(".")]
    return [row for row in rows if row.get("status") in ("measured", "not_converged")]


def table(title, header, rows):
    if not rows:
        return
    print(f"\n{title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(str(cell) for cell in row) + " |")


def seconds(value):
    return "-" if value is None else f"{value:.{3 if value >= 1 else 4}f}"


def ratio(value, to):
    """Of what is printed, so that readers find the same."""
    return float(seconds(value)) / float(seconds(to))


def dense_flop(row):
    return next((s["dense_flop"] for s in row["samples"] if s.get("dense_flop")), None)


def peak(row):
    """The highest median rate of multiply-adds on as many threads as the row had."""
    cpu = (row.get("capability") or {}).get("cpu")
    if not cpu:
        return None
    threads = (row.get("trainer") or {}).get("threads") or cpu["threads"]
    rates = [rate["flop_per_s"] for rate in cpu["fma"] if rate["threads"] == threads]
    return max(rates, default=None)


def share(row, train_s=None):
    flop, most = dense_flop(row), peak(row)
    if not flop or not most:
        return "-"
    return f"{100 * flop / (train_s or row['timing']['train_s']) / most:.0f} %"


def round_trips(sample):
    seen = sample.get("surroundings") or {}
    figures = [seen.get("round_trip_before_ns"), seen.get("round_trip_after_ns")]
    return [ns for ns in figures if ns is not None]


def usual_round_trip(rows):
    """The median of all that were measured; None if none was."""
    figures = [ns for row in rows for sample in row["samples"] for ns in round_trips(sample)]
    return statistics.median_low(figures) if figures else None


def elsewhere(sample, usual):
    """Whether the two cores were not where they usually are, before the run or after it: the harness's rule."""
    figures = round_trips(sample)
    return bool(figures) and max(figures + [usual]) > FACTOR * min(figures + [usual])


def places(row, usual):
    """A row's runs by where the cores were: words, the samples."""
    done = [s for s in row["samples"] if s["status"] in ("measured", "not_converged")]
    # A run that was repeated for where the cores were still tells what it costs to be there.
    away = [s for s in done if usual and elsewhere(s, usual)]
    home = [s for s in done if s not in away and not s.get("superseded")]
    unknown = [s for s in home if not round_trips(s)]
    home = [s for s in home if s not in unknown]
    figures = [ns for sample in away for ns in round_trips(sample)]
    groups = [
        (f"usual ({usual} ns)", home),
        (f"other ({min(figures)} to {max(figures)} ns)" if figures else "", away),
        ("-", unknown),
    ]
    return [(words, samples) for words, samples in groups if samples]


def frameworks(rows):
    groups = defaultdict(list)
    for row in rows:
        hidden = row["config"].get("hidden_size")
        groups[(row["model"], hidden, row["config"]["epochs"])].append(row)
    body = []
    for (model, hidden, epochs), group in sorted(groups.items(), key=str):
        ours = next((row for row in group if row["executable"] == OURS), None)
        for row in sorted(group, key=lambda row: row["timing"]["train_s"]):
            timing = row["timing"]
            slower = lambda key: "-" if ours is None else f"{ratio(timing[key], ours['timing'][key]):.1f}x"
            name = f"{model} H={hidden}" if hidden else model
            body.append([
                f"{name}, {epochs} epochs", row["executable"], seconds(timing["train_s"]),
                slower("train_s"), seconds(timing["wall_s"]), slower("wall_s"),
                f"{row['metrics']['peak_memory_mb']:.0f}", seconds(timing.get("setup_s")),
                share(row), f"{row['metrics']['test_accuracy_percent']:.2f}", len(row["samples"]),
            ])
    table(
        "Ours against the frameworks and the machine (train: the loop; wall: the whole process; peak: "
        "dense operations over the train loop, of the measured multiply-add peak)",
        ["model", "trainer", "train s", "ours faster", "wall s", "ours faster", "memory MB",
         "set-up s", "of peak", "accuracy %", "runs"],
        body,
    )
    usual = usual_round_trip(rows)
    if usual is not None:
        samples = [s for row in rows for s in row["samples"] if not s.get("superseded") and round_trips(s)]
        away = [f"{'/'.join(map(str, round_trips(s)))}" for s in samples if elsewhere(s, usual)]
        listed = f": before/after {', '.join(away)} ns" if away else ""
        print(f"\nRound trip between two cores: usually {usual} ns; otherwise in {len(away)} of {len(samples)} runs{listed}.")


GPT_OURS = "Trainmark"


def precise(row):
    """Whether a row computes in float32: bf16 is held against bf16 alone."""
    return (row.get("trainer") or {}).get("precision", "float32") != "bf16"


def by_round(row):
    """Seconds of training, by run and round."""
    done = [s for s in row["samples"] if s["status"] in ("measured", "not_converged") and not s.get("superseded")]
    return {((row.get("run") or {}).get("id"), s["round"]): s["timing"]["train_s"] for s in done}


def times_faster(row, others):
    """How many times as fast as the best of the others in the same round: the median, the least and the most."""
    best = defaultdict(list)
    for other in others:
        for place, train_s in by_round(other).items():
            best[place].append(train_s)
    ratios = sorted(min(best[place]) / train_s for place, train_s in by_round(row).items() if best[place])
    if not ratios:
        return "-"
    return f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def of_gpu(row):
    """Memory on the GPU as the trainer counts it, joules of the last sample's GPU, seconds from start to trained."""
    energy = (row.get("meters") or {}).get("device_energy_uj") or {}
    joules = f"{energy['value'] / 1e6:.0f}" if energy.get("valid") and energy.get("value") else "not valid"
    timing, memory = row["timing"], row.get("device_peak_bytes")
    cold = sum(timing.get(part) or 0.0 for part in ("setup_s", "compile_s", "train_s"))
    return [f"{memory / 1e6:,.0f}" if memory else "-", joules, f"{cold:.1f}"]


def gpt(rows):
    body = []
    on_gpu = any(row["backend"] == "cuda" for row in rows)
    for row in sorted(rows, key=lambda row: row["timing"]["train_s"]):
        config, timing, trainer = row["config"], row["timing"], row.get("trainer") or {}
        others = [
            other for other in rows
            if not other["executable"].startswith(GPT_OURS) and precise(other) == precise(row)
        ]
        ours = row["executable"].startswith(GPT_OURS)
        tokens = config["batch_size"] * config["context"] * config["steps"]
        share = (row.get("roofline") or {}).get("share")
        body.append([
            row["executable"], trainer.get("precision") or "-", config["steps"],
            f"{1e3 * timing['train_s'] / config['steps']:.{3 if on_gpu else 2}f}", f"{tokens / timing['train_s']:,.0f}",
            times_faster(row, others) if ours else "",
            "-" if share is None else f"{100 * share:.0f} %",
            seconds(timing["wall_s"]), f"{row['metrics']['peak_memory_mb']:.0f}",
            f"{row['metrics']['val_loss']:.4f}" if row["metrics"].get("val_loss") else "-",
            " ".join(f"{1e3 * train_s / config['steps']:.{3 if on_gpu else 2}f}" for _, train_s in sorted(by_round(row).items())),
        ] + (of_gpu(row) if on_gpu else []))
    threads = sorted({(row.get("trainer") or {}).get("threads") for row in rows} - {None})
    where = "on a GPU" if on_gpu else f"threads {', '.join(map(str, threads)) or '?'}"
    table(
        f"The GPT, {where}. Step and tokens/s: the training loop; faster: than the best framework "
        "of the same precision in the same round, the median of the rounds and their range; peak: operations carried "
        "out, of the measured rate of what the row runs on (AMX in float32: a sixth of its bfloat16 rate); wall: the "
        "whole process, evaluation included" + on_gpu * "; cold: set-up, compilation and training",
        ["trainer", "precision", "steps", "ms a step", "tokens/s", "faster", "of peak", "wall s", "memory MB",
         "val_loss", "ms a step in each round"] + (["GPU MB", "GPU joules", "cold s"] if on_gpu else []),
        body,
    )


def growth(rows, name, key, title):
    groups = defaultdict(list)
    for row in rows:
        if row["executable"] == name:
            groups[row["model"]].append(row)
    body = []
    for model, group in groups.items():
        group.sort(key=lambda row: row["config"][key])
        first = group[0]
        for row in group:
            train = row["timing"]["train_s"]
            times = row["config"][key] / first["config"][key]
            body.append([
                model, row["config"][key], seconds(train),
                f"{ratio(train, first['timing']['train_s']):.2f}x", f"{times:g}x", share(row),
                f"{row['metrics']['peak_memory_mb']:.0f}",
            ])
    table(title, ["model", key, "train s", "time grew", key + " grew", "of peak", "memory MB"], body)


def threads(rows):
    usual = usual_round_trip(rows)
    groups = defaultdict(dict)
    for row in rows:
        if row["executable"] == "by threads":
            groups[(row["model"], row["config"].get("hidden_size"))][row["config"]["threads"]] = row
    body = []
    for (model, hidden), by in groups.items():
        one = by.get(1)
        name = f"{model} H={hidden}" if hidden else model
        for count, row in sorted(by.items()):
            for words, samples in places(row, usual):
                train = statistics.median(s["timing"]["train_s"] for s in samples)
                faster = f"{ratio(one['timing']['train_s'], train):.2f}x" if one else "-"
                body.append([name, count, words, seconds(train), faster, share(row, train), len(samples)])
    table(
        "Threads, also more than the machine has cores; runs by the round trip between two cores just before and "
        "just after, the usual one being the median of all",
        ["model", "threads", "round trip", "train s", "faster than one", "of peak", "runs"],
        body,
    )


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    for folder in sys.argv[1:]:
        rows = load(folder)
        if not rows:
            sys.exit(f"{folder}: no result files of runs that completed")
        if all(row["model"] == "gpt" for row in rows):
            gpt(rows)
        elif any(row["executable"].startswith("by ") for row in rows):
            growth(rows, "by hidden units", "hidden_size", "Hidden units (one thread, an epoch)")
            growth(rows, "by batch", "batch_size", "Batch (one thread, an epoch)")
            growth(rows, "by epochs", "epochs", "Epochs (one thread, H=256)")
            threads(rows)
        else:
            frameworks(rows)


main()
