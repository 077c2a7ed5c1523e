//! A client against a server that is a few lines long, by a clock that is turned by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable as _, Decoder, Encodable as _};
use proptest::prelude::*;

use super::*;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const OWN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);

fn seconds(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

fn settings() -> Settings {
    Settings {
        mac: MAC,
        client_id: vec![1, 2, 0, 0, 0, 0, 9],
        host_name: "branch".to_owned(),
        dns: true,
    }
}

/// Numbers in a row: nothing here is to be guessed.
fn machine(before: Option<Held>, now: Time) -> Machine {
    let mut last = 1000;
    let random = move || {
        last += 1;
        last
    };
    Machine::new(settings(), before, now, Box::new(random))
}

fn sent(outgoing: &Outgoing) -> Message {
    Message::decode(&mut Decoder::new(&outgoing.payload)).unwrap()
}

fn kind(outgoing: &Outgoing) -> MessageType {
    sent(outgoing).opts().msg_type().unwrap()
}

/// What a server says to a message.
fn answer(
    to: &Outgoing,
    kind: MessageType,
    from: Ipv4Addr,
    change: impl FnOnce(&mut Message),
) -> Vec<u8> {
    let mut message = sent(to);
    message.set_opcode(Opcode::BootReply).set_yiaddr(OWN);
    let options = message.opts_mut();
    options.clear();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(from));
    if kind == MessageType::Nak {
        message.set_yiaddr(Ipv4Addr::UNSPECIFIED);
    } else {
        options.insert(DhcpOption::SubnetMask(Ipv4Addr::new(255, 255, 255, 0)));
        options.insert(DhcpOption::AddressLeaseTime(3600));
        options.insert(DhcpOption::Router(vec![SERVER]));
        options.insert(DhcpOption::DomainNameServer(vec![SERVER]));
    }
    change(&mut message);
    message.to_vec().unwrap()
}

fn one(machine: &mut Machine, now: Time) -> Outgoing {
    let mut outgoing = machine.poll(now);
    assert_eq!(outgoing.len(), 1, "{outgoing:?}");
    outgoing.remove(0)
}

/// With a lease since `now`.
fn bound(now: Time) -> Machine {
    let mut machine = machine(None, now);
    let discover = one(&mut machine, now);
    machine.receive(&answer(&discover, MessageType::Offer, SERVER, |_| {}), now);
    let request = one(&mut machine, now);
    machine.receive(&answer(&request, MessageType::Ack, SERVER, |_| {}), now);
    assert_eq!(machine.place(), Place::Bound);
    assert!(machine.refusals().is_empty());
    machine
}

fn refused(machine: &Machine) -> Vec<(Refusal, u64)> {
    machine
        .refusals()
        .iter()
        .map(|(one, count)| (*one, *count))
        .collect()
}

#[test]
fn a_lease_is_asked_for_as_table_5_says() {
    let mut machine = machine(None, seconds(0));
    let discover = one(&mut machine, seconds(0));
    assert_eq!(
        (discover.source, discover.destination),
        (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)
    );
    assert!(discover.payload.len() >= 300);
    let message = sent(&discover);
    assert_eq!(kind(&discover), MessageType::Discover);
    assert_eq!(
        (message.chaddr(), message.ciaddr()),
        (&MAC[..], Ipv4Addr::UNSPECIFIED)
    );
    assert!(message.flags().broadcast());
    let options = message.opts();
    assert_eq!(
        options.get(OptionCode::ClientIdentifier),
        Some(&DhcpOption::ClientIdentifier(settings().client_id))
    );
    assert_eq!(
        options.get(OptionCode::Hostname),
        Some(&DhcpOption::Hostname("branch".to_owned()))
    );
    assert!(
        !options.contains(OptionCode::ServerIdentifier)
            && !options.contains(OptionCode::RequestedIpAddress)
    );
    let Some(DhcpOption::ParameterRequestList(wanted)) =
        options.get(OptionCode::ParameterRequestList)
    else {
        panic!("{options:?}");
    };
    let place = |code| wanted.iter().position(|one| *one == code).unwrap();
    assert!(place(OptionCode::ClasslessStaticRoute) < place(OptionCode::Router));

    machine.receive(
        &answer(&discover, MessageType::Offer, SERVER, |_| {}),
        seconds(1),
    );
    assert_eq!(machine.place(), Place::Requesting);
    let request = one(&mut machine, seconds(1));
    let message = sent(&request);
    assert_eq!(
        (kind(&request), message.xid()),
        (MessageType::Request, sent(&discover).xid())
    );
    assert_eq!(
        message.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(OWN))
    );
    assert_eq!(
        message.opts().get(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier(SERVER))
    );
    assert_eq!(
        (message.ciaddr(), request.destination),
        (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)
    );
    assert!(machine.lease().is_none());

    machine.receive(
        &answer(&request, MessageType::Ack, SERVER, |_| {}),
        seconds(2),
    );
    let held = machine.lease().unwrap();
    assert_eq!(held.terms.address.to_string(), "192.0.2.10/24");
    // From when it was requested.
    assert_eq!(
        (held.rebind_at, held.expire_at),
        (seconds(3151), seconds(3601))
    );
    assert!((1701..=1801).contains(&held.renew_at.as_secs()));
    assert_eq!(machine.counts(), (2, 2));
}

