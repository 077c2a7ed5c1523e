//! A name server of one name, whose address a test changes.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use culvert_netlab::namespace::Namespace;

/// A message without a question is no query.
const HEADER: usize = 12;
/// How often it looks whether it is over.
const TURN: Duration = Duration::from_millis(100);
/// Type A, class IN.
const ADDRESS: [u8; 4] = [0, 1, 0, 1];

/// Answers until it is dropped.
pub struct NameServer {
    address: Arc<Mutex<Ipv4Addr>>,
    asked: Arc<AtomicU32>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// On port 53 of an address of the namespace; every name has the address `of_names`.
    pub fn start(
        namespace: &Namespace,
        listens: Ipv4Addr,
        of_names: Ipv4Addr,
    ) -> anyhow::Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind(SocketAddr::from((listens, 53))))??;
        socket.set_read_timeout(Some(TURN))?;
        let address = Arc::new(Mutex::new(of_names));
        let (asked, over) = (
            Arc::new(AtomicU32::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let thread = {
            let (address, asked, over) = (address.clone(), asked.clone(), over.clone());
            thread::spawn(move || {
                let mut query = [0; 512];
                while !over.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut query) else {
                        continue;
                    };
                    let address = address.lock().map_or(Ipv4Addr::UNSPECIFIED, |now| *now);
                    if let Some(answer) =
                        query.get(..length).and_then(|query| answer(query, address))
                    {
                        asked.fetch_add(1, Ordering::Relaxed);
                        let _ = socket.send_to(&answer, from);
                    }
                }
            })
        };
        Ok(Self {
            address,
            asked,
            over,
            thread: Some(thread),
        })
    }

    /// Every name has this address from now on.
    pub fn set(&self, address: Ipv4Addr) {
        if let Ok(mut now) = self.address.lock() {
            *now = address;
        }
    }

    /// How many queries it has answered.
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a query (RFC 1035 section 4): for type A one record that nobody may keep, for others none.
fn answer(query: &[u8], address: Ipv4Addr) -> Option<Vec<u8>> {
    let question = query.get(HEADER..)?;
    let end = question.iter().position(|byte| *byte == 0)? + 1;
    let kind = question.get(end..end + 4)?;
    let records = u8::from(kind == ADDRESS);
    let mut answer = query.get(..2)?.to_vec();
    // A response with recursion, one question.
    answer.extend([0x81, 0x80, 0, 1, 0, records, 0, 0, 0, 0]);
    answer.extend(question.get(..end + 4)?);
    if records == 1 {
        // The name of the question; time to live 0; four bytes.
        answer.extend([0xc0, 0x0c]);
        answer.extend(ADDRESS);
        answer.extend([0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_for_an_address_is_answered() {
        let mut query = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(b"\x02hq\x07example\x00\x00\x01\x00\x01");
        let answered = answer(&query, Ipv4Addr::new(192, 0, 2, 7));
        let mut expected = vec![7, 9, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        expected.extend(b"\x02hq\x07example\x00\x00\x01\x00\x01");
        expected.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, 7]);
        assert_eq!(answered, Some(expected));
        let aaaa = query.len() - 3;
        query[aaaa] = 28;
        let answered = answer(&query, Ipv4Addr::LOCALHOST);
        assert_eq!(
            answered.map(|answer| (answer.len(), answer[7])),
            Some((query.len(), 0))
        );
        for length in 0..query.len() {
            assert_eq!(answer(&query[..length], Ipv4Addr::LOCALHOST), None);
        }
    }
}
