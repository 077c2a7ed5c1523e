//! A capture that runs beside a test: every frame is classified, counted and written to a pcap file.
//!
//! ```text
//!   links of a namespace -> PacketSocket -> thread: classify -> count, keep examples -> pcap file
//! ```
//!
//! While throughput is measured a copy of every frame would compete with the gateways for the
//! processor. [`Capture::set_depth`] then lets the kernel drop what has the shape of ESP before it is
//! copied; everything else is still taken. The counters of the links tell how many were passed over.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, SystemTime},
};

use socket2::SockFilter;

use crate::{
    classify::{WanClass, classify},
    namespace::Namespace,
    packet_socket::{PacketSocket, PacketSocketError, Seen},
    pcap::PcapWriter,
};

/// How long the thread waits for a frame before it looks whether it shall stop.
const POLL: Duration = Duration::from_millis(50);
/// Frames in the clear that are kept to be shown.
const EXAMPLES: usize = 8;
const FRAME_BUFFER: usize = 65_536;

/// Why a capture could not run, or did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The packet socket failed.
    #[error(transparent)]
    Socket(#[from] PacketSocketError),
    /// The pcap file could not be written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The thread could not be started.
    #[error("capture thread: {0}")]
    Thread(#[source] io::Error),
    /// The thread ended by a panic.
    #[error("the capture thread died")]
    Died,
}

/// How much of what passes is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Every frame.
    All,
    /// Every frame that has not the shape of ESP.
    NoEsp,
}

/// What a capture saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CaptureReport {
    /// Frames of each class.
    pub frames: BTreeMap<WanClass, u64>,
    /// Frames the kernel had no room for; with any of them a capture proves nothing.
    pub lost: u64,
    /// The first few frames in the clear.
    pub examples: Vec<Vec<u8>>,
}

impl CaptureReport {
    /// Frames of one class.
    pub fn count(&self, class: WanClass) -> u64 {
        self.frames.get(&class).copied().unwrap_or(0)
    }

    /// All frames taken.
    pub fn total(&self) -> u64 {
        self.frames.values().sum()
    }
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    socket: Arc<PacketSocket>,
    report: Arc<Mutex<CaptureReport>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), CaptureError>>>,
}

impl Capture {
    /// Starts to take every frame that the links of `namespace` receive. `marker` is what only packets
    /// from inside carry; `file` gets the frames.
    pub fn start(
        namespace: &Namespace,
        seen: Seen,
        marker: &[u8],
        file: Option<&Path>,
    ) -> Result<Self, CaptureError> {
        let socket = Arc::new(PacketSocket::open(namespace, seen)?);
        socket.set_timeout(POLL)?;
        let report = Arc::new(Mutex::new(CaptureReport::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let output = file.map(Output::create).transpose()?;
        let taker = Taker {
            socket: Arc::clone(&socket),
            report: Arc::clone(&report),
            stop: Arc::clone(&stop),
            marker: marker.to_vec(),
            output,
        };
        let thread = thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || taker.run())
            .map_err(CaptureError::Thread)?;
        Ok(Self {
            socket,
            report,
            stop,
            thread: Some(thread),
        })
    }

    /// Takes every frame, or passes over what has the shape of ESP.
    pub fn set_depth(&self, depth: Depth) -> Result<(), CaptureError> {
        match depth {
            Depth::All => self.socket.clear_filter()?,
            Depth::NoEsp => self.socket.set_filter(&without_esp())?,
        }
        Ok(())
    }

    /// What was seen so far.
    pub fn report(&self) -> CaptureReport {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Takes what is still queued, closes the file and gives the report.
    pub fn stop(mut self) -> Result<CaptureReport, CaptureError> {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| CaptureError::Died)??;
        }
        Ok(self.report())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Output {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
}

impl Output {
    fn create(path: &Path) -> Result<Self, CaptureError> {
        let failed = |source| CaptureError::File {
            path: path.to_owned(),
            source,
        };
        let file = File::create(path).map_err(failed)?;
        let writer = PcapWriter::new(BufWriter::with_capacity(1 << 20, file)).map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            writer,
        })
    }
}

