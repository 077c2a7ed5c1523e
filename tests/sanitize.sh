#!/bin/bash
# Runs tests under what sees more than they do. Miri interprets what is built on raw memory: buffers, forwarding tables,
# and how readers and the writer of those meet. ThreadSanitizer watches what workers and the control thread share,
# AddressSanitizer drivers, TAPs and charon's plugin.
#
#   tests/sanitize.sh [miri|thread|address]...      all three, some 20 minutes on two cores, without any named
set -euo pipefail
cd "$(dirname "$0")/.."

rustup toolchain install nightly --profile minimal --component miri --component rust-src

target=x86_64-unknown-linux-gnu
[ $# -gt 0 ] || set -- miri thread address
for tool; do
  printf '== %s\n' "$tool"
  case $tool in
    miri)
      MIRIFLAGS='-Zmiri-disable-isolation -Zmiri-permissive-provenance' \
        cargo +nightly miri test --target-dir target/miri --package culvert-dataplane --lib -- \
        buffer:: fib::epoch the_longest_prefix readers_see sharded::
      ;;
    # The standard library must be watched, too. Random cases are few: each thread interleaves anew in any of them.
    thread)
      RUSTFLAGS=-Zsanitizer=thread TSAN_OPTIONS=exitcode=66 PROPTEST_CASES=16 \
        cargo +nightly test -Zbuild-std --target $target --target-dir target/thread --package culvert-dataplane
      ;;
    address)
      # Of the plugin what needs no charon, which has no AddressSanitizer.
      # Leaks are not looked for: what describes the nodes that tests make up lives for ever.
      export RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 PROPTEST_CASES=16
      options="--target $target --target-dir target/address"
      # shellcheck disable=SC2086 # one word an option
      cargo +nightly test $options --package culvert-dataplane --package culvert-tap-inject --lib --tests
      # shellcheck disable=SC2086
      cargo +nightly test $options --package culvert-charon-plugin --lib
      unset RUSTFLAGS ASAN_OPTIONS PROPTEST_CASES
      ;;
    *)
      echo "tests/sanitize.sh: $tool is none of miri, thread, address" >&2
      exit 2
      ;;
  esac
done
