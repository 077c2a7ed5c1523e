"""A host on a link with VLANs: one JSON object a line on standard input, one answer a line on standard output.

Request: "tags" ([[type, vlan], ...], outermost first), "from", "gateway" and "to" (IPv4 addresses), "size" (bytes of ICMP
payload), "seconds" (how long an answer is waited for). It asks the gateway for its Ethernet address, sends one echo
request, answers ARP for "from" under the same tags, and gives what came back: "arp" (whether the gateway answered),
"reply" (whether the echo came back whole, from "to", under the same tags), "wrong" (frames of ours under other tags).
With "forged": true nothing is waited for but the gateway's Ethernet address.
"""

import json
import struct
import sys
import time

from scapy.all import ARP, ICMP, IP, Ether, Raw, conf, get_if_hwaddr

LINK = sys.argv[1]
MAC = get_if_hwaddr(LINK)
SOCKET = conf.L2socket(iface=LINK)


def bare(packet):
    """Ethernet addresses and type | tags | the rest, by the bytes of the frame."""
    frame = bytes(packet)
    tags, at = [], 12
    while True:
        (kind,) = struct.unpack("!H", frame[at : at + 2])
        if kind not in (0x8100, 0x88A8):
            return tags, Ether(frame[:12] + frame[at:])
        (control,) = struct.unpack("!H", frame[at + 2 : at + 4])
        tags.append([kind, control & 0x0FFF])
        at += 4


def tagged(frame, tags):
    frame = bytes(frame)
    middle = b"".join(struct.pack("!HH", kind, vlan) for kind, vlan in tags)
    SOCKET.send(Raw(frame[:12] + middle + frame[12:]))


def answer(request):
    tags, own = request["tags"], request["from"]
    end = time.monotonic() + request["seconds"]
    payload = bytes(i % 251 for i in range(request["size"]))
    found = {"arp": False, "reply": False, "wrong": 0}
    asked, sent = 0.0, False
    while time.monotonic() < end and not found["reply"]:
        if not found["arp"] and time.monotonic() - asked > 0.5:
            asked = time.monotonic()
            question = ARP(op=1, hwsrc=MAC, psrc=own, pdst=request["gateway"])
            tagged(Ether(dst="ff:ff:ff:ff:ff:ff", src=MAC) / question, tags)
        packet = SOCKET.recv(2048)
        if packet is None:
            time.sleep(0.002)
            continue
        if packet.src == MAC:
            continue
        under, frame = bare(packet)
        arp, ip = frame.getlayer(ARP), frame.getlayer(IP)
        if arp and arp.op == 1 and arp.pdst == own:
            if under != tags:
                found["wrong"] += 1
                continue
            reply = ARP(op=2, hwsrc=MAC, psrc=own, hwdst=arp.hwsrc, pdst=arp.psrc)
            tagged(Ether(dst=arp.hwsrc, src=MAC) / reply, tags)
        elif arp and arp.op == 2 and arp.psrc == request["gateway"] and arp.pdst == own:
            if under != tags:
                found["wrong"] += 1
                continue
            found["arp"] = True
            if not sent:
                sent = True
                source = request.get("source", own)
                echo = IP(src=source, dst=request["to"]) / ICMP(id=7, seq=9) / Raw(payload)
                tagged(Ether(dst=arp.hwsrc, src=MAC) / echo, tags)
                if request.get("forged"):
                    break
        elif ip and ip.dst == own and ip.src == request["to"] and ICMP in ip:
            if under != tags:
                found["wrong"] += 1
                continue
            back = ip[ICMP]
            found["reply"] = back.type == 0 and back.seq == 9 and bytes(back.payload) == payload
    return found


print(json.dumps({"ready": MAC}), flush=True)
for line in sys.stdin:
    print(json.dumps(answer(json.loads(line))), flush=True)