struct Taker {
    socket: Arc<PacketSocket>,
    report: Arc<Mutex<CaptureReport>>,
    stop: Arc<AtomicBool>,
    marker: Vec<u8>,
    output: Option<Output>,
}

impl Taker {
    fn run(mut self) -> Result<(), CaptureError> {
        let mut buffer = vec![0; FRAME_BUFFER];
        loop {
            // Read before the frame: after a stop the queue is emptied once more.
            let stopping = self.stop.load(Ordering::Acquire);
            match self.socket.receive(&mut buffer)? {
                Some(info) => {
                    let frame = buffer.get(..info.length).unwrap_or(&buffer);
                    let class = classify(frame, &self.marker);
                    if let Some(output) = &mut self.output {
                        output
                            .writer
                            .write(SystemTime::now(), frame, info.length)
                            .map_err(|source| CaptureError::File {
                                path: output.path.clone(),
                                source,
                            })?;
                    }
                    let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
                    *report.frames.entry(class).or_default() += 1;
                    if class == WanClass::Cleartext && report.examples.len() < EXAMPLES {
                        report.examples.push(frame.to_vec());
                    }
                }
                None if stopping => break,
                None => {}
            }
        }
        let lost = self.socket.take_lost()?;
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .lost += u64::from(lost);
        if let Some(mut output) = self.output {
            output.writer.flush().map_err(|source| CaptureError::File {
                path: output.path,
                source,
            })?;
        }
        Ok(())
    }
}

/// Classic BPF: drops IPv4 and IPv6 with protocol 50, and IPv4 UDP 4500 (no options, no fragment) whose
/// first word is neither zero nor the keepalive's; accepts everything else.
fn without_esp() -> [SockFilter; 20] {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_LENGTH: u16 = 0x80;
    const IF_EQUAL: u16 = 0x15;
    const IF_GREATER: u16 = 0x25;
    const IF_BITS: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let op = |code, k| SockFilter::new(code, 0, 0, k);
    let jump = |code, k, yes, no| SockFilter::new(code, yes, no, k);
    // Index 18 accepts, index 19 drops; a jump counts from the next instruction.
    [
        op(LOAD_HALF, 12),                 // 0 ethertype
        jump(IF_EQUAL, 0x86dd, 0, 2),      // 1 IPv6: next, otherwise 4
        op(LOAD_BYTE, 20),                 // 2 next header
        jump(IF_EQUAL, 50, 15, 14),        // 3 ESP: drop, otherwise accept
        jump(IF_EQUAL, 0x0800, 0, 13),     // 4 not IPv4: accept
        op(LOAD_BYTE, 23),                 // 5 protocol
        jump(IF_EQUAL, 50, 12, 0),         // 6 ESP: drop
        jump(IF_EQUAL, 17, 0, 10),         // 7 not UDP: accept
        op(LOAD_BYTE, 14),                 // 8 version and header length
        jump(IF_EQUAL, 0x45, 0, 8),        // 9 options: accept
        op(LOAD_HALF, 20),                 // 10 fragment
        jump(IF_BITS, 0x3fff, 6, 0),       // 11 a fragment: accept
        op(LOAD_WORD, 34),                 // 12 both ports
        jump(IF_EQUAL, 0x1194_1194, 0, 4), // 13 not 4500 to 4500: accept
        op(LOAD_LENGTH, 0),                // 14 bytes in the frame
        jump(IF_GREATER, 62, 0, 2),        // 15 too short for ESP: accept
        op(LOAD_WORD, 42),                 // 16 SPI, or the non-ESP marker
        jump(IF_GREATER, 255, 1, 0),       // 17 an SPI: drop, otherwise accept
        op(RETURN, 0x0004_0000),           // 18 accept
        op(RETURN, 0),                     // 19 drop
    ]
}
