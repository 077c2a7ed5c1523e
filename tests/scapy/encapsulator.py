"""The far end of GRE and IPIP tunnels, and every host behind it, on one link.

First argument: the link; second: a JSON list of tunnels: "name", "own" and "far" (addresses of the outer header, ours and
the gateway's), "mode" ("gre" or "ipip"), "key" (of GRE, or null). It answers ARP and neighbour discovery for its own addresses
and, until it is told to do other things, sends back into each tunnel what comes out of it: UDP with addresses and ports
turned round (fragments, too, as they are), ICMP echo requests answered.

Every packet out of a tunnel is compared, byte by byte, with what scapy builds of the same fields: see `expected`.

One JSON object a line on standard input, one answer a line on standard output:
{"do": "counts"} gives, by tunnel, "packets" and "wrong" (examples of what was not as expected).
{"do": "send", "tunnel": .., "what": ..} puts one UDP datagram into a tunnel in a way that others may choose: see `odd`.
"""

import json
import select
import sys

from scapy.all import (
    ARP,
    GRE,
    ICMP,
    IP,
    UDP,
    Ether,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
    conf,
    fragment,
)

LINK = sys.argv[1]
TUNNELS = json.loads(sys.argv[2])
# Not the router's: its kernel takes no notice of frames to it.
MAC = "02:00:5e:00:53:09"
SOCKET = conf.L2socket(iface=LINK)
OWN = {tunnel["own"] for tunnel in TUNNELS}
COUNTS = {tunnel["name"]: {"packets": 0, "wrong": []} for tunnel in TUNNELS}
GATEWAY = {}


def is6(address):
    return ":" in address


def encapsulated(tunnel, inner, **fields):
    """As the far end sends it."""
    inner6 = inner.version == 6
    between = b""
    protocol = 41 if inner6 else 4
    if tunnel["mode"] == "gre":
        gre = {"proto": 0x86DD if inner6 else 0x0800}
        if tunnel["key"] is not None:
            gre.update(key_present=1, key=tunnel["key"])
        gre.update(fields.pop("gre", {}))
        between, protocol = GRE(**gre), 47
    if is6(tunnel["own"]):
        outer = IPv6(src=tunnel["own"], dst=tunnel["far"], nh=protocol, hlim=61, **fields)
    else:
        outer = IP(src=tunnel["own"], dst=tunnel["far"], proto=protocol, ttl=61, id=7, **fields)
    return outer / between / inner if between else outer / inner


def put(packet):
    gateway = GATEWAY.get(packet.dst)
    if gateway:
        SOCKET.send(Ether(dst=gateway, src=MAC, type=0x86DD if packet.version == 6 else 0x0800) / packet)


def expected(tunnel, received, inner):
    """The packet that the gateway ought to have sent around this inner one: RFC 2784, 2890, 2003, 2473."""
    inner6 = inner[0] >> 4 == 6
    between = b""
    protocol = 41 if inner6 else 4
    if tunnel["mode"] == "gre":
        key = tunnel["key"]
        present = {} if key is None else {"key_present": 1, "key": key}
        between = bytes(GRE(proto=0x86DD if inner6 else 0x0800, **present))
        protocol = 47
    # DSCP and ECN are those of the inner header, and so is DF. IPv6 packets are never cut on their way, but those of up to
    # 1280 bytes must get through (RFC 4213 section 3.2.2).
    if inner6:
        traffic_class, whole = (inner[0] & 15) << 4 | inner[1] >> 4, len(inner) > 1280
    else:
        traffic_class, whole = inner[1], bool(inner[6] & 0x40)
    if is6(tunnel["own"]):
        outer = IPv6(src=tunnel["far"], dst=tunnel["own"], nh=protocol, hlim=64, tc=traffic_class)
    else:
        outer = IP(
            src=tunnel["far"],
            dst=tunnel["own"],
            proto=protocol,
            ttl=64,
            tos=traffic_class,
            flags="DF" if whole else 0,
            # Chosen freely.
            id=received.id,
        )
    return bytes(outer / Raw(between + inner))


def match(packet):
    """The tunnel that a packet from the gateway is in, and what is inside."""
    for tunnel in TUNNELS:
        if packet.src != tunnel["far"] or packet.dst != tunnel["own"]:
            continue
        protocol = packet.nh if packet.version == 6 else packet.proto
        payload = bytes(packet)[40 if packet.version == 6 else packet.ihl * 4 :]
        if tunnel["mode"] == "ipip" and protocol in (4, 41):
            return tunnel, payload
        if tunnel["mode"] == "gre" and protocol == 47:
            key = int.from_bytes(payload[4:8], "big") if payload[0] & 0x20 else None
            if key == tunnel["key"]:
                return tunnel, payload[4 if key is None else 8 :]
    return None, None


