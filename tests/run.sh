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
# shellcheck disable=SC2086
cargo test --workspace --no-fail-fast $features 2>&1 | tee "$results"
status=$?
awk '/^test result: / { passed += $4; failed += $6 } END { printf "%d passed, %d failed\n", passed, failed }' "$results"
exit "$status"
