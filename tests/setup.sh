#!/bin/sh
# Makes the Python environment of the tests that ask scapy. Does nothing, and needs no network, when it is there.
set -eu

environment=${1:?usage: tests/setup.sh FOLDER}
scapy=2.8.0

if ! "$environment/bin/python" -c "import cryptography, scapy, sys; sys.exit(scapy.__version__ != '$scapy')" 2>/dev/null; then
    rm -rf "$environment"
    python3 -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check "scapy==$scapy" cryptography
fi
