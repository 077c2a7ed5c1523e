#!/bin/sh
# Holds dependencies to deny.toml. Advisories are checked where their database is on the machine; it is not fetched.
set -eu

version=0.20.2
tools=target/tools
if command -v cargo-deny >/dev/null; then
    deny=cargo-deny
else
    deny=$tools/bin/cargo-deny
    # Unoptimised: it runs for a second and would compile for minutes.
    [ -x "$deny" ] || cargo install --quiet --locked --debug --version "$version" --root "$tools" cargo-deny
fi

checks="licenses bans sources"
if [ -d "${CARGO_HOME:-$HOME/.cargo}/advisory-dbs" ]; then
    checks="advisories $checks"
fi
# shellcheck disable=SC2086 # one word a check
"$deny" --offline check $checks
