//! How the clock stands: what `chronyc` says of its chronyd, taken apart.
//!
//! ```text
//!   chronyc -c -N -h ROOT/run/ntp/chronyd.sock -m "sources -a" tracking
//!
//!   ^,*,ntp.example.com,2,6,377,21,0.000012,0.000015,0.003211      one line a server: ten columns
//!   C0000201,ntp.example.com,3,1795289764.6,-0.000001,...,Normal   the last: fourteen columns
//! ```
//!
//! `chronyc` gets nothing of this process' privileges, little time, and is read only so far. What is not as its manual has
//! it is no answer.

use std::fs;
use std::io;
use std::process::{Command, Stdio};
use std::time::Duration;

use culvert_model::bus;
use seccompiler::BpfProgram;
use thiserror::Error;
use tokio::io::AsyncReadExt as _;
use tokio::process::Child;

use super::capabilities::Capabilities;
use super::launch::Launch;
use super::root::Root;
use crate::process::confinement::{Confined, ConfinementError, filter};

/// The distribution's.
const PROGRAM: &str = "/usr/bin/chronyc";
/// It asks a process on this machine.
const PATIENCE: Duration = Duration::from_secs(3);
/// Far more than eight servers make.
const LONGEST: u64 = 64 << 10;
/// chronyd has heard nothing yet.
const NEVER: &str = "4294967295";
/// As `Leap status` is called by then.
const LOST: &str = "Not synchronised";

/// Why it is not known.
#[derive(Debug, Error)]
pub enum ClockError {
    /// `chronyc` does not start or cannot be read.
    #[error("{PROGRAM}: {0}")]
    Program(#[from] io::Error),
    /// It cannot be confined.
    #[error(transparent)]
    Confinement(#[from] ConfinementError),
    /// It gave no answer in time.
    #[error("chronyd does not answer")]
    Silent,
    /// Not what its manual has.
    #[error("chronyc says what nobody understands: {0:?}")]
    Strange(String),
}

/// Asks the chronyd of this gateway.
pub async fn ask(root: &Root) -> Result<bus::ShowClockReply, ClockError> {
    let mut command = Command::new(PROGRAM);
    command
        .env_clear()
        .args(["-c", "-N", "-m", "-h"])
        .arg(root.ntp_socket())
        .args(["sources -a", "tracking"]);
    let mut child = start(command)?;
    let number = child.id();
    let said = said(&mut child, PATIENCE).await;
    // One that was killed leaves its socket behind.
    if let Some(number) = number {
        let _ = fs::remove_file(root.ntp_sockets().join(format!("chronyc.{number}.sock")));
    }
    parse(&said?)
}

fn start(mut command: Command) -> Result<Child, ClockError> {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let filter: BpfProgram = filter(Confined::Charon)?;
    let launch = Launch {
        command,
        network: None,
        mounts: None,
        descriptors: Vec::new(),
        capabilities: Capabilities::NONE,
        changes_user: false,
        filter,
        sheds_profile: false,
    };
    Ok(launch.spawn()?)
}

/// What it says in this time; it does not outlive that.
async fn said(child: &mut Child, patience: Duration) -> Result<String, ClockError> {
    let mut text = String::new();
    let outcome = match child.stdout.take() {
        Some(output) => {
            let mut output = output.take(LONGEST);
            tokio::time::timeout(patience, output.read_to_string(&mut text)).await
        }
        None => Ok(Ok(0)),
    };
    // Whoever says more, or says it later, is not listened to.
    let _ = child.start_kill();
    let _ = child.wait().await;
    match outcome {
        Ok(Ok(0)) | Err(_) => Err(ClockError::Silent),
        Ok(Ok(_)) => Ok(text),
        Ok(Err(error)) => Err(error.into()),
    }
}

/// Sources, then how the clock is.
fn parse(text: &str) -> Result<bus::ShowClockReply, ClockError> {
    let mut lines: Vec<&str> = text.lines().collect();
    let last = lines.pop().unwrap_or_default();
    let strange = |line: &str| ClockError::Strange(line.chars().take(200).collect());
    let mut reply = tracking(last).ok_or_else(|| strange(last))?;
    for line in lines {
        reply
            .sources
            .push(source(line).ok_or_else(|| strange(line))?);
    }
    Ok(reply)
}

fn tracking(line: &str) -> Option<bus::ShowClockReply> {
    use bus::ShowClockReply;
    let columns: [&str; 14] = columns(line)?;
    let [reference, name, stratum, _, correction, .., leap] = columns;
    u32::from_str_radix(reference, 16).ok()?;
    if leap == LOST {
        return Some(ShowClockReply::default());
    }
    // What the clock is to be corrected by: of one that is ahead it is negative.
    let (offset_ns, negative) = seconds(correction)?;
    Some(ShowClockReply {
        synchronised: true,
        source: name.to_owned(),
        stratum: stratum.parse().ok()?,
        offset_ns,
        ahead: negative,
        sources: Vec::new(),
    })
}

fn source(line: &str) -> Option<bus::ClockSource> {
    use bus::clock_source::State;
    let columns: [&str; 10] = columns(line)?;
    let [
        mode,
        state,
        host,
        stratum,
        _,
        reach,
        since,
        offset,
        _,
        error,
    ] = columns;
    if !matches!(mode, "^" | "=" | "#") || host.is_empty() {
        return None;
    }
    let state = match state {
        "*" => State::Selected,
        "+" => State::Combined,
        "-" => State::NotCombined,
        "?" => State::Unusable,
        "x" => State::Falseticker,
        "~" => State::Unsteady,
        _ => return None,
    };
    let heard = match since {
        NEVER => None,
        since => Some(since.parse().ok()?),
    };
    let (offset_ns, negative) = seconds(offset)?;
    let (error_ns, _) = seconds(error)?;
    Some(bus::ClockSource {
        host: host.to_owned(),
        state: state.into(),
        stratum: stratum.parse().ok()?,
        // The last eight requests, the newest in the lowest bit.
        reach: u8::from_str_radix(reach, 8).ok()?.into(),
        last_heard_s: heard,
        offset_ns,
        ahead: !negative && offset_ns > 0,
        error_ns,
    })
}

fn columns<const COUNT: usize>(line: &str) -> Option<[&str; COUNT]> {
    let columns: Vec<&str> = line.split(',').collect();
    columns.try_into().ok()
}

/// Nanoseconds of decimal seconds, and whether they are negative.
fn seconds(text: &str) -> Option<(u64, bool)> {
    let (digits, negative) = match text.strip_prefix('-') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let (whole, fraction) = digits.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || fraction.len() != 9 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?;
    Some((whole.checked_add(fraction.parse().ok()?)?, negative))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use bus::clock_source::State;

    use super::*;

    /// Of chrony 4.3.
    const SAID: &str = "^,*,ntp.example.com,8,6,17,5,0.000000073,0.000000141,0.000003551\n\
        ^,+,2001:db8::1,2,10,377,821,-1.500000000,-1.500000000,0.000003551\n\
        ^,?,192.0.2.9,0,7,0,4294967295,0.000000000,0.000000000,0.000000000\n\
        7F000001,ntp.example.com,9,1795289764.646321041,-0.000000978,0.000000068,0.000000068,-0.036,0.000,1.142,\
        0.000007029,0.000013241,2.0,Normal\n";
    const NOBODY: &str = "00000000,,0,0.000000000,0.000000072,0.000000000,0.000000000,-0.036,0.000,0.000,1.000000000,\
        1.000000000,0.0,Not synchronised\n";

    #[tokio::test]
    async fn who_is_silent_does_not_outlive_its_time() {
        for script in ["exec sleep 60", "exec 1>&-; exec sleep 60"] {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]);
            let mut child = start(command).unwrap();
            let process = format!("/proc/{}", child.id().unwrap());
            assert!(fs::exists(&process).unwrap());
            let answer = said(&mut child, Duration::from_millis(100)).await;
            assert!(matches!(answer, Err(ClockError::Silent)), "{answer:?}");
            assert!(!fs::exists(&process).unwrap(), "{script}");
        }
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo right"]);
        let mut child = start(command).unwrap();
        assert_eq!(said(&mut child, PATIENCE).await.unwrap(), "right\n");
    }

