//! Sessions that nobody uses end.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::termios::{OptionalActions, Termios, tcsetattr};

/// When somebody last pressed a key.
#[derive(Debug, Clone)]
pub struct Idle {
    began: Instant,
    last_ms: Arc<AtomicU64>,
    busy: Arc<AtomicBool>,
}

impl Idle {
    /// From now.
    pub fn begin() -> Self {
        Self {
            began: Instant::now(),
            last_ms: Arc::default(),
            busy: Arc::default(),
        }
    }

    /// Somebody is there.
    pub fn touch(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now, Ordering::Relaxed);
    }

    /// While a command runs nobody can be expected to press keys.
    pub fn while_busy<T>(&self, work: impl FnOnce() -> T) -> T {
        self.busy.store(true, Ordering::Relaxed);
        let done = work();
        self.touch();
        self.busy.store(false, Ordering::Relaxed);
        done
    }

    /// For how long nobody was.
    pub fn idle(&self) -> Duration {
        if self.busy.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.began
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last_ms.load(Ordering::Relaxed)))
    }

    /// Ends the process when nobody was there for so long, with the terminal as it was. A candidate stays in mgmt, and can be gone on with.
    pub fn end_after(&self, limit: Duration, terminal: Option<Termios>) {
        let idle = self.clone();
        thread::spawn(move || {
            loop {
                let left = limit.saturating_sub(idle.idle());
                if left.is_zero() {
                    break;
                }
                thread::sleep(left.max(Duration::from_millis(100)));
            }
            if let Some(before) = &terminal {
                let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
            }
            // Pasted text is marked no longer; the process ends, so nobody hears of a failure.
            let _ = write!(
                std::io::stderr(),
                "\x1b[?2004l\r\nnobody was here for {}: the session ends\r\n",
                crate::table::span(limit.as_secs())
            );
            std::process::exit(0);
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn keys_and_work_keep_it_awake() {
        let idle = Idle::begin();
        thread::sleep(Duration::from_millis(20));
        assert!(idle.idle() >= Duration::from_millis(20));
        let within = idle.while_busy(|| {
            thread::sleep(Duration::from_millis(20));
            idle.idle()
        });
        assert_eq!(within, Duration::ZERO);
        assert!(idle.idle() < Duration::from_millis(20));
    }
}
