//! No key ever meets an IV twice: fingerprints of keys from the dataplanes, IVs from the capture.
//!
//! ```text
//!   every 50 ms: DumpSas of both gateways -> SPI to fingerprint of (key, salt)
//!   afterwards:  every ESP packet of the capture -> (fingerprint, IV), unique
//! ```

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use culvert_model::bus::Direction;
use culvert_netlab::addressing::Side;

use crate::control::Control;
use crate::laboratory::Laboratory;
use crate::wire::{Kind, Seized};

/// An SA that lives shorter than this and sends could be missed; the proof then fails, it does not pass.
const INTERVAL: Duration = Duration::from_millis(50);

/// Outbound SAs of one side: SPI to fingerprint.
type Keys = BTreeMap<u32, Vec<u8>>;

/// Watches the SAs of both gateways.
pub struct KeyWatch {
    stop: Arc<AtomicBool>,
    threads: [JoinHandle<anyhow::Result<Keys>>; 2],
}

impl KeyWatch {
    /// Begins to watch running gateways.
    pub fn start(laboratory: &Laboratory) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let threads = Side::BOTH.map(|side| {
            let root = laboratory.gateway(side).root().to_owned();
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || watch(&root, &stop))
        });
        Self { stop, threads }
    }

    /// Fails if an ESP packet of the capture used an IV that its key had used before, or a key nobody knows.
    /// Answers how many packets were looked at.
    pub fn prove(self, seized: &Seized) -> anyhow::Result<usize> {
        self.stop.store(true, Ordering::Release);
        let mut seen = HashSet::new();
        for (side, thread) in Side::BOTH.into_iter().zip(self.threads) {
            let Ok(keys) = thread.join() else {
                bail!("the watch of {side:?} died");
            };
            let keys = keys?;
            for packet in seized.of(side) {
                let Kind::Esp { spi, iv, .. } = packet.kind else {
                    continue;
                };
                let key = keys.get(&spi).with_context(|| {
                    format!("{side:?} sent on {spi:#010x}, which no dump shows")
                })?;
                ensure!(
                    seen.insert((key.clone(), iv)),
                    "{side:?} sent IV {iv:02x?} twice under one key, SPI {spi:#010x}"
                );
            }
        }
        Ok(seen.len())
    }
}

fn watch(root: &Path, stop: &AtomicBool) -> anyhow::Result<Keys> {
    let control = Control::new(root)?;
    let mut keys = Keys::new();
    while !stop.load(Ordering::Acquire) {
        // While it is down it has no SAs.
        let dump = control.sas().unwrap_or_default();
        for entry in dump.sas {
            ensure!(
                !entry.fingerprint.is_empty(),
                "the binary shows no fingerprints; build it with `--features culvert/fingerprint`, as `make test` does"
            );
            let Some(key) = entry.sa.and_then(|sa| sa.key) else {
                bail!("an SA without a key");
            };
            if key.direction == Direction::Out as i32 {
                keys.insert(key.spi, entry.fingerprint);
            }
        }
        std::thread::sleep(INTERVAL);
    }
    Ok(keys)
}
