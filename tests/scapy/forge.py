"""Sends forged ICMP errors about ESP packets: one JSON object a line on standard input, "sent" on standard output.

Request: "from", "to" (addresses of the message), "kind" ("too-big" or "unreachable"), "mtu", and "quote" of the packet
that it is about: "source", "destination", "spi", "sequence", "length" (bytes of the IP packet), "ports" (two, or null).
"""

import json
import sys

from scapy.all import ICMP, IP, UDP, ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6, send
from scapy.layers.ipsec import ESP


def quoted(quote):
    esp = ESP(spi=quote["spi"], seq=quote["sequence"], data=b"x" * 32)
    below = esp
    protocol = 50
    if quote["ports"]:
        source, destination = quote["ports"]
        below = UDP(sport=source, dport=destination, len=quote["length"] - 20, chksum=0) / esp
        protocol = 17
    ends = {"src": quote["source"], "dst": quote["destination"]}
    if ":" in quote["source"]:
        return IPv6(**ends, nh=protocol, plen=quote["length"] - 40, hlim=60) / below
    return IP(**ends, proto=protocol, len=quote["length"], flags="DF", ttl=60) / below


def message(request):
    inner = quoted(request["quote"])
    ends = {"src": request["from"], "dst": request["to"]}
    too_big = request["kind"] == "too-big"
    if ":" in request["to"]:
        error = ICMPv6PacketTooBig(mtu=request["mtu"]) if too_big else ICMPv6DestUnreach(code=0)
        return IPv6(**ends) / error / inner
    error = ICMP(type=3, code=4, nexthopmtu=request["mtu"]) if too_big else ICMP(type=3, code=3)
    return IP(**ends) / error / inner


for line in sys.stdin:
    send(message(json.loads(line)), verbose=False)
    print("sent", flush=True)