#[test]
fn a_lease_runs_from_its_request_however_long_a_server_was_looked_for() {
    let mut machine = machine(None, seconds(0));
    let mut discover = one(&mut machine, seconds(0));
    while machine.deadline() < seconds(5000) {
        let at = machine.deadline();
        discover = one(&mut machine, at);
    }
    let now = seconds(5000);
    machine.receive(&answer(&discover, MessageType::Offer, SERVER, |_| {}), now);
    let request = one(&mut machine, now);
    // Relays and servers see how long it has been without an address.
    assert_eq!(sent(&request).secs(), 5000);
    let at = now + seconds(2);
    machine.receive(&answer(&request, MessageType::Ack, SERVER, |_| {}), at);
    assert_eq!(machine.place(), Place::Bound);
    assert_eq!(machine.lease().unwrap().expire_at, seconds(8600));
    assert!(machine.deadline() > seconds(6700));
}

#[test]
fn questions_are_repeated_ever_more_slowly() {
    let mut machine = machine(None, seconds(0));
    let mut now = seconds(0);
    for pause in [4, 8, 16, 32, 64, 64, 64] {
        one(&mut machine, now);
        let next = machine.deadline();
        let took = next.abs_diff(now).as_millis() as i64 - pause * 1000;
        assert!((-1000..=1000).contains(&took), "{pause}: {took}");
        assert!(
            machine
                .poll(next.saturating_sub(Time::from_millis(1)))
                .is_empty()
        );
        now = next;
    }
    // A server that offers and then says nothing is left after a minute.
    let discover = one(&mut machine, now);
    machine.receive(&answer(&discover, MessageType::Offer, SERVER, |_| {}), now);
    let mut requests = 0;
    while machine.place() == Place::Requesting {
        now = machine.deadline();
        requests += machine.poll(now).len();
    }
    assert_eq!((requests, machine.place()), (4, Place::Init));
}

#[test]
fn a_lease_is_renewed_by_its_server_then_by_any_then_it_is_over() {
    let mut machine = bound(seconds(0));
    let at = machine.deadline();
    let request = one(&mut machine, at);
    assert_eq!(machine.place(), Place::Renewing);
    let message = sent(&request);
    assert_eq!(
        (request.source, request.destination, message.ciaddr()),
        (OWN, SERVER, OWN)
    );
    assert!(!message.flags().broadcast());
    for code in [OptionCode::ServerIdentifier, OptionCode::RequestedIpAddress] {
        assert!(!message.opts().contains(code));
    }
    // Another server has no say in it.
    machine.receive(&answer(&request, MessageType::Ack, OTHER, |_| {}), at);
    assert_eq!(refused(&machine), [(Refusal::OtherServer, 1)]);
    machine.receive(&answer(&request, MessageType::Ack, SERVER, |_| {}), at);
    assert_eq!(machine.place(), Place::Bound);
    assert_eq!(machine.lease().unwrap().expire_at, at + seconds(3600));

    let (rebind, expire) = {
        let held = machine.lease().unwrap();
        (held.rebind_at, held.expire_at)
    };
    let mut last = None;
    while machine.deadline() < rebind {
        let at = machine.deadline();
        assert!(last.is_none_or(|last| at >= last + seconds(59)));
        assert_eq!(one(&mut machine, at).destination, SERVER);
        last = Some(at);
    }
    let request = one(&mut machine, rebind);
    assert_eq!(machine.place(), Place::Rebinding);
    assert_eq!(
        (request.source, request.destination),
        (OWN, Ipv4Addr::BROADCAST)
    );
    let mut other = machine.deadline();
    while other < expire {
        assert_eq!(one(&mut machine, other).destination, Ipv4Addr::BROADCAST);
        assert!(machine.lease().is_some());
        other = machine.deadline();
    }
    // It is over to the moment, and looked for anew.
    assert_eq!(other, expire);
    assert_eq!(kind(&one(&mut machine, expire)), MessageType::Discover);
    assert!(machine.lease().is_none());
}

