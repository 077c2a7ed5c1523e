"""An ESP implementation that nobody here wrote: scapy's, asked over standard input, one JSON object a line.

Request: "sa" (see `association`), "do" (below), packets as hexadecimal text from their outer IP header on.

  seal  {"inner", "sequence", "high"}  ->  {"packet"}; with "header", fields of the tunnel's header in scapy's names, and
        with "trailer": {"padding", "tfc", "next"}, bytes of the two kinds of padding and the next header, instead of
        scapy's own
  open  {"packet", "high"}             ->  {"inner", "again", "whole", "outer"}

`again` is the same packet sealed once more with the same sequence number and IV: where it equals what came, every
byte of ESP is as scapy writes it. `outer` is what scapy reads in the headers around ESP.
"""

import copy
import json
import re
import sys

import scapy
from scapy.all import IP, UDP, IPv6, raw
from scapy.layers.ipsec import ESP, SecurityAssociation

# By what follows AES and its key length.
CIPHERS = {
    "gcm16": "AES-GCM",
    "gmac": "AES-NULL-GMAC",
    "chacha20poly1305": "CHACHA20-POLY1305",
    "": "AES-CBC",
    "ctr": "AES-CTR",
    "null": "NULL",
}
INTEGRITY = {
    "": None,
    "sha1": "HMAC-SHA1-96",
    "sha256": "SHA2-256-128",
    "sha384": "SHA2-384-192",
    "sha512": "SHA2-512-256",
}


def association(sa):
    """An SA from strongSwan's name of the suite, keys, SPI, ESN and the addresses of the tunnel."""
    cipher, _, integrity = sa["suite"].partition("-")
    algorithm = CIPHERS[re.sub("^aes[0-9]{3}", "", cipher)]
    version = IPv6 if ":" in sa["source"] else IP
    return SecurityAssociation(
        ESP,
        spi=sa["spi"],
        crypt_algo=algorithm,
        crypt_key=bytes.fromhex(sa["encryption"]) or None,
        auth_algo=INTEGRITY[integrity],
        auth_key=bytes.fromhex(sa["integrity"]) or None,
        tunnel_header=None
        if sa["transport"]
        else version(src=sa["source"], dst=sa["destination"]),
        nat_t_header=UDP(sport=4500, dport=4500) if sa["udp"] else None,
    )


def ip(data):
    return (IP if data[0] >> 4 == 4 else IPv6)(data)


def numbered(secured, inner, sequence, esn, high, iv=None):
    """`inner` as packet number `sequence`: set beforehand, for scapy takes an argument of 0 for none."""
    secured.seq_num = sequence
    return secured.encrypt(inner, seq_num=sequence, iv=iv, esn_en=esn, esn=high)


def trailer(esp, padding, tfc, next):
    """Padding of both kinds as it is asked for (RFC 4303 sections 2.4 and 2.7)."""
    esp.data = raw(esp.data) + bytes([0xA5]) * tfc
    esp.padding = bytes(range(1, padding + 1))
    esp.padlen = padding
    if next is not None:
        esp.nh = next
    return esp


def seal(sa, request):
    inner = ip(bytes.fromhex(request["inner"]))
    secured = association(sa)
    for name, value in request.get("header", {}).items():
        setattr(secured.tunnel_header, name, value)
    if "trailer" in request:
        # Of its own: scapy's algorithms are shared by all SAs.
        secured.crypt_algo = copy.copy(secured.crypt_algo)
        secured.crypt_algo.pad = lambda esp: trailer(esp, **request["trailer"])
    packet = numbered(secured, inner, request["sequence"], sa["esn"], request["high"])
    return {"packet": raw(packet).hex()}


def outer(packet, data):
    """Headers around ESP, with lengths and checksums as they should be beside those that are there."""
    told = {"source": packet.src, "destination": packet.dst, "version": packet.version}
    fresh = ip(data)
    if packet.version == 4:
        told |= {"protocol": packet.proto, "length": packet.len, "checksum": packet.chksum}
        told |= {"class": packet.tos, "hops": packet.ttl, "df": bool(packet.flags.DF)}
        del fresh.chksum
        told["right_checksum"] = ip(raw(fresh)).chksum
    else:
        told |= {"protocol": packet.nh, "length": packet.plen + 40}
        told |= {"class": packet.tc, "hops": packet.hlim, "label": packet.fl}
    if UDP in packet:
        udp = packet[UDP]
        told["udp"] = {"ports": [udp.sport, udp.dport], "length": udp.len, "checksum": udp.chksum}
    return told


def open_packet(sa, request):
    data = bytes.fromhex(request["packet"])
    told = outer(ip(data), data)
    sealed = ip(data)[ESP]
    secured = association(sa)
    iv = sealed.data[: secured.crypt_algo.iv_size]
    inner = secured.decrypt(ip(data), esn_en=sa["esn"], esn=request["high"])
    again = numbered(secured, inner, sealed.seq, sa["esn"], request["high"], iv)
    # In transport mode the headers around ESP are the packet's own, and as scapy writes them, too.
    whole = raw(again).hex() if sa["transport"] else None
    return {"inner": raw(inner).hex(), "again": raw(again[ESP]).hex(), "whole": whole, "outer": told}


def main():
    print(json.dumps({"scapy": scapy.__version__}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        work = {"seal": seal, "open": open_packet}[request["do"]]
        try:
            answer = work(request["sa"], request)
        except Exception as error:  # pylint: disable=broad-except
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


main()
