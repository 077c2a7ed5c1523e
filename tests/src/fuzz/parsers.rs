//! Parsers: any bytes give a value or an error, and a value that was parsed survives being written and read again.

use std::net::{Ipv4Addr, Ipv6Addr};

use culvert_crypto::Suite;
use culvert_dataplane::observe::Filter;
use culvert_dataplane::observe::filter::LONGEST_TEXT;
use culvert_dataplane::observe::headers::Layer;
use culvert_model::decode;
use culvert_model::plan::{self, DigestKey};
use culvert_net::nd::{NeighbourAdvert, NeighbourSolicit, RouterAdvert, RouterSolicit};
use culvert_net::udp::NatTraversal;
use culvert_net::{
    ArpPacket, EthernetView, Flow, GreHeader, HeaderPlace, IpPrefix, Ipv4View, Ipv6View, MacAddr,
    TcpView, UdpView, checksum, esp, icmpv4, icmpv6, tcp,
};
use culvert_plugin_wire::{FrameDecoder, ToBridge, ToPlugin, encode};
use culvert_tap_inject::device::{self, TapName};
use strongswan_vici::{ChildSa, IkeSa, Incoming, Message};

/// The strict decoder, then the plan of what it lets through.
pub fn configuration_json(bytes: &[u8]) {
    if let Ok(config) = decode::config_from_json(bytes) {
        // Refusing it is fine.
        let _ = plan::plan(&config, &DigestKey::new([7; 32]));
    }
}

/// The same configuration in protobuf's own encoding.
pub fn configuration_binary(bytes: &[u8]) {
    if let Ok(config) = decode::config_from_binary(bytes) {
        let _ = plan::plan(&config, &DigestKey::new([7; 32]));
    }
}