#[test]
fn another_server_may_take_over_while_rebinding() {
    let mut machine = bound(seconds(0));
    let rebind = machine.lease().unwrap().rebind_at;
    let request = machine.poll(rebind).pop().unwrap();
    let other = answer(&request, MessageType::Ack, OTHER, |message| {
        message.set_yiaddr(Ipv4Addr::new(192, 0, 2, 11));
    });
    machine.receive(&other, rebind);
    assert_eq!(refused(&machine), [(Refusal::BadAddress, 1)]);
    machine.receive(&answer(&request, MessageType::Ack, OTHER, |_| {}), rebind);
    assert_eq!(machine.lease().unwrap().terms.server, OTHER);
}

#[test]
fn a_no_ends_the_lease_and_many_are_not_answered_at_once() {
    let mut machine = bound(seconds(0));
    let mut now = machine.deadline();
    let request = one(&mut machine, now);
    machine.receive(&answer(&request, MessageType::Nak, OTHER, |_| {}), now);
    assert!(machine.lease().is_some());
    machine.receive(&answer(&request, MessageType::Nak, SERVER, |_| {}), now);
    assert!(machine.lease().is_none());
    for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
        assert_eq!(machine.deadline(), now + seconds(pause));
        now = machine.deadline();
        let discover = one(&mut machine, now);
        machine.receive(&answer(&discover, MessageType::Offer, SERVER, |_| {}), now);
        let request = one(&mut machine, now);
        machine.receive(&answer(&request, MessageType::Nak, SERVER, |_| {}), now);
    }
}

#[test]
fn a_lease_of_before_is_asked_about_and_holds_without_an_answer() {
    let held = bound(seconds(0)).lease().unwrap().clone();
    let reboot = |now| machine(Some(held.clone()), now);
    let now = seconds(100);
    let mut first = reboot(now);
    assert_eq!((first.place(), first.lease()), (Place::Rebooting, None));
    let request = one(&mut first, now);
    let message = sent(&request);
    assert_eq!(
        message.opts().get(OptionCode::RequestedIpAddress),
        Some(&DhcpOption::RequestedIpAddress(OWN))
    );
    assert!(!message.opts().contains(OptionCode::ServerIdentifier));
    assert_eq!(
        (message.ciaddr(), request.destination),
        (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST)
    );
    first.receive(&answer(&request, MessageType::Ack, OTHER, |_| {}), now);
    assert_eq!(first.lease().unwrap().expire_at, seconds(3700));

    let mut second = reboot(now);
    let request = one(&mut second, now);
    second.receive(&answer(&request, MessageType::Nak, OTHER, |_| {}), now);
    assert_eq!((second.place(), second.lease()), (Place::Init, None));

    let mut third = reboot(now);
    while third.place() == Place::Rebooting {
        let at = third.deadline();
        third.poll(at);
    }
    assert_eq!(third.lease(), Some(&held));
    assert!(third.deadline() < seconds(1801));

    // One of unknown age only holds if somebody says so.
    let mut doubtful = reboot(now).in_doubt();
    let request = one(&mut doubtful, now);
    doubtful.receive(&answer(&request, MessageType::Ack, SERVER, |_| {}), now);
    assert_eq!(doubtful.lease().unwrap().expire_at, seconds(3700));
    assert!(!doubtful.doubts());
    let mut doubtful = reboot(now).in_doubt();
    let mut kinds = Vec::new();
    while doubtful.place() == Place::Rebooting {
        assert_eq!((doubtful.held(), doubtful.lease()), (Some(&held), None));
        let at = doubtful.deadline();
        kinds.extend(doubtful.poll(at).iter().map(kind));
    }
    assert_eq!((doubtful.held(), doubtful.doubts()), (None, false));
    assert_eq!(
        kinds,
        [
            MessageType::Request,
            MessageType::Request,
            MessageType::Discover
        ]
    );

    // One that is over is not spoken of.
    assert_eq!(
        kind(&one(&mut reboot(seconds(3600)), seconds(3600))),
        MessageType::Discover
    );
}

