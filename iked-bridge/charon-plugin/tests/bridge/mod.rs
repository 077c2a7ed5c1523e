//! iked-bridge's side of the socket, played by the test.
#![allow(dead_code)]

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use culvert_plugin_wire::{Answer, Call, Spi, ToBridge, ToPlugin, Usage, read_frame, write_frame};

/// What every query is answered.
pub const BYTES: u64 = 123_456;
/// What every query is answered.
pub const PACKETS: u64 = 789;

#[derive(Default)]
struct Record {
    calls: Vec<Call>,
    epochs: Vec<u64>,
    spis: Vec<u32>,
    connection: Option<UnixStream>,
    delay: Duration,
}

/// Listens, answers every call with success and remembers it.
pub struct FakeBridge {
    path: PathBuf,
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl FakeBridge {
    pub fn start(path: &Path) -> Self {
        let mut bridge = Self {
            path: path.to_owned(),
            record: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        bridge.come_back();
        bridge
    }

    pub fn path(&self) -> &str {
        self.path.to_str().unwrap()
    }

    /// What `pick` finds in the calls so far.
    pub fn calls<T>(&self, pick: impl Fn(&Call) -> Option<T>) -> Vec<T> {
        self.record
            .lock()
            .unwrap()
            .calls
            .iter()
            .filter_map(pick)
            .collect()
    }

    /// The epoch of each session so far.
    pub fn epochs(&self) -> Vec<u64> {
        self.record.lock().unwrap().epochs.clone()
    }

    /// The SPIs given out.
    pub fn spis(&self) -> Vec<u32> {
        self.record.lock().unwrap().spis.clone()
    }

    /// Lets each answer take so long, however many calls are under way: as a dataplane would.
    pub fn delay(&self, delay: Duration) {
        self.record.lock().unwrap().delay = delay;
    }

    pub fn upcall(&self, upcall: Answer) {
        let mut record = self.record.lock().unwrap();
        let connection = record.connection.as_mut().expect("a session");
        write_frame(connection, &ToPlugin::upcall(upcall)).unwrap();
    }

    /// Closes the session and stops listening.
    pub fn leave(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = std::fs::remove_file(&self.path);
        if let Some(connection) = self.record.lock().unwrap().connection.take() {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Listens again.
    pub fn come_back(&mut self) {
        let listener = UnixListener::bind(&self.path).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.stop = Arc::default();
        let (stop, record) = (Arc::clone(&self.stop), Arc::clone(&self.record));
        self.thread = Some(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((connection, _)) => {
                        connection.set_nonblocking(false).unwrap();
                        serve(connection, &record);
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(10)),
                }
            }
        }));
    }
}

impl Drop for FakeBridge {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Ok(mut record) = self.record.lock()
            && let Some(connection) = record.connection.take()
        {
            let _ = connection.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn serve(mut connection: UnixStream, record: &Mutex<Record>) {
    record.lock().unwrap().connection = Some(connection.try_clone().unwrap());
    while let Ok(ToBridge { id, call }) = read_frame(&mut connection) {
        let call = call.expect("a call");
        let (answer, delay) = {
            let mut record = record.lock().unwrap();
            let answer = match &call {
                Call::Hello(hello) => {
                    record.epochs.push(hello.epoch);
                    Answer::done()
                }
                Call::GetSpi(_) => {
                    let spi = 0xc000_0001 + u32::try_from(record.spis.len()).unwrap();
                    record.spis.push(spi);
                    Answer::Spi(Spi { spi })
                }
                Call::QuerySa(_) => Answer::Usage(Usage {
                    bytes: BYTES,
                    packets: PACKETS,
                    use_time: monotonic_seconds(),
                }),
                _ => Answer::done(),
            };
            record.calls.push(call);
            (answer, record.delay)
        };
        if !delay.is_zero() {
            let mut connection = connection.try_clone().unwrap();
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                let _ = write_frame(&mut connection, &ToPlugin::answer(id, answer));
            });
            continue;
        }
        if write_frame(&mut connection, &ToPlugin::answer(id, answer)).is_err() {
            break;
        }
    }
}

/// `CLOCK_MONOTONIC`, which is `CLOCK_BOOTTIME` on a machine that never slept.
fn monotonic_seconds() -> u64 {
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    uptime.split('.').next().unwrap().parse().unwrap()
}
