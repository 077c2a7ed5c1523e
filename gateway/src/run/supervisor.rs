//! When to start, restart and stop the processes of a gateway: a state machine without processes or clocks.
//!
//! ```text
//!              allow            spawned              healthy
//!   Blocked ---------> Waiting ---------> Starting -----------> Ready
//!                       ^  |  (back-off)     | too long           | unhealthy too long
//!                exited |  v                 v                    v
//!                       +-------------------Ending: TERM, after a while KILL
//! ```
//!
//! The shell around it tells what happened ([`Supervisor::exited`] and its siblings) with the present time, asks
//! [`Supervisor::poll`] for what to do, and sleeps until [`Supervisor::deadline`].

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// A process of the gateway, in the order of their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// Keeps the configuration.
    Mgmt,
    /// Forwards packets.
    Dataplane,
    /// Gets addresses by DHCP, where interfaces are to have them so.
    Dhcp,
    /// Joins charon to the dataplane.
    IkedBridge,
    /// strongSwan's IKE daemon.
    Charon,
    /// Lets people in.
    Sshd,
    /// Sets the clock.
    Chronyd,
}

impl Process {
    /// All, in the order of their start.
    pub const ALL: [Self; 7] = [
        Self::Mgmt,
        Self::Dataplane,
        Self::Dhcp,
        Self::IkedBridge,
        Self::Charon,
        Self::Sshd,
        Self::Chronyd,
    ];

    /// As in file names and the journal.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mgmt => "mgmt",
            Self::Dataplane => "dataplane",
            Self::Dhcp => "dhcp",
            Self::IkedBridge => "iked-bridge",
            Self::Charon => "charon",
            Self::Sshd => "sshd",
            Self::Chronyd => "chronyd",
        }
    }

    const fn patience(self) -> Patience {
        match self {
            // mgmt looks through its store before it answers, the dataplane maps its buffers and rings.
            Self::Mgmt | Self::Dataplane => Patience {
                start: Duration::from_secs(30),
                unhealthy: Duration::from_secs(10),
                terminate: Duration::from_secs(3),
            },
            Self::Dhcp | Self::IkedBridge | Self::Sshd | Self::Chronyd => Patience {
                start: Duration::from_secs(10),
                unhealthy: Duration::from_secs(10),
                terminate: Duration::from_secs(3),
            },
            // Deletes its SAs at the peers before it ends, and waits for each a little.
            Self::Charon => Patience {
                start: Duration::from_secs(15),
                unhealthy: Duration::from_secs(3),
                terminate: Duration::from_secs(5),
            },
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How long to bear with a process.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// From its start until it is healthy for the first time.
    start: Duration,
    /// Not healthy, though it was.
    unhealthy: Duration,
    /// From SIGTERM to SIGKILL.
    terminate: Duration,
}

/// The first restart is at once: a crash must cost as little as possible. A process that crashes again and again must
/// not take the processor from those that work.
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// A process that was healthy for so long starts anew at the first delay.
const HEALTH_FORGIVES: Duration = Duration::from_mins(1);

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start it, then say [`Supervisor::spawned`] or [`Supervisor::exited`].
    Spawn(Process),
    /// Send SIGTERM.
    Terminate(Process),
    /// Send SIGKILL.
    Kill(Process),
}

/// Where a process is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Something else must be ready first.
    Blocked,
    /// Starts at this time.
    Waiting {
        /// The end of the back-off.
        until: Instant,
    },
    /// Runs, and was not healthy yet.
    Starting {
        /// Its start.
        since: Instant,
    },
    /// Runs and was healthy.
    Ready {
        /// The first good answer.
        since: Instant,
        /// The last good answer.
        last_healthy: Instant,
    },
    /// Was told to end.
    Ending {
        /// The SIGTERM.
        since: Instant,
        /// SIGKILL was sent too.
        killed: bool,
    },
    /// Ended for good.
    Stopped,
}

#[derive(Debug)]
struct Child {
    process: Process,
    phase: Phase,
    /// Ends without 60 s of health between them.
    failures: u32,
    /// Starts after the first.
    restarts: u64,
    spawned_before: bool,
    /// Nobody wants it any more: when it has ended it stays so.
    withdrawn: bool,
}

impl Child {
    fn runs(&self) -> bool {
        matches!(
            self.phase,
            Phase::Starting { .. } | Phase::Ready { .. } | Phase::Ending { .. }
        )
    }
}