#[test]
fn what_answers_nothing_is_counted_and_changes_nothing() {
    let mut machine = machine(None, seconds(0));
    let discover = one(&mut machine, seconds(0));
    let offer = |change: fn(&mut Message)| answer(&discover, MessageType::Offer, SERVER, change);
    let wrong = [
        (
            offer(|message| {
                message.set_opcode(Opcode::BootRequest);
            }),
            Refusal::NotOfServer,
        ),
        (
            offer(|message| {
                message.opts_mut().remove(OptionCode::MessageType);
            }),
            Refusal::NotOfServer,
        ),
        (
            offer(|message| {
                message.set_chaddr(&[2, 0, 0, 0, 0, 8]);
            }),
            Refusal::OtherClient,
        ),
        (
            offer(|message| {
                message.set_xid(7);
            }),
            Refusal::OtherTransaction,
        ),
        (
            offer(|message| {
                message.opts_mut().remove(OptionCode::ServerIdentifier);
            }),
            Refusal::OtherServer,
        ),
        (
            offer(|message| {
                message.set_yiaddr(Ipv4Addr::LOCALHOST);
            }),
            Refusal::BadAddress,
        ),
        (
            offer(|message| {
                message.opts_mut().insert(DhcpOption::SubnetMask(OWN));
            }),
            Refusal::BadMask,
        ),
        (
            offer(|message| {
                message.opts_mut().remove(OptionCode::AddressLeaseTime);
            }),
            Refusal::BadTime,
        ),
        (
            answer(&discover, MessageType::Ack, SERVER, |_| {}),
            Refusal::Unexpected,
        ),
        (
            answer(&discover, MessageType::Nak, SERVER, |_| {}),
            Refusal::Unexpected,
        ),
        (
            answer(&discover, MessageType::Inform, SERVER, |_| {}),
            Refusal::NotOfServer,
        ),
        (vec![0; 100], Refusal::Malformed),
    ];
    for (message, reason) in wrong {
        let before = machine.refusals().get(&reason).copied().unwrap_or(0);
        machine.receive(&message, seconds(1));
        assert_eq!(
            machine.refusals().get(&reason),
            Some(&(before + 1)),
            "{reason}"
        );
        assert_eq!(machine.place(), Place::Selecting);
    }
    // An option that nobody asked for and that is wrong hides none of the others.
    let mut odd = answer(&discover, MessageType::Offer, SERVER, |_| {});
    odd.splice(240..240, [12, 1, 0xff, 81, 1, 0, 121, 1, 99]);
    machine.receive(&odd, seconds(1));
    assert_eq!(machine.place(), Place::Requesting);
    // With a lease nobody is listened to.
    let mut machine = bound(seconds(0));
    machine.receive(&offer(|_| {}), seconds(1));
    assert_eq!(refused(&machine), [(Refusal::Unexpected, 1)]);
}

