//! What a DHCP server says, who is anybody on the link: packets, messages, and clients that hear them.

use std::time::Duration;

use culvert_dhcp::frame;
use culvert_dhcp::machine::{Held, Machine, Place, Settings};
use culvert_dhcp::message::{Reply, Said};
use culvert_dhcp::terms::{MOST_ROUTES, MOST_SERVERS, Offered, Terms};

/// Of the messages in the corpus.
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const TRANSACTION: u32 = 7;

/// Any packet is refused or holds a message; any message is refused or answers; any lease can be used and stored; a client
/// that hears it goes on to ask.
pub fn feed(bytes: &[u8]) {
    let message = match frame::unwrap(bytes) {
        Ok(Some(message)) => message,
        Ok(None) | Err(_) => bytes,
    };
    if let Ok(reply) = Reply::read(message, MAC)
        && let Said::Offer(offered) | Said::Ack(offered) = reply.said
        && let Ok(terms) = offered.check()
    {
        check(&terms);
    }
    let mut fresh = client(None);
    let mut again = client(held());
    for second in 0..4 {
        let now = Duration::from_secs(second);
        for client in [&mut fresh, &mut again] {
            client.poll(now);
            client.receive(message, now);
            if let Some(held) = client.lease() {
                check(&held.terms);
                assert!(held.renew_at <= held.rebind_at && held.rebind_at <= held.expire_at);
            }
        }
    }
    assert_ne!(fresh.place(), Place::Bound, "nobody said what it may have");
}

fn check(terms: &Terms) {
    let own = terms.address.addr();
    assert!(!(own.is_unspecified() || own.is_multicast() || own.is_loopback()));
    assert!(!(own.is_broadcast() || own.is_link_local()));
    assert!(terms.renew < terms.rebind && terms.rebind < terms.duration);
    assert!(terms.routes.len() <= MOST_ROUTES && terms.dns_servers.len() <= MOST_SERVERS);
    assert!(
        !terms
            .domain
            .contains(|letter: char| letter.is_whitespace() || letter.is_control())
    );
    for route in &terms.routes {
        assert_eq!(route.destination, route.destination.trunc());
        assert_ne!(route.gateway, Some(own));
    }
    let mut stored = terms.clone();
    // Whole seconds are.
    for time in [&mut stored.renew, &mut stored.rebind] {
        *time = Duration::from_secs(time.as_secs());
    }
    let read = Terms::from_stored(&stored.on_the_bus(stored.renew, stored.rebind, stored.duration));
    assert_eq!(read.map(|read| read.address), Some(terms.address));
}

fn client(before: Option<Held>) -> Machine {
    let settings = Settings {
        mac: MAC,
        client_id: [&[1], &MAC[..]].concat(),
        host_name: "branch".to_owned(),
        dns: true,
    };
    Machine::new(settings, before, Duration::ZERO, Box::new(|| TRANSACTION))
}

/// Of the address in the corpus.
fn held() -> Option<Held> {
    let terms = Offered {
        address: Some([192, 0, 2, 10].into()),
        server: Some([192, 0, 2, 1].into()),
        mask: Some([255, 255, 255, 0].into()),
        duration: Some(3600),
        ..Offered::default()
    };
    let terms = terms.check().ok()?;
    Some(Held {
        renew_at: terms.renew,
        rebind_at: terms.rebind,
        expire_at: terms.duration,
        terms,
    })
}
