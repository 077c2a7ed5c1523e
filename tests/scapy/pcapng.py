"""What scapy, a reader that nobody here wrote, finds in a pcapng file: one JSON object a packet on standard output."""

import json
import sys

from scapy.layers.inet import ICMP, IP
from scapy.layers.ipsec import ESP  # noqa: F401, so that ESP is taken apart
from scapy.utils import PcapNgReader

with PcapNgReader(sys.argv[1]) as reader:
    for packet in reader:
        network = packet.getlayer(IP)
        seen = {
            "layers": [layer.__name__ for layer in packet.layers()],
            "interface": packet.sniffed_on,
            "direction": packet.direction,
            "comments": [text.decode() for text in packet.comments or []],
            "length": packet.wirelen,
            "kept": len(packet.original),
            "time_ns": int(packet.time * 1_000_000_000),
        }
        if network is not None:
            seen["source"] = network.src
            seen["destination"] = network.dst
        if packet.haslayer(ICMP):
            seen["icmp"] = packet[ICMP].type
        print(json.dumps(seen))