#[test]
fn options_go_on_where_names_would_be() {
    let mut machine = machine(None, seconds(0));
    let discover = one(&mut machine, seconds(0));
    let mut offer = answer(&discover, MessageType::Offer, SERVER, |message| {
        message.opts_mut().remove(OptionCode::AddressLeaseTime);
        message.opts_mut().remove(OptionCode::SubnetMask);
    });
    offer.splice(240..240, [52, 1, 3]);
    // The file holds the lease time, the server's name the mask.
    offer[108..115].copy_from_slice(&[51, 4, 0, 0, 0, 100, 255]);
    offer[44..51].copy_from_slice(&[1, 4, 255, 255, 255, 128, 255]);
    machine.receive(&offer, seconds(0));
    let request = one(&mut machine, seconds(0));
    machine.receive(
        &answer(&request, MessageType::Ack, SERVER, |_| {}),
        seconds(0),
    );
    assert_eq!(machine.refusals().len(), 0);
    assert_eq!(machine.place(), Place::Bound);
}

#[test]
fn a_lease_is_given_back_to_its_server() {
    let mut bound = bound(seconds(0));
    let held = bound.lease().unwrap().clone();
    let release = bound.release(seconds(5)).unwrap();
    assert!(bound.lease().is_none() && bound.poll(seconds(10_000)).is_empty());
    let message = sent(&release);
    assert_eq!(
        (kind(&release), message.ciaddr()),
        (MessageType::Release, OWN)
    );
    assert_eq!((release.source, release.destination), (OWN, SERVER));
    assert_eq!(
        message.opts().get(OptionCode::ServerIdentifier),
        Some(&DhcpOption::ServerIdentifier(SERVER))
    );
    assert!(!message.opts().contains(OptionCode::Hostname));
    assert!(machine(None, seconds(0)).release(seconds(0)).is_none());
    // One that is only asked about as yet, too.
    let mut rebooting = machine(Some(held), seconds(6));
    rebooting.poll(seconds(6));
    assert_eq!(rebooting.place(), Place::Rebooting);
    let release = rebooting.release(seconds(7)).unwrap();
    assert_eq!(
        (kind(&release), sent(&release).ciaddr(), release.destination),
        (MessageType::Release, OWN, SERVER)
    );
    assert!(rebooting.held().is_none() && rebooting.poll(seconds(10_000)).is_empty());
}

/// What may happen to a client.
#[derive(Clone, Debug)]
enum Happens {
    Time(u64),
    Answer(u8, bool),
    Bytes(Vec<u8>),
}

fn happens() -> impl Strategy<Value = Happens> {
    prop_oneof![
        4 => (0u64..5_000_000).prop_map(Happens::Time),
        4 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(kind, right)| Happens::Answer(kind, right)),
        1 => prop::collection::vec(any::<u8>(), 0..400).prop_map(Happens::Bytes),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_it_ends_its_leases_in_time_and_never_hurries(all in prop::collection::vec(happens(), 1..200)) {
        let mut now = seconds(0);
        let mut machine = machine(None, now);
        let mut last = None;
        for one in all {
            match one {
                Happens::Time(milliseconds) => now += Time::from_millis(milliseconds),
                Happens::Answer(kind, right) => {
                    if let Some(last) = &last {
                        let kind = [MessageType::Offer, MessageType::Ack, MessageType::Nak][usize::from(kind % 3)];
                        let from = if right { SERVER } else { OTHER };
                        machine.receive(&answer(last, kind, from, |_| {}), now);
                    }
                }
                Happens::Bytes(bytes) => machine.receive(&bytes, now),
            }
            let outgoing = machine.poll(now);
            // However long it slept: one message of each state that it passed.
            prop_assert!(outgoing.len() <= 4, "{outgoing:?}");
            prop_assert!(machine.deadline() > now);
            last = outgoing.last().cloned().or(last);
            let lease_end = machine.lease().map(|held| held.expire_at);
            prop_assert!(lease_end.is_none_or(|end| end > now), "{lease_end:?} {now:?}");
        }
    }

    #[test]
    fn bytes_of_a_message_may_be_anything(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..30), cut in any::<prop::sample::Index>()) {
        let mut machine = machine(None, seconds(0));
        let discover = one(&mut machine, seconds(0));
        let mut offer = answer(&discover, MessageType::Offer, SERVER, |_| {});
        for (at, byte) in changes {
            let at = at.index(offer.len());
            offer[at] = byte;
        }
        offer.truncate(cut.index(offer.len() + 1));
        machine.receive(&offer, seconds(0));
        machine.poll(seconds(0));
    }
}