/// Every header parser over the same bytes, and what rewrites packets in place.
pub fn packet_headers(bytes: &[u8]) {
    let _ = EthernetView::parse(bytes);
    if let Ok(arp) = ArpPacket::parse(bytes) {
        let _ = (arp.is_probe(), arp.is_announcement());
    }
    if let Ok(view) = Ipv4View::parse(bytes) {
        let _ = Flow::of_ipv4(&view);
    }
    let _ = Ipv4View::verify(bytes);
    if let Ok(view) = Ipv6View::parse(bytes)
        && let Ok(upper) = view.upper_layer()
    {
        let _ = (upper.has_transport_header(), Flow::of_ipv6(&view));
    }
    let _ = Flow::of(bytes);
    assert_eq!(Flow::of(bytes).is_ok(), Flow::spread_of(bytes).is_ok());
    if let Ok(place) = HeaderPlace::find(bytes, |_, offset| offset < 200) {
        assert_eq!(bytes.get(place.named_at), Some(&place.protocol.0));
        assert!(place.offset <= bytes.len());
    }
    if let Ok(place) = HeaderPlace::of_transport_esp(bytes) {
        assert!(place.named_at < place.offset && place.offset <= bytes.len());
    }
    if let Ok((header, length)) = GreHeader::parse(bytes) {
        assert!(length <= bytes.len());
        let mut written = [0; GreHeader::MAX];
        assert_eq!(header.write(&mut written), Some(()));
        let again = GreHeader::parse(&written[..header.len()]);
        assert_eq!(again, Ok((header, header.len())));
    }
    if let NatTraversal::Esp(inside) | NatTraversal::Ike(inside) = NatTraversal::of(bytes) {
        assert!(bytes.ends_with(inside));
    }
    let _ = UdpView::parse(bytes);
    if let Ok(segment) = TcpView::parse(bytes) {
        let _ = segment.mss();
    }
    let _ = icmpv4::Icmpv4View::verify(bytes);
    let _ = icmpv6::Icmpv6View::verify(bytes, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let _ = NeighbourSolicit::parse(bytes);
    let _ = NeighbourAdvert::parse(bytes);
    let _ = RouterSolicit::parse(bytes);
    let _ = RouterAdvert::parse(bytes);
    if let Ok((_, length)) = esp::read_trailer(bytes) {
        assert!(length < bytes.len(), "the payload ends before the trailer");
    }
    let mut copy = bytes.to_vec();
    if let Some(before) = tcp::clamp_mss(&mut copy, 1000) {
        assert!(before > 1000);
        let after = TcpView::parse(&copy).ok().and_then(|view| view.mss());
        assert_eq!(after, Some(1000), "the clamp has taken");
    }
    icmpv4::echo_reply(&mut copy);
    icmpv6::echo_reply(&mut copy);
    let at = |index: usize| usize::from(bytes.get(index).copied().unwrap_or(0));
    let _ = checksum::complete_l4(&mut copy, at(0), at(1));
    assert_eq!(copy.len(), bytes.len());
}

/// A stream from charon's plugin, and one from the bridge, cut where the first byte says.
pub fn plugin_wire(bytes: &[u8]) {
    let Some((&cut, stream)) = bytes.split_first() else {
        return;
    };
    let mut to_bridge = FrameDecoder::default();
    let mut to_plugin = FrameDecoder::default();
    for piece in stream.chunks(usize::from(cut).max(1)) {
        to_bridge.push(piece);
        while let Ok(Some(message)) = to_bridge.next_message::<ToBridge>() {
            let written = encode(&message);
            assert!(written.is_ok(), "what was read can be written");
        }
        to_plugin.push(piece);
        while let Ok(Some(message)) = to_plugin.next_message::<ToPlugin>() {
            let written = encode(&message);
            assert!(written.is_ok(), "what was read can be written");
        }
    }
}

/// Everything that is read from text: what was read, shown and read again is the same.
pub fn text(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(prefix) = text.parse::<IpPrefix>() {
        assert_eq!(prefix.to_string().parse(), Ok(prefix));
    }
    if let Ok(mac) = text.parse::<MacAddr>() {
        assert_eq!(mac.to_string().parse(), Ok(mac));
    }
    if let Ok(suite) = text.parse::<Suite>() {
        assert_eq!(suite.to_string().parse::<Suite>().ok(), Some(suite));
    }
    if let Ok(name) = text.parse::<TapName>() {
        assert!(name.as_str().len() < 16);
    }
    // An entry with a number would take over a descriptor of this very process.
    if !text.bytes().any(|byte| byte.is_ascii_digit()) {
        let _ = device::inherited(text);
    }
    let _ = (text.parse::<Ipv4Addr>(), text.parse::<Ipv6Addr>());
}

/// A filter, a zero, and a packet that it is asked about: as it was understood it reads the same.
pub fn filter(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let text = parts.next().and_then(|text| std::str::from_utf8(text).ok());
    let packet = parts.next().unwrap_or_default();
    let Some(Ok(filter)) = text.map(str::parse::<Filter>) else {
        return;
    };
    let understood = filter.to_string();
    // Qualifiers that were left out are written down: it may have grown.
    if understood.len() <= LONGEST_TEXT {
        assert_eq!(understood.parse(), Ok(filter.clone()));
    }
    for layer in [Layer::Link, Layer::Network] {
        let holds = filter.matches(packet, layer);
        if let Ok(opposite) = format!("not ({understood})").parse::<Filter>()
            && !filter.is_all()
        {
            assert_ne!(opposite.matches(packet, layer), holds);
        }
    }
}

/// A message of charon's: read, written and read again it is the same; read as a listing it does not panic.
pub fn vici(bytes: &[u8]) {
    let Ok(message) = Message::decode(bytes) else {
        return;
    };
    let mut written = Vec::new();
    assert!(
        message.encode(&mut written).is_ok(),
        "what was read can be written"
    );
    assert!(
        Message::decode(&written).as_ref() == Ok(&message),
        "and read again"
    );
    if let Ok(ike) = IkeSa::from_listing(&message) {
        let _: Vec<&ChildSa> = ike.children.iter().collect();
    }
}

/// A packet of charon's, as it comes behind its length; what it carries is a message that can be written again.
pub fn vici_packet(bytes: &[u8]) {
    match Incoming::decode(bytes) {
        Ok(Incoming::Event { name, message }) => {
            assert_eq!(
                bytes.get(1).map(|length| usize::from(*length)),
                Some(name.len())
            );
            let mut written = Vec::new();
            assert!(message.encode(&mut written).is_ok());
            assert!(bytes.ends_with(&written));
        }
        Ok(Incoming::Response(message)) => {
            let mut written = Vec::new();
            assert!(message.encode(&mut written).is_ok());
            assert!(bytes.ends_with(&written));
        }
        Ok(_) | Err(_) => {}
    }
}
