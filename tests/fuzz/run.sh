#!/bin/bash
# Looks for inputs that break a promise, with AddressSanitizer, and keeps what reaches code that no kept input does.
#
#   tests/fuzz/run.sh SECONDS [TARGET...]      all targets without any named, one after the other
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:?tests/fuzz/run.sh SECONDS [TARGET...]}
shift
corpora=$PWD/../corpora
[ $# -gt 0 ] || mapfile -t targets < <(ls "$corpora")
[ $# -gt 0 ] && targets=("$@")

# What cargo-fuzz passes, without it: coverage for libFuzzer, and the sanitiser.
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares -Zsanitizer=address --cfg fuzzing"
cargo +nightly build --release --target x86_64-unknown-linux-gnu --target-dir ../../target/fuzz

fuzzer=$PWD/../../target/fuzz/x86_64-unknown-linux-gnu/release/culvert-fuzz
for target in "${targets[@]}"; do
  found=../../target/fuzz/found/$target
  mkdir -p "$found"
  printf '== %s\n' "$target"
  CULVERT_FUZZ=$target "$fuzzer" -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=4096 \
    -print_final_stats=1 -artifact_prefix="$found/failure-" "$found" "$corpora/$target"
  # Of what was found only what no kept input reaches joins the corpus.
  CULVERT_FUZZ=$target "$fuzzer" -set_cover_merge=1 -max_len=1024 "$corpora/$target" "$found"
done
