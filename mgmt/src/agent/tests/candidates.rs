//! What is written into a candidate by other words than `set`, and what is told of it.

use super::*;

#[tokio::test]
async fn items_are_renamed_copied_and_put_in_order() {
    use api::insertion::Position as To;
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench
        .set(
            &candidate,
            &[
                "interfaces lan addresses 10.1.0.1/24",
                "interfaces lan mtu 1400",
                "routes 10.9.0.0/16 next_hops interface lan",
                "system dns_servers 192.0.2.53",
                "system dns_servers 192.0.2.54",
            ],
        )
        .await;
    let change = async |at: &str, change: Change| {
        let request = api::EditRequest {
            candidate: candidate.clone(),
            at: words(at).words,
            edits: vec![edit(change)],
        };
        bench.agent.edit(&root(), request).await.unwrap().problems
    };
    let to = |from: &str, to: &str| api::Move {
        from: words(from).words,
        to: words(to).words,
    };
    let now = async || {
        bench
            .text(api::source::Which::Candidate(candidate.clone()))
            .await
    };
    let renamed = Change::Rename(to("interfaces lan", "inside"));
    assert_eq!(change("", renamed).await, []);
    // From where somebody is.
    let copied = Change::Copy(to("inside", "guests"));
    assert_eq!(change("interfaces", copied).await, []);
    let text = now().await;
    for line in [
        "set interfaces inside mtu 1400\n",
        "set interfaces guests mtu 1400\n",
        "set routes 10.9.0.0/16 next_hops interface inside\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert!(!text.contains("interfaces lan"), "{text}");
    let (first, second) = ("192.0.2.53", "192.0.2.54");
    let order = async || {
        let text = now().await;
        text.find(first).unwrap() < text.find(second).unwrap()
    };
    assert!(order().await);
    for (position, in_order) in [
        (To::Last(true), false),
        (To::First(true), true),
        (To::After(words(second)), false),
        (To::Before(words(second)), true),
    ] {
        let insertion = Change::Insert(api::Insertion {
            words: words(&format!("dns_servers {first}")).words,
            position: Some(position),
        });
        assert_eq!(change("system", insertion).await, []);
        assert_eq!(order().await, in_order);
    }
    // Neither over what is there, nor from nowhere.
    for wrong in [
        Change::Rename(to("interfaces inside", "guests")),
        Change::Copy(to("interfaces nowhere", "anywhere")),
    ] {
        let before = now().await;
        assert_eq!(change("", wrong).await.len(), 1);
        assert_eq!(now().await, before);
    }
}

#[tokio::test]
async fn defaults_are_shown_to_whoever_asks() {
    let bench = Bench::new();
    let candidate = bench.open().await;
    bench.set(&candidate, &[WAN]).await;
    let get = async |defaults, format: api::Format| {
        let request = api::GetRequest {
            source: Some(api::Source {
                which: Some(api::source::Which::Candidate(candidate.clone())),
            }),
            format: format.into(),
            defaults,
            at: words("interfaces").words,
        };
        bench.agent.get(&root(), request).await.unwrap().text
    };
    for (format, known) in [
        (api::Format::Set, "set interfaces wan mtu 1500"),
        (api::Format::Text, "mtu 1500;"),
        (api::Format::Json, "\"mtu\": 1500"),
    ] {
        let (plain, whole) = (get(false, format).await, get(true, format).await);
        assert!(plain.contains("192.0.2.1/24") && !plain.contains(known));
        assert!(
            whole.contains("192.0.2.1/24") && whole.contains(known),
            "{whole}"
        );
    }
}

#[tokio::test]
async fn what_can_be_written_next_is_of_the_configuration() {
    use api::complete_request::Verb;
    use api::completion::Kind;
    let bench = Bench::new();
    let running = bench.open().await;
    bench.set(&running, &[WAN]).await;
    assert_eq!(bench.commit(&running).await.outcome(), Outcome::Applied);
    let candidate = bench.open().await;
    let lan = "interfaces lan addresses 10.1.0.1/24";
    bench.set(&candidate, &[lan]).await;
    let offers = async |candidate: &str, at: &str, verb: Verb, before: &str, partial: &str| {
        let request = api::CompleteRequest {
            candidate: candidate.to_owned(),
            at: words(at).words,
            verb: verb.into(),
            words: words(before).words,
            partial: partial.to_owned(),
        };
        let reply = bench.agent.complete(&root(), request).await.unwrap();
        let offers = reply.completions.into_iter();
        offers.map(|one| (one.kind(), one.text)).collect::<Vec<_>>()
    };
    let offer = |kind, text: &str| (kind, text.to_owned());
    let (lan, wan) = (offer(Kind::Name, "lan"), offer(Kind::Name, "wan"));
    // Without a candidate, of what runs; with one, of that.
    assert_eq!(
        offers("", "", Verb::Delete, "interfaces", "").await,
        std::slice::from_ref(&wan)
    );
    let own = &candidate;
    assert_eq!(
        offers(own, "", Verb::Delete, "interfaces", "").await,
        [lan.clone(), wan.clone()]
    );
    assert_eq!(
        offers(own, "interfaces", Verb::Location, "", "l").await,
        [lan]
    );
    assert_eq!(
        offers(
            own,
            "",
            Verb::Set,
            "routes 10.9.0.0/16 next_hops interface",
            "w"
        )
        .await,
        [wan]
    );
    let mtu = offer(Kind::Keyword, "mtu");
    assert_eq!(
        offers(own, "interfaces lan", Verb::Set, "", "mt").await,
        [mtu]
    );
    // What is not there can be set, and not be deleted.
    assert_eq!(
        offers(own, "interfaces lan", Verb::Delete, "", "mt").await,
        []
    );
    let values = offers(own, "", Verb::Set, "interfaces lan enabled", "t").await;
    assert_eq!(values, [offer(Kind::Value, "true")]);
    let hints = offers(own, "", Verb::Set, "interfaces lan mtu", "").await;
    assert!(
        matches!(hints.as_slice(), [(Kind::Hint, text)] if text.contains("576..9216")),
        "{hints:?}"
    );
}

#[tokio::test]
async fn as_many_sessions_as_there_may_be_and_no_more() {
    let bench = Bench::new();
    let mut first = None;
    for _ in 0..32 {
        let candidate = bench.open().await;
        first.get_or_insert(candidate);
    }
    let root = root();
    let one_more = || bench.agent.open(&root, api::OpenRequest::default());
    let refused = one_more().await.unwrap_err();
    assert!(
        matches!(
            refused,
            Refusal::Store(crate::store::StoreError::TooManyCandidates(32))
        ),
        "{refused}"
    );
    let request = api::DiscardRequest {
        candidate: first.unwrap(),
        keep: false,
    };
    bench.agent.discard(&root, request).await.unwrap();
    one_more().await.unwrap();
}
