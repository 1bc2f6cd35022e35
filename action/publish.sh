#!/usr/bin/env bash
# Shows a comparison in the job's summary and, once, on the pull request: a later run replaces its own
# earlier comment.
#
# Takes variables: COMPARISON (a Markdown file), COMMENT (true or not), PULL_REQUEST (its number or
# nothing), SUITE and LEG as compare.sh, GH_TOKEN, and GitHub's own.
set -euo pipefail

cat "$COMPARISON" >>"$GITHUB_STEP_SUMMARY"
[ "${COMMENT:-}" = true ] && [ -n "${PULL_REQUEST:-}" ] || exit 0

# By this line the comment is found again. Each job, each leg of its matrix and each suite has its own. A
# digest, since a name could end the comment.
place=$(printf '%s\n' "${GITHUB_WORKFLOW:-}" "${GITHUB_JOB:-}" "${SUITE:-}" "${LEG:-}" | git hash-object --stdin)
marker="<!-- trainmark $place -->"
body=$(mktemp)
trap 'rm -f "$body"' EXIT
# GitHub takes 65,536 characters.
{
    echo "$marker"
    head -c 60000 "$COMPARISON"
    [ "$(wc -c <"$COMPARISON")" -le 60000 ] || printf '\n\nCut: the whole is in the summary of the job.\n'
} >"$body"

comments="repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments"
publish() {
    local id
    # Only what a bot wrote is replaced: anybody may write a comment that begins like ours.
    id=$(MARKER=$marker gh api --paginate "$comments" \
        --jq '.[] | select(.user.type == "Bot" and (.body | startswith(env.MARKER))) | .id' | head -n 1) || return
    if [ -n "$id" ]; then
        gh api --silent --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$id" --field "body=@$body"
    else
        gh api --silent --method POST "$comments" --field "body=@$body"
    fi
}
publish || echo "::warning::no comment: the token may not write to pull requests (those from forks never may); the comparison is in the job's summary"