/// The processes of one gateway.
#[derive(Debug)]
pub struct Supervisor {
    children: [Child; 7],
    stopping: bool,
    actions: VecDeque<Action>,
}

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// Every process blocked.
    pub fn new() -> Self {
        Self {
            children: Process::ALL.map(|process| Child {
                process,
                phase: Phase::Blocked,
                failures: 0,
                restarts: 0,
                spawned_before: false,
                withdrawn: false,
            }),
            stopping: false,
            actions: VecDeque::new(),
        }
    }

    /// What a process waits for is there; a second time says nothing new.
    pub fn allow(&mut self, process: Process, now: Instant) {
        let stopping = self.stopping;
        let child = self.child(process);
        child.withdrawn = false;
        if child.phase == Phase::Blocked && !stopping {
            child.phase = Phase::Waiting { until: now };
        }
    }

    /// The process is not wanted any more, until it is allowed again.
    pub fn withdraw(&mut self, process: Process, now: Instant) {
        let child = self.child(process);
        child.failures = 0;
        match child.phase {
            Phase::Waiting { .. } => child.phase = Phase::Blocked,
            Phase::Starting { .. } | Phase::Ready { .. } => {
                child.withdrawn = true;
                self.terminate(process, now);
            }
            Phase::Ending { .. } => child.withdrawn = true,
            Phase::Blocked | Phase::Stopped => {}
        }
    }

    /// What it failed by may be gone: it does not wait any longer.
    pub fn try_again(&mut self, process: Process, now: Instant) {
        let child = self.child(process);
        if let Phase::Waiting { .. } = child.phase {
            child.failures = 0;
            child.phase = Phase::Waiting { until: now };
        }
    }

    /// The process runs.
    pub fn spawned(&mut self, process: Process, now: Instant) {
        self.child(process).phase = Phase::Starting { since: now };
    }

    /// The process is gone, or could not be started.
    pub fn exited(&mut self, process: Process, now: Instant) {
        let stopping = self.stopping;
        let child = self.child(process);
        if let Phase::Ready { since, .. } = child.phase
            && now.duration_since(since) >= HEALTH_FORGIVES
        {
            child.failures = 0;
        }
        let delay = delay_after(child.failures);
        child.failures = child.failures.saturating_add(1);
        child.phase = if stopping {
            Phase::Stopped
        } else if std::mem::take(&mut child.withdrawn) {
            Phase::Blocked
        } else {
            Phase::Waiting { until: now + delay }
        };
    }

    /// The process was asked for its health.
    pub fn probed(&mut self, process: Process, healthy: bool, now: Instant) {
        if !healthy {
            // Its last good answer grows older by itself.
            return;
        }
        let child = self.child(process);
        child.phase = match child.phase {
            Phase::Starting { .. } => Phase::Ready {
                since: now,
                last_healthy: now,
            },
            Phase::Ready { since, .. } => Phase::Ready {
                since,
                last_healthy: now,
            },
            other => other,
        };
    }

    /// End a process, which is then started again without delay: its configuration needs a new one.
    pub fn restart(&mut self, process: Process, now: Instant) {
        let child = self.child(process);
        if matches!(child.phase, Phase::Starting { .. } | Phase::Ready { .. }) {
            child.failures = 0;
            self.terminate(process, now);
        }
    }

    /// Stop everything, in the reverse of the order of the start.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// What to do now.
    pub fn poll(&mut self, now: Instant) -> Vec<Action> {
        for process in Process::ALL {
            match self.phase(process) {
                Phase::Waiting { until } if until <= now && !self.stopping => {
                    let child = self.child(process);
                    if child.spawned_before {
                        child.restarts += 1;
                    }
                    child.spawned_before = true;
                    // Until the shell says what came of it.
                    child.phase = Phase::Starting { since: now };
                    self.actions.push_back(Action::Spawn(process));
                }
                Phase::Starting { since }
                    if now.duration_since(since) >= process.patience().start =>
                {
                    self.terminate(process, now);
                }
                Phase::Ready { last_healthy, .. }
                    if now.duration_since(last_healthy) >= process.patience().unhealthy =>
                {
                    self.terminate(process, now);
                }
                Phase::Ending {
                    since,
                    killed: false,
                } if now.duration_since(since) >= process.patience().terminate => {
                    self.child(process).phase = Phase::Ending {
                        since,
                        killed: true,
                    };
                    self.actions.push_back(Action::Kill(process));
                }
                _ => {}
            }
        }
        if self.stopping {
            self.stop_next(now);
        }
        self.actions.drain(..).collect()
    }

    /// When [`Self::poll`] has something to do without an event before.
    pub fn deadline(&self) -> Option<Instant> {
        let of = |child: &Child| {
            let patience = child.process.patience();
            match child.phase {
                Phase::Waiting { until } => Some(until),
                Phase::Starting { since } => Some(since + patience.start),
                Phase::Ready { last_healthy, .. } => Some(last_healthy + patience.unhealthy),
                Phase::Ending {
                    since,
                    killed: false,
                } => Some(since + patience.terminate),
                Phase::Blocked | Phase::Ending { killed: true, .. } | Phase::Stopped => None,
            }
        };
        self.children.iter().filter_map(of).min()
    }

    /// Every process is stopped for good.
    pub fn is_stopped(&self) -> bool {
        self.children
            .iter()
            .all(|child| child.phase == Phase::Stopped)
    }

    /// Where a process is in its life.
    pub fn phase(&self, process: Process) -> Phase {
        self.get(process).phase
    }

    /// Runs and was healthy.
    pub fn is_ready(&self, process: Process) -> bool {
        matches!(self.phase(process), Phase::Ready { .. })
    }

    /// Starts after the first.
    pub fn restarts(&self, process: Process) -> u64 {
        self.get(process).restarts
    }

    fn stop_next(&mut self, now: Instant) {
        for process in Process::ALL.into_iter().rev() {
            let child = self.child(process);
            match child.phase {
                Phase::Stopped => continue,
                Phase::Starting { .. } | Phase::Ready { .. } => self.terminate(process, now),
                Phase::Blocked | Phase::Waiting { .. } => {
                    child.phase = Phase::Stopped;
                    continue;
                }
                Phase::Ending { .. } => {}
            }
            // The one before it may still need this one to say good-bye.
            return;
        }
    }

    fn terminate(&mut self, process: Process, now: Instant) {
        let child = self.child(process);
        debug_assert!(child.runs());
        child.phase = Phase::Ending {
            since: now,
            killed: false,
        };
        self.actions.push_back(Action::Terminate(process));
    }

    fn get(&self, process: Process) -> &Child {
        let [mgmt, dataplane, dhcp, bridge, charon, sshd, chronyd] = &self.children;
        match process {
            Process::Mgmt => mgmt,
            Process::Dataplane => dataplane,
            Process::Dhcp => dhcp,
            Process::IkedBridge => bridge,
            Process::Charon => charon,
            Process::Sshd => sshd,
            Process::Chronyd => chronyd,
        }
    }

    fn child(&mut self, process: Process) -> &mut Child {
        let [mgmt, dataplane, dhcp, bridge, charon, sshd, chronyd] = &mut self.children;
        match process {
            Process::Mgmt => mgmt,
            Process::Dataplane => dataplane,
            Process::Dhcp => dhcp,
            Process::IkedBridge => bridge,
            Process::Charon => charon,
            Process::Sshd => sshd,
            Process::Chronyd => chronyd,
        }
    }
}

