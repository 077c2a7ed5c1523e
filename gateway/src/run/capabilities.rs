//! What each process may do: its capabilities, for good.
//!
//! | | kept | why |
//! | --- | --- | --- |
//! | dataplane | `NET_RAW`, `NET_ADMIN`, `BPF`, `IPC_LOCK` | raw frames, device settings, XDP programs, memory that is not swapped |
//! | dhcp | `NET_RAW`, `NET_BIND_SERVICE` | messages below IP, port 68 |
//! | charon | `NET_ADMIN`, `NET_RAW`, `NET_BIND_SERVICE` | ports 500 and 4500, routes and addresses |
//! | sshd | `SETUID`, `SETGID` | become the account that logs in |
//! | | `SYS_CHROOT` | shut in who is not known yet |
//! | | `KILL` | end sessions, which are of another user |
//! | | `CHOWN`, `FOWNER` | give a terminal to who logs in, and take it back |
//! | | `NET_BIND_SERVICE` | port 22 |
//! | | `AUDIT_WRITE` | Debian's tells the kernel's audit of each login, and ends where it may not |
//! | chronyd | `SYS_TIME` | set the clock |
//! | mgmt, iked-bridge | none | |
//!
//! The processes stay user 0, which owns the files, and lose what makes user 0 mighty: the sets are reduced, the
//! securebits locked, so that neither exec nor a set-user-ID program brings anything back (capabilities(7)). sshd alone
//! changes its user, and what it becomes must have nothing: it is bounded, and the kernel's own rule takes the rest away.

#![allow(unsafe_code)]

use std::io;

/// A set of capabilities, bit by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities(u64);

// Numbers of linux/capability.h.
const CHOWN: u32 = 0;
const FOWNER: u32 = 3;
const KILL: u32 = 5;
const SETGID: u32 = 6;
const SETUID: u32 = 7;
const SETPCAP: u32 = 8;
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const IPC_LOCK: u32 = 14;
const SYS_CHROOT: u32 = 18;
const SYS_TIME: u32 = 25;
const AUDIT_WRITE: u32 = 29;
const BPF: u32 = 39;

/// `_LINUX_CAPABILITY_VERSION_3`: two 32-bit words a set.
const VERSION_3: u32 = 0x2008_0522;

// linux/securebits.h: each with its lock, the next bit.
const NOROOT: libc::c_ulong = 0b11;
const NO_SETUID_FIXUP: libc::c_ulong = 0b11 << 2;
const KEEP_CAPS_LOCKED: libc::c_ulong = 1 << 5;
const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 0b11 << 6;

#[repr(C)]
struct Header {
    version: u32,
    /// 0: this process.
    pid: libc::c_int,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

impl Capabilities {
    /// mgmt and iked-bridge.
    pub const NONE: Self = Self(0);
    /// Raw frames, device settings, XDP programs, memory that is not swapped.
    pub const DATAPLANE: Self = Self(1 << NET_RAW | 1 << NET_ADMIN | 1 << BPF | 1 << IPC_LOCK);
    /// Messages below IP, port 68.
    pub const DHCP: Self = Self(1 << NET_RAW | 1 << NET_BIND_SERVICE);
    /// Ports 500 and 4500, routes and addresses.
    pub const CHARON: Self = Self(1 << NET_ADMIN | 1 << NET_RAW | 1 << NET_BIND_SERVICE);

    /// Setting the clock.
    pub const CHRONYD: Self = Self(1 << SYS_TIME);

    /// Becoming others and ending them; see above.
    pub const SSHD: Self = Self(
        1 << SETUID
            | 1 << SETGID
            | 1 << SYS_CHROOT
            | 1 << KILL
            | 1 << CHOWN
            | 1 << FOWNER
            | 1 << NET_BIND_SERVICE
            | 1 << AUDIT_WRITE,
    );

    /// Reduces the calling thread to this set, for good. System calls only: fit for the time between fork and exec.
    pub fn reduce(self) -> io::Result<()> {
        let kept = self.bound()?;
        // SETPCAP locks the securebits, then goes too.
        set(kept | 1 << SETPCAP, kept)?;
        for capability in 0..64u32 {
            if kept & 1 << capability != 0 {
                let raise = libc::PR_CAP_AMBIENT_RAISE;
                // SAFETY: PR_CAP_AMBIENT takes numbers and touches no memory.
                check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) })?;
            }
        }
        let bits = NOROOT | NO_SETUID_FIXUP | KEEP_CAPS_LOCKED | NO_CAP_AMBIENT_RAISE;
        // SAFETY: PR_SET_SECUREBITS takes a number and touches no memory.
        check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) })?;
        set(kept, kept)?;
        no_new_privileges()
    }

    /// Reduces user 0 to this set, for good, and whoever it becomes to nothing: as long as it is user 0 it keeps the set
    /// over exec. For a program that changes its user. System calls only, too.
    pub fn reduce_root(self) -> io::Result<()> {
        // Inheritable, and with it ambient: nothing, or the next user would have it.
        set(self.bound()?, 0)?;
        no_new_privileges()
    }

    /// Bounds the calling thread, and gives what of this set it has: a supervisor without a capability hands none on.
    fn bound(self) -> io::Result<u64> {
        for capability in 0..64 {
            if self.0 & 1 << capability != 0 {
                continue;
            }
            // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory.
            let outcome = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
            if outcome < 0 {
                let error = io::Error::last_os_error();
                // EINVAL: the kernel's last capability has a lower number.
                if error.raw_os_error() == Some(libc::EINVAL) {
                    break;
                }
                return Err(error);
            }
        }
        Ok(self.0 & permitted()?)
    }
}

fn no_new_privileges() -> io::Result<()> {
    // SAFETY: PR_SET_NO_NEW_PRIVS takes a number and touches no memory.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

fn permitted() -> io::Result<u64> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut words = [Word {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: the header says version 3, for which the kernel writes two words; both live over the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_capget,
            std::ptr::from_mut(&mut header),
            words.as_mut_ptr(),
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    let [low, high] = words;
    Ok(u64::from(low.permitted) | u64::from(high.permitted) << 32)
}

fn set(permitted: u64, inheritable: u64) -> io::Result<()> {
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let word = |shift: u32| Word {
        effective: (permitted >> shift) as u32,
        permitted: (permitted >> shift) as u32,
        inheritable: (inheritable >> shift) as u32,
    };
    let words = [word(0), word(32)];
    // SAFETY: the header says version 3, for which the kernel reads two words; both live over the call.
    let outcome = unsafe {
        libc::syscall(
            libc::SYS_capset,
            std::ptr::from_mut(&mut header),
            words.as_ptr(),
        )
    };
    if outcome < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn check(outcome: libc::c_int) -> io::Result<()> {
    if outcome < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