    #[test]
    fn what_chronyc_says_is_understood() {
        let clock = parse(SAID).unwrap();
        assert!(clock.synchronised && clock.ahead);
        assert_eq!(
            (clock.source.as_str(), clock.stratum, clock.offset_ns),
            ("ntp.example.com", 9, 978)
        );
        let [best, other, silent] = &clock.sources[..] else {
            panic!("{clock:?}");
        };
        assert_eq!((best.host.as_str(), best.stratum), ("ntp.example.com", 8));
        assert_eq!((best.state(), best.reach), (State::Selected, 0o17));
        assert_eq!((best.last_heard_s, best.offset_ns), (Some(5), 73));
        assert!(best.ahead && best.error_ns == 3551);
        assert_eq!((other.state(), other.reach), (State::Combined, 255));
        assert_eq!((other.offset_ns, other.ahead), (1_500_000_000, false));
        assert_eq!(
            (silent.state(), silent.last_heard_s),
            (State::Unusable, None)
        );
    }

    #[test]
    fn a_clock_that_nobody_sets_is_not_synchronised() {
        assert_eq!(parse(NOBODY).unwrap(), bus::ShowClockReply::default());
    }

    #[test]
    fn what_chronyc_never_says_is_no_answer() {
        for (right, wrong) in [
            ("^,*", "!,*"),
            ("^,*", "^,o"),
            (",17,", ",18,"),
            (",17,", ",777,"),
            ("0.000000073", "0.73"),
            ("0.000000073", "nan"),
            ("ntp.example.com,8", ",8"),
            ("ntp.example.com,8", "a,b,8"),
            ("7F000001", "XF000001"),
            (",Normal", ""),
            ("821", "-1"),
        ] {
            let text = SAID.replacen(right, wrong, 1);
            assert!(
                matches!(parse(&text), Err(ClockError::Strange(_))),
                "{wrong}"
            );
        }
        assert!(parse("").is_err());
    }

    #[test]
    fn every_change_of_a_byte_is_understood_or_refused() {
        for at in 0..SAID.len() {
            for byte in 0..128u8 {
                let mut bytes = SAID.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = parse(std::str::from_utf8(&bytes).unwrap());
            }
        }
    }

    #[test]
    fn seconds_are_counted_in_nanoseconds() {
        assert_eq!(seconds("-12.000000001"), Some((12_000_000_001, true)));
        assert_eq!(seconds("0.100000000"), Some((100_000_000, false)));
        for none in [
            "",
            "1",
            ".000000000",
            "1.0",
            "+1.000000000",
            "99999999999999999999.000000000",
        ] {
            assert_eq!(seconds(none), None, "{none}");
        }
    }
}
