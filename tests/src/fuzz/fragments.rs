//! Cutting, and finding where a fragment belongs: what was cut is the packet again, byte for byte, and no fragment is
//! larger than it may be.
//!
//! ```text
//!   input = MTU (2 bytes, big endian) | an IP packet, or a fragment of one
//! ```

use culvert_net::fragment::{Ipv4Cut, Ipv6Cut, Piece, Place};
use culvert_net::{Ipv4View, Ipv6View};

/// Cuts the packet, and reads every fragment back.
pub fn feed(input: &[u8]) {
    let Some((mtu, packet)) = input.split_first_chunk::<2>() else {
        return;
    };
    let mtu = u16::from_be_bytes(*mtu);
    let _ = (Place::of_ipv4(packet), Place::of_ipv6(packet));
    let mut room = vec![0; packet.len() + 60];
    if let (Ok(view), Ok(cut)) = (Ipv4View::parse(packet), Ipv4Cut::new(packet, mtu)) {
        let before = usize::from(view.fragment_offset());
        let write = |piece: Piece, to: &mut [u8]| cut.write(packet, piece, to);
        let mut end = 0;
        for piece in cut.pieces() {
            let fragment = written(&mut room, mtu, |to| write(piece, to));
            let read = match Ipv4View::verify(fragment) {
                Ok(read) => read,
                Err(error) => panic!("a fragment that is none: {error}"),
            };
            assert_eq!(usize::from(read.fragment_offset()), before + end);
            end += goes_on(view.payload(), piece, read.payload());
            let more = end < view.payload().len() || view.more_fragments();
            assert_eq!(read.more_fragments(), more);
            // One of nothing, or an odd end of a fragment that claims to be in the middle, is refused by both.
            let _ = Place::of_ipv4(fragment);
        }
        assert_eq!(end, view.payload().len());
    }
    if let (Ok(view), Ok(cut)) = (Ipv6View::parse(packet), Ipv6Cut::new(packet, mtu, 7)) {
        let mut end = 0;
        for piece in cut.pieces() {
            let fragment = written(&mut room, mtu, |to| cut.write(piece, to));
            let place = match Place::of_ipv6(fragment) {
                Ok(place) => place,
                Err(error) => panic!("a fragment that is none: {error}"),
            };
            assert_eq!(usize::from(place.offset), end);
            assert_eq!(place.protocol, view.next_header());
            let start = usize::from(place.header);
            end += goes_on(
                view.payload(),
                piece,
                fragment.get(start..).unwrap_or_default(),
            );
            assert_eq!(place.more, end < view.payload().len());
        }
        assert_eq!(end, view.payload().len());
    }
}

/// A fragment, which keeps to the MTU.
fn written(room: &mut [u8], mtu: u16, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> &[u8] {
    let Some(length) = write(room) else {
        panic!("there was room for the fragment");
    };
    assert!(length <= usize::from(mtu), "{length} bytes");
    room.get(..length).unwrap_or_default()
}

/// The fragment has its part of the payload; gives how much that is.
fn goes_on(payload: &[u8], piece: Piece, part: &[u8]) -> usize {
    assert_eq!(
        payload.get(piece.start..piece.start + piece.length),
        Some(part)
    );
    piece.length
}