def answer(inner):
    """What the host says that an inner packet is for."""
    if inner.version == 4:
        back = inner.copy()
        back.src, back.dst, back.ttl = inner.dst, inner.src, 60
        del back.chksum
        if inner.frag == 0 and UDP in inner:
            # The sum over addresses and ports is the same the other way round.
            back[UDP].sport, back[UDP].dport = inner[UDP].dport, inner[UDP].sport
        elif inner.frag == 0 and ICMP in inner and inner[ICMP].type == 8:
            back[ICMP].type = 0
            del back[ICMP].chksum
        elif inner.frag == 0:
            return None
        return back
    back = inner.copy()
    back.src, back.dst, back.hlim = inner.dst, inner.src, 60
    piece = inner.getlayer(IPv6ExtHdrFragment)
    if piece is not None and piece.offset != 0:
        return back
    if UDP in inner:
        back[UDP].sport, back[UDP].dport = inner[UDP].dport, inner[UDP].sport
        return back
    if ICMPv6EchoRequest in inner:
        asked = inner[ICMPv6EchoRequest]
        reply = ICMPv6EchoReply(id=asked.id, seq=asked.seq, data=asked.data)
        return IPv6(src=inner.dst, dst=inner.src, hlim=60) / reply
    return None


def neighbour(frame):
    """ARP and neighbour discovery."""
    if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst in OWN:
        arp = frame[ARP]
        GATEWAY[arp.psrc] = arp.hwsrc
        reply = ARP(op=2, hwsrc=MAC, psrc=arp.pdst, hwdst=arp.hwsrc, pdst=arp.psrc)
        SOCKET.send(Ether(dst=arp.hwsrc, src=MAC) / reply)
    elif ICMPv6ND_NS in frame and frame[ICMPv6ND_NS].tgt in OWN and frame[IPv6].src != "::":
        target, asker = frame[ICMPv6ND_NS].tgt, frame[IPv6].src
        advert = ICMPv6ND_NA(R=0, S=1, O=1, tgt=target) / ICMPv6NDOptDstLLAddr(lladdr=MAC)
        SOCKET.send(Ether(dst=frame.src, src=MAC) / IPv6(src=target, dst=asker, hlim=255) / advert)
    else:
        return False
    return True


def take(frame):
    if frame.src == MAC or neighbour(frame):
        return
    packet = frame.getlayer(IP) if frame.type == 0x0800 else frame.getlayer(IPv6)
    if packet is None or packet.dst not in OWN:
        return
    GATEWAY[packet.src] = frame.src
    tunnel, inner = match(packet)
    if tunnel is None:
        return
    counts = COUNTS[tunnel["name"]]
    counts["packets"] += 1
    ought = expected(tunnel, packet, inner)
    if bytes(packet) != ought and len(counts["wrong"]) < 3:
        counts["wrong"].append({"is": bytes(packet)[:80].hex(), "ought": ought[:80].hex()})
    inner = IPv6(inner) if inner[0] >> 4 == 6 else IP(inner)
    back = answer(inner)
    if back is not None:
        put(encapsulated(tunnel, back))


def odd(request):
    """One datagram to port 7 of "to", put in as "what" says."""
    tunnel = next(tunnel for tunnel in TUNNELS if tunnel["name"] == request["tunnel"])
    inner6 = is6(request["to"])
    inner = IPv6 if inner6 else IP
    inner = inner(src=request["from"], dst=request["to"]) / UDP(sport=7, dport=request["port"])
    inner = inner / Raw(request["text"].encode())
    what = request["what"]
    if what == "plain":
        packets = [encapsulated(tunnel, inner)]
    elif what == "checksum":
        packets = [encapsulated(tunnel, inner, gre={"chksum_present": 1})]
    elif what == "bad-checksum":
        packets = [encapsulated(tunnel, inner, gre={"chksum_present": 1, "chksum": 0x1234})]
    elif what == "sequence":
        packets = [encapsulated(tunnel, inner, gre={"seqnum_present": 1, "sequence_number": 9})]
    elif what == "other-key":
        packets = [encapsulated(tunnel, inner, gre={"key_present": 1, "key": 0x0BAD})]
    elif what == "other-type":
        packets = [encapsulated(tunnel, inner, gre={"proto": 0x6558})]
    elif what == "stranger":
        packets = [encapsulated({**tunnel, "own": request["stranger"]}, inner)]
    elif what == "fragments":
        packets = fragment(encapsulated(tunnel, inner), fragsize=256)
    for packet in packets:
        put(packet)
    return {"sent": len(packets)}


def main():
    print(json.dumps({"ready": MAC}), flush=True)
    while True:
        ready, _, _ = select.select([sys.stdin, SOCKET], [], [])
        if SOCKET in ready:
            frame = SOCKET.recv(65535)
            if frame is not None:
                take(frame)
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            request = json.loads(line)
            result = COUNTS if request["do"] == "counts" else odd(request)
            print(json.dumps(result), flush=True)


main()