fn delay_after(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        // Ten doublings are far beyond the longest delay.
        more => (FIRST_DELAY * (1 << (more - 1).min(10))).min(LONGEST_DELAY),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use Process::{Charon, Chronyd, Dataplane, Dhcp, IkedBridge, Mgmt, Sshd};

    const SECOND: Duration = Duration::from_secs(1);

    fn running(now: Instant) -> Supervisor {
        let mut supervisor = Supervisor::new();
        for process in Process::ALL {
            supervisor.allow(process, now);
        }
        assert_eq!(supervisor.poll(now), Process::ALL.map(Action::Spawn));
        for process in Process::ALL {
            supervisor.spawned(process, now);
            supervisor.probed(process, true, now);
        }
        supervisor
    }

    /// Keeps everything healthy while time passes.
    fn healthy_for(supervisor: &mut Supervisor, from: Instant, span: Duration) -> Instant {
        let end = from + span;
        let mut now = from;
        while now < end {
            now += SECOND;
            for process in Process::ALL {
                supervisor.probed(process, true, now);
            }
            assert_eq!(supervisor.poll(now), []);
        }
        now
    }

    #[test]
    fn nothing_starts_before_it_may() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new();
        supervisor.allow(Dataplane, now);
        assert_eq!(supervisor.poll(now), [Action::Spawn(Dataplane)]);
        assert_eq!(supervisor.poll(now + SECOND), []);
        assert_eq!(supervisor.phase(Charon), Phase::Blocked);
        supervisor.allow(Dataplane, now + SECOND);
        assert_eq!(supervisor.poll(now + SECOND), []);
    }

    #[test]
    fn the_first_restart_is_at_once_and_the_next_ones_wait_longer() {
        let mut now = Instant::now();
        let mut supervisor = running(now);
        let mut delays = Vec::new();
        for _ in 0..9 {
            supervisor.exited(Charon, now);
            let Phase::Waiting { until } = supervisor.phase(Charon) else {
                panic!("{supervisor:?}");
            };
            delays.push((until - now).as_millis());
            if until > now {
                assert!(!supervisor.poll(now).contains(&Action::Spawn(Charon)));
            }
            now = until;
            for other in [Mgmt, Dataplane, Dhcp, IkedBridge, Sshd, Chronyd] {
                supervisor.probed(other, true, now);
            }
            assert_eq!(supervisor.poll(now), [Action::Spawn(Charon)]);
            supervisor.spawned(Charon, now);
        }
        assert_eq!(delays, [0, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!(supervisor.restarts(Charon), 9);
        assert_eq!(supervisor.restarts(Dataplane), 0);
    }

    #[test]
    fn a_minute_of_health_forgives() {
        let now = Instant::now();
        let mut supervisor = running(now);
        supervisor.exited(Charon, now);
        assert_eq!(supervisor.poll(now), [Action::Spawn(Charon)]);
        supervisor.spawned(Charon, now);
        supervisor.probed(Charon, true, now);
        let now = healthy_for(&mut supervisor, now, 59 * SECOND);
        let mut other = running(now);
        other.exited(Charon, now);
        supervisor.exited(Charon, now);
        assert_eq!(
            supervisor.phase(Charon),
            Phase::Waiting {
                until: now + FIRST_DELAY
            }
        );

        let mut supervisor = running(now);
        supervisor.exited(Charon, now);
        supervisor.poll(now);
        supervisor.spawned(Charon, now);
        supervisor.probed(Charon, true, now);
        let now = healthy_for(&mut supervisor, now, 60 * SECOND);
        supervisor.exited(Charon, now);
        assert_eq!(supervisor.phase(Charon), Phase::Waiting { until: now });
    }

    #[test]
    fn a_process_that_never_gets_healthy_is_ended_and_started_again() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new();
        supervisor.allow(Charon, now);
        supervisor.poll(now);
        supervisor.spawned(Charon, now);
        for second in 1..15 {
            supervisor.probed(Charon, false, now + second * SECOND);
            assert_eq!(supervisor.poll(now + second * SECOND), []);
        }
        let now = supervisor.deadline().unwrap();
        assert_eq!(supervisor.poll(now), [Action::Terminate(Charon)]);
        assert_eq!(supervisor.poll(now + SECOND), []);
        let now = supervisor.deadline().unwrap();
        assert_eq!(supervisor.poll(now), [Action::Kill(Charon)]);
        // The next one waits for the old one to be gone, however long that takes.
        assert_eq!(supervisor.deadline(), None);
        assert_eq!(supervisor.poll(now + 1000 * SECOND), []);
        let now = now + 1000 * SECOND;
        supervisor.exited(Charon, now);
        assert_eq!(supervisor.poll(now), [Action::Spawn(Charon)]);
    }

    #[test]
    fn one_bad_answer_ends_nothing_but_silence_does() {
        let now = Instant::now();
        let mut supervisor = running(now);
        supervisor.probed(Charon, false, now + SECOND);
        supervisor.probed(Charon, true, now + 2 * SECOND);
        for other in [Mgmt, Dataplane, Dhcp, IkedBridge, Sshd, Chronyd] {
            supervisor.probed(other, true, now + 2 * SECOND);
        }
        assert_eq!(supervisor.poll(now + 4 * SECOND), []);
        assert_eq!(
            supervisor.poll(now + 5 * SECOND),
            [Action::Terminate(Charon)]
        );
        // An answer on the way does not bring it back.
        supervisor.probed(Charon, true, now + 5 * SECOND);
        assert!(matches!(supervisor.phase(Charon), Phase::Ending { .. }));
    }

    #[test]
    fn everything_stops_in_reverse_order_each_after_the_other() {
        let now = Instant::now();
        let mut supervisor = running(now);
        supervisor.stop();
        assert_eq!(supervisor.poll(now), [Action::Terminate(Chronyd)]);
        supervisor.exited(Chronyd, now);
        assert_eq!(supervisor.poll(now), [Action::Terminate(Sshd)]);
        supervisor.exited(Sshd, now);
        assert_eq!(supervisor.poll(now), [Action::Terminate(Charon)]);
        assert_eq!(supervisor.poll(now + SECOND), []);
        supervisor.exited(Charon, now + SECOND);
        assert_eq!(
            supervisor.poll(now + SECOND),
            [Action::Terminate(IkedBridge)]
        );
        assert_eq!(
            supervisor.poll(now + 4 * SECOND),
            [Action::Kill(IkedBridge)]
        );
        supervisor.exited(IkedBridge, now + 4 * SECOND);
        assert_eq!(supervisor.poll(now + 4 * SECOND), [Action::Terminate(Dhcp)]);
        supervisor.exited(Dhcp, now + 4 * SECOND);
        assert_eq!(
            supervisor.poll(now + 4 * SECOND),
            [Action::Terminate(Dataplane)]
        );
        assert!(!supervisor.is_stopped());
        supervisor.exited(Dataplane, now + 5 * SECOND);
        assert_eq!(supervisor.poll(now + 5 * SECOND), [Action::Terminate(Mgmt)]);
        supervisor.exited(Mgmt, now + 5 * SECOND);
        assert_eq!(supervisor.poll(now + 5 * SECOND), []);
        assert!(supervisor.is_stopped());
        supervisor.allow(Charon, now + 6 * SECOND);
        assert_eq!(supervisor.poll(now + 6 * SECOND), []);
    }

    #[test]
    fn stopping_skips_what_does_not_run() {
        let now = Instant::now();
        let mut supervisor = running(now);
        supervisor.exited(Charon, now);
        for process in [Sshd, Chronyd] {
            supervisor.withdraw(process, now);
            assert_eq!(supervisor.poll(now)[0], Action::Terminate(process));
            supervisor.exited(process, now);
        }
        supervisor.exited(Charon, now);
        supervisor.stop();
        assert_eq!(supervisor.poll(now), [Action::Terminate(IkedBridge)]);
        supervisor.exited(IkedBridge, now);
        assert_eq!(supervisor.poll(now), [Action::Terminate(Dhcp)]);
        supervisor.exited(Dhcp, now);
        assert_eq!(supervisor.poll(now), [Action::Terminate(Dataplane)]);
        supervisor.exited(Dataplane, now);
        supervisor.poll(now);
        supervisor.exited(Mgmt, now);
        supervisor.poll(now);
        assert!(supervisor.is_stopped());
    }

    #[test]
    fn what_is_not_wanted_any_more_ends_and_can_come_again() {
        let now = Instant::now();
        let mut supervisor = running(now);
        supervisor.withdraw(Sshd, now);
        assert_eq!(supervisor.poll(now), [Action::Terminate(Sshd)]);
        supervisor.exited(Sshd, now);
        assert_eq!(supervisor.phase(Sshd), Phase::Blocked);
        assert_eq!(supervisor.poll(now), []);
        supervisor.allow(Sshd, now);
        assert_eq!(supervisor.poll(now), [Action::Spawn(Sshd)]);

        // Wanted again before it has ended.
        supervisor.spawned(Sshd, now);
        supervisor.withdraw(Sshd, now);
        supervisor.allow(Sshd, now);
        assert_eq!(supervisor.poll(now), [Action::Terminate(Sshd)]);
        supervisor.exited(Sshd, now);
        assert_eq!(supervisor.poll(now), [Action::Spawn(Sshd)]);

        // Not wanted while it waits; and no waiting for what has changed.
        supervisor.exited(Sshd, now);
        supervisor.exited(Sshd, now);
        assert_eq!(supervisor.poll(now), []);
        supervisor.try_again(Sshd, now);
        assert_eq!(supervisor.poll(now), [Action::Spawn(Sshd)]);
        supervisor.exited(Sshd, now);
        supervisor.withdraw(Sshd, now);
        assert_eq!(supervisor.phase(Sshd), Phase::Blocked);
    }

    #[test]
    fn a_wanted_restart_costs_no_back_off() {
        let now = Instant::now();
        let mut supervisor = running(now);
        for _ in 0..3 {
            supervisor.restart(Dataplane, now);
            assert_eq!(supervisor.poll(now), [Action::Terminate(Dataplane)]);
            supervisor.exited(Dataplane, now);
            assert_eq!(supervisor.poll(now), [Action::Spawn(Dataplane)]);
            supervisor.spawned(Dataplane, now);
        }
    }
}
