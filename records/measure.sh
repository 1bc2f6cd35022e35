#!/usr/bin/env bash
# measure.sh FOLDER [PART...]: the tables of a record of this folder, for this machine, as FOLDER/record.md.
#
# The parts, all of them if none is named, and about how long they take on two cores:
#   machine      1 min   multiply-adds and bandwidths
#   frameworks  10 min   ours beside JAX and PyTorch, three rounds; first `trainmark setup JAX PyTorch`
#   scaling      4 min   hidden units, batch and epochs, three rounds; threads, nine
#   threads      1 min   more threads than one, at the same steps in turns
#   densities    1 min   the MLP's two ways of the first layer
#   together     1 min   the start, and trainings beside each other
#   gpt         20 min   the GPT `small` beside every framework, six rounds; first `trainmark setup --suite suites/gpt.toml`
# and those that are measured only where they are named:
#   gpt-cuda    60 min   the GPT's presets on an NVIDIA GPU, in bf16 and float32, six rounds; first `trainmark setup --suite gpt`.
#                        The time is a guess; $GPT_CUDA replaces the list of presets, precisions, steps and rounds
#   devices     30 min   the GPT `char` and GPT-2's layers on one and on two NVIDIA GPUs, six rounds; first `trainmark setup --suite
#                        suites/devices.toml`. It has never run whole: the time is a guess
# Each part leaves FOLDER/PART.md and its result files; one that is measured again replaces only its own.
# MNIST is looked for as the trainer does: $TRAINMARK_DATA, ./data, the user's cache. The GPT's text is the file
# $GPT_DATA, or else what suites/gpt.toml finds. Let nothing else run.
set -euo pipefail
[ $# -ge 1 ] || { sed -n '2,19s/^# \{0,1\}//p' "$0"; exit 2; }
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
cd "$(dirname "$0")/.."
all="machine frameworks scaling threads densities together gpt"
parts=${*:-$all}
all="$all gpt-cuda devices"
if command -v cargo >/dev/null; then # else what was built elsewhere is used
    cargo build --release --quiet --package trainmark --package mnist-classic
    cargo bench --quiet --package trainmark-backend-cpu --no-run
fi
bin=${CARGO_TARGET_DIR:-target}/release

# The seconds that a training says of itself: set-up, and training loop.
train() {
    # shellcheck disable=SC2086 # a model and its options
    "$bin/mnist-classic" --backend cpu --batch 32 --epochs 1 --model $1 --threads "$2" |
        awk '$1 == "ready" { ready = $3 } $1 == "trained" { train = $3 } END { print ready, train }'
}

# The median of a column of numbers.
median() { awk -v column="$1" '{ print $column }' | sort -g | awk '{ x[NR] = $1 } END { print x[int((NR + 1) / 2)] }'; }

machine() {
    printf '## The machine\n\n```\n'
    "$bin/trainmark" machine
    printf '```\n'
}

frameworks() {
    printf '## Beside other frameworks, two threads\n'
    rm -rf "$folder/frameworks"
    # A number of hidden units leaves out the models that have none: two runs.
    for models in 'mlp --hidden 256,512' cnn,attention; do
        # shellcheck disable=SC2086 # words
        "$bin/trainmark" run --suite suites/frameworks.toml --backend cpu --model $models --threads 2 --repeats 3 \
            --trainer 'MNISTClassic,JAX,PyTorch,PyTorch compiled' --out "$folder/frameworks" >&2
    done
    python3 records/tables.py "$folder/frameworks"
}

scaling() {
    printf '## Growth\n'
    rm -rf "$folder/scaling"
    "$bin/trainmark" run --suite suites/scaling.toml --repeats 3 \
        --trainer 'by hidden units,by batch,by epochs' --out "$folder/scaling" >&2
    # More rounds: a host that moves virtual cores makes them differ, and tables.py tells those runs apart.
    "$bin/trainmark" run --suite suites/scaling.toml --repeats 9 --trainer 'by threads' --out "$folder/scaling" >&2
    python3 records/tables.py "$folder/scaling"
}

threads() {
    printf '## Threads at the same steps, in turns\n\n'
    cargo bench --quiet --package trainmark-backend-cpu --bench threads
}

densities() {
    printf '## Dense images: which way the first layer takes\n\n'
    printf 'Seconds of an epoch of 10,000 images, one thread, H=512; medians of five interleaved rounds.\n\n'
    cargo bench --quiet --package trainmark-backend-cpu --bench densities
}

together() {
    printf '## The start, and two trainings at once\n\n'
    printf 'An epoch on two threads by the trainer alone, without the harness; seconds until its first step, and of the\n'
    printf 'training loop, alone and beside another such training; medians of nine, and of both in five.\n\n'
    printf '| model | until the first step | alone | beside another one | times |\n|---|---|---|---|---|\n'
    for model in mlp 'mlp --hidden 256' cnn attention; do
        for _ in 1 2 3 4 5 6 7 8 9; do
            train "$model" 2
        done >"$folder/alone"
        for _ in 1 2 3 4 5; do
            train "$model" 2 >"$folder/first" &
            train "$model" 2 >"$folder/second"
            wait
            cat "$folder/first" "$folder/second"
        done >"$folder/beside"
        alone=$(median 2 <"$folder/alone")
        beside=$(median 2 <"$folder/beside")
        awk -v m="$model" -v r="$(median 1 <"$folder/alone")" -v a="$alone" -v b="$beside" \
            'BEGIN { printf "| %s | %s | %s | %s | %.2fx |\n", m, r, a, b, b / a }'
        rm "$folder/alone" "$folder/first" "$folder/second" "$folder/beside"
    done
}

gpt() {
    printf '## The GPT beside every framework, two threads\n\n'
    # A tenth of the preset's 2,000 steps: a step takes as long whichever it is. tinygrad takes 40 times as long
    # as ours: two rounds of its own, beside ours.
    rm -rf "$folder/gpt" "$folder/gpt-tinygrad"
    mkdir -p "$folder/gpt-tinygrad"
    for_gpt="--suite suites/gpt.toml --backend cpu,mlx --threads 2 --set steps=200 ${GPT_DATA:+--data $GPT_DATA}"
    float32='Trainmark,Trainmark AVX-512,PyTorch,PyTorch compiled,JAX,MLX compiled,NumPy,candle,burn'
    bf16='Trainmark,PyTorch compiled'
    # shellcheck disable=SC2086 # words
    {
        "$bin/trainmark" verify $for_gpt --trainer "$float32,tinygrad" --out "$folder/gpt" >&2
        "$bin/trainmark" verify $for_gpt --set precision=bf16 --trainer "$bf16" --out "$folder/gpt" >&2
        cp "$folder/gpt/verification.json" "$folder/gpt-tinygrad/verification.json"
        "$bin/trainmark" run $for_gpt --repeats 6 --trainer "$float32" --out "$folder/gpt" >&2
        "$bin/trainmark" run $for_gpt --set precision=bf16 --repeats 6 --trainer "$bf16" --out "$folder/gpt" >&2
        "$bin/trainmark" run $for_gpt --repeats 2 --trainer "Trainmark,tinygrad" --out "$folder/gpt-tinygrad" >&2
    }
    python3 records/tables.py "$folder/gpt"
    printf '\nTwo rounds with tinygrad.\n'
    python3 records/tables.py "$folder/gpt-tinygrad"
    "$bin/trainmark" report --reference Trainmark/cpu --input "$folder/gpt" --output "$folder/gpt.json" \
        --markdown "$folder/gpt-report.md" >&2
}

gpt-cuda() {
    printf '## The GPT beside every framework, on an NVIDIA GPU\n\n'
    # PyTorch keeps what it compiled on the disk from one training to the next, and JAX does so if told where.
    export JAX_COMPILATION_CACHE_DIR="$folder/jax-cache"
    rm -rf "$folder/gpt-cuda" "$JAX_COMPILATION_CACHE_DIR"
    # Preset, precision, steps, rounds; the most important first.
    plan=${GPT_CUDA:-char bf16 1000 6
gpt2 bf16 100 6
small bf16 2000 6
char float32 1000 6
small float32 2000 6}
    what="--suite suites/gpt.toml --backend cuda ${GPT_DATA:+--data $GPT_DATA}"
    # Grades need no quiet: side by side.
    while read -r preset precision _; do
        # shellcheck disable=SC2086 # words
        "$bin/trainmark" verify $what --preset "$preset" --set "precision=$precision" \
            --out "$folder/gpt-cuda/$preset-$precision" >&2 &
    done <<<"$plan"
    wait
    while read -r preset precision steps rounds; do
        # shellcheck disable=SC2086 # words
        "$bin/trainmark" run $what --preset "$preset" --set "precision=$precision" --set "steps=$steps" \
            --repeats "$rounds" --out "$folder/gpt-cuda/$preset-$precision" >&2
        printf '\n### %s, %s\n' "$preset" "$precision"
        python3 records/tables.py "$folder/gpt-cuda/$preset-$precision"
    done <<<"$plan"
    "$bin/trainmark" report --reference Trainmark/cuda --input "$folder"/gpt-cuda/* \
        --output "$folder/gpt-cuda.json" --markdown "$folder/gpt-cuda-report.md" >&2
}

devices() {
    printf '## The GPT on one and on two GPUs\n\n'
    rm -rf "$folder/devices"
    on_gpus="--suite suites/devices.toml --backend cuda ${GPT_DATA:+--data $GPT_DATA} --out $folder/devices"
    nvidia-smi topo -m >&2
    for sizes in '' '--preset gpt2'; do
        # shellcheck disable=SC2086 # words
        "$bin/trainmark" verify $on_gpus $sizes >&2
        # shellcheck disable=SC2086 # words
        "$bin/trainmark" run $on_gpus $sizes --repeats 6 >&2
    done
    "$bin/trainmark" report --input "$folder/devices" --output "$folder/devices.json" \
        --markdown "$folder/devices-report.md" >&2
    cat "$folder/devices-report.md"
}

for part in $parts; do
    case " $all " in
    *" $part "*) ;;
    *) echo "error: $part: not a part; there are $all" >&2; exit 2 ;;
    esac
    "$part" >"$folder/$part.new"
    mv "$folder/$part.new" "$folder/$part.md"
done
for part in $all; do
    [ ! -e "$folder/$part.md" ] || { cat "$folder/$part.md"; echo; }
done >"$folder/record.md"
echo "$folder/record.md" >&2
