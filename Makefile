# On a fresh Debian 12 machine, as root, with a Rust toolchain: `make demo` and `make test` do the rest.

.PHONY: demo bench test lint setup

# Two gateways back to back on this machine: shown, measured, proved, torn down. DEMO="--json FILE" and the like.
demo: setup
	cargo build --release --package culvert --package culvert-charon-plugin
	target/release/culvert lab demo $(DEMO)

# Clocks a packet, beside yardsticks. BENCH="--json FILE" and the like.
bench: setup
	cargo build --release --package culvert
	target/release/culvert bench $(BENCH)

# Every test; those of whole gateways use the binary, which then tells keys apart by fingerprint, and charon's plugin.
test: setup
	tests/setup.sh target/python
	tests/run.sh

# What must be true of every change besides the tests.
lint: setup
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS='--deny warnings' cargo doc --workspace --no-deps --document-private-items
	gateway/deny.sh

# Debian packages for building, running and testing.
setup:
	gateway/setup.sh
