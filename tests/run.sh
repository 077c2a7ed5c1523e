#!/bin/bash
# Builds and runs every test of the workspace, and ends with how many there were.
set -uo pipefail
cd "$(dirname "$0")/.."

# The same features in both, or the second would build the binary anew without them.
features="--features culvert/fingerprint"
# shellcheck disable=SC2086 # one word an option
cargo build --package culvert --package culvert-charon-plugin $features || exit 1
export CULVERT_BIN="$PWD/target/debug/culvert"
export CULVERT_PYTHON="$PWD/target/python/bin/python"

results=$(mktemp)
trap 'rm -f "$results"' EXIT
# Each laboratory is searched for the secrets that it used before it goes.
export CULVERT_CANARY="$PWD/target/canary"
rm -rf "$CULVERT_CANARY"
mkdir -p "$CULVERT_CANARY"
# shellcheck disable=SC2086
cargo test --workspace --no-fail-fast $features 2>&1 | tee "$results"
status=$?
awk '/^test result: / { passed += $4; failed += $6 } END { printf "%d passed, %d failed\n", passed, failed }' "$results"

# And what the suite has written, with what a crash or a killed test has left.
mapfile -t left < <(find . ./tests ./gateway ./mgmt -maxdepth 1 -type f \( -name core -o -name 'core.*' \))
cargo run --quiet --package culvert-netlab --example canary -- "$CULVERT_CANARY" "$results" "${left[@]}" || status=1
exit "$status"
