//! No buffer of the bus keeps a key after the call that carried it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use culvert_bus::{Client, Context, Router, Server};
use culvert_model::bus::{AddSaReply, AddSaRequest, SaKeys};

const KEY: usize = 64;
const CALLS: u8 = 10;

/// Byte `i` of the key of call `n`. The key itself is nowhere but in the requests.
fn key_byte(n: u8, i: usize) -> u8 {
    let mixed = (u64::from(n) << 32 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as u8
}

fn request(n: u8) -> AddSaRequest {
    AddSaRequest {
        keys: Some(SaKeys {
            encryption: (0..KEY).map(|i| key_byte(n, i)).collect(),
            integrity: Vec::new(),
        }),
        ..AddSaRequest::default()
    }
}

/// How often the last half of the key of each call is in the memory of this process. (An allocator writes its own
/// over the first bytes of what it frees.)
fn copies() -> Vec<usize> {
    let memory = File::open("/proc/self/mem").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let mut counts = vec![0; usize::from(CALLS) + 1];
    let here = 0_u8;
    // The keys that are looked for pass over this thread's stack.
    let own_stack = (&raw const here) as u64;
    // Kept inverted: what is read here must not be found again.
    let mut page = vec![0_u8; 1 << 16];
    let own_page = page.as_ptr() as u64..page.as_ptr() as u64 + page.len() as u64;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().unwrap();
        if !words.next().unwrap().starts_with("rw") || line.contains("[v") {
            continue;
        }
        let (begin, end) = range.split_once('-').unwrap();
        let mut at = u64::from_str_radix(begin, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        if (at..end).contains(&own_stack) {
            continue;
        }
        while at < end {
            if own_page.contains(&at) {
                at = own_page.end;
                continue;
            }
            let ahead = if at < own_page.start {
                own_page.start.min(end)
            } else {
                end
            } - at;
            let length = page.len().min(usize::try_from(ahead).unwrap());
            let Ok(read) = memory.read_at(&mut page[..length], at) else {
                break;
            };
            let untouched = page[..read].iter().all(|byte| *byte == 0);
            for byte in &mut page[..read] {
                *byte = !*byte;
            }
            let searched = if untouched { 0 } else { counts.len() };
            for (n, count) in counts.iter_mut().enumerate().take(searched) {
                *count += page[..read]
                    .windows(KEY / 2)
                    .filter(|seen| (0..KEY / 2).all(|i| seen[i] == !key_byte(n as u8, KEY / 2 + i)))
                    .count();
            }
            // Overlapping, so that a key across the border is seen, and seen once.
            let fresh = read.saturating_sub(KEY / 2 - 1).max(1);
            at += fresh as u64;
        }
    }
    counts
}

#[tokio::test]
async fn only_nngs_own_copy_of_a_request_outlives_its_call() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let router = Router::new("test").on(|request: AddSaRequest, _: Context| async move {
        assert_eq!(request.keys.as_ref().unwrap().encryption.len(), KEY);
        Ok(AddSaReply {})
    });
    let _running = Server::bind_for_secrets(&path, router)
        .unwrap()
        .spawn()
        .unwrap();
    let client = Client::for_secrets(&path).unwrap();
    for n in 0..CALLS {
        client
            .call(&request(n), Duration::from_secs(10))
            .await
            .unwrap();
    }
    let counts = copies();
    assert!(counts.iter().all(|count| *count <= 1), "{counts:?}");

    // The search finds what is there, and only that.
    let never_sent = usize::from(CALLS);
    assert_eq!(counts[never_sent], 0);
    let held = request(CALLS);
    assert_eq!(copies()[never_sent], 1);
    drop(held);
    assert_eq!(copies()[never_sent], 0);
}
