#!/usr/bin/env bash
# Trains every row of the suite at a base commit and at the checked out one, in turns on this machine,
# and compares. In turns, because a runner's speed drifts within minutes and differs from the next
# one's by more than most changes: yesterday's numbers of another runner say nothing.
#
# Takes variables: BASE (a commit), SUITE (a file, may be empty), RUN_ARGS (words for `trainmark run`),
# ROUNDS, METRIC, GATE, LEG (the matrix's values as JSON, or null), OUT (a folder to make). Says what it
# found in $GITHUB_OUTPUT.
set -euo pipefail

fail() { echo "::error::$*" >&2; exit 1; }

# Such a job has the repository's token and secrets, and what is trained here is the pull request's code.
[ "${GITHUB_EVENT_NAME:-}" != pull_request_target ] ||
    fail "pull_request_target would run a pull request's code with the repository's rights: use pull_request"
[ -n "${BASE:-}" ] || fail "base: there is no commit to compare with: name one"
base=$(git rev-parse --quiet --verify "$BASE^{commit}") ||
    fail "base $BASE: is not in this clone: check out with fetch-depth: 0"
[[ "${ROUNDS:-}" =~ ^[1-9][0-9]*$ ]] || fail "rounds ${ROUNDS:-}: is not a positive number"

mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
head_tree=$(git rev-parse --show-toplevel)
base_tree=$OUT/base-tree
git worktree add --quiet --force --detach "$base_tree" "$base"
trap 'git worktree remove --force "$base_tree"' EXIT

words=()
read -r -d '' -a words <<<"${RUN_ARGS:-}" || true
[ -z "${SUITE:-}" ] || words+=(--suite "$SUITE")

# One round of one side. A row that fails is a result like any other; the comparison judges it.
train() {
    (cd "$2" && trainmark run --out "$OUT/$1" ${words[@]+"${words[@]}"} </dev/null) ||
        echo "::warning::$1: not every row completed in this round"
}
for ((round = 1; round <= ROUNDS; round++)); do
    echo "::group::Round $round of $ROUNDS"
    # Who goes first changes, so that neither always follows the other.
    if ((round % 2)); then
        train base "$base_tree"; train head "$head_tree"
    else
        train head "$head_tree"; train base "$base_tree"
    fi
    echo "::endgroup::"
done

comparison=$OUT/comparison.md
code=0
trainmark compare "$OUT/base" "$OUT/head" ${METRIC:+--metric "$METRIC"} --gate "$GATE" --format markdown >"$comparison" || code=$?
# An error says so on standard error and prints no comparison.
[ -s "$comparison" ] || fail "the two sides could not be compared: see above"
case $code in
    0) conclusion=pass ;;
    1) conclusion=regression ;;
    75) conclusion=inconclusive ;;
    *) fail "trainmark compare ended with $code: see above" ;;
esac
{
    echo
    leg=$(tr -d '\n`' <<<"${LEG:-null}" | tr -s ' ')
    [ "$leg" = null ] || printf "\`%s\`: " "$leg"
    echo "\`${base:0:10}\` against \`$(git rev-parse --short=10 HEAD)\`, $ROUNDS rounds in turns on one machine, gate $GATE."
} >>"$comparison"
cat "$comparison"
{
    echo "conclusion=$conclusion"
    # As before there were three: `true` or `false`.
    for word in regression inconclusive; do
        [ "$conclusion" = "$word" ] && echo "$word=true" || echo "$word=false"
    done
    echo "comparison=$comparison"
    echo "results=$OUT"
} >>"$GITHUB_OUTPUT"
