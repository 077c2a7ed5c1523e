//! Asking somebody for a passphrase: on the terminal itself, unseen, and wiped from memory afterwards.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};

use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

/// A longer one is none.
const LONGEST: usize = 1024;

/// The terminal with what is typed unseen; as it was before when this is dropped.
struct Unseen {
    terminal: File,
    before: Termios,
}

impl Unseen {
    fn begin() -> io::Result<Self> {
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let mut unseen = before.clone();
        unseen.local_flags.remove(LocalFlags::ECHO);
        unseen
            .local_flags
            .insert(LocalFlags::ICANON | LocalFlags::ECHONL);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &unseen)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// What somebody types; an error where there is no terminal. The question comes when nothing is shown any more.
pub fn secret(question: &str) -> io::Result<Zeroizing<String>> {
    let mut unseen = Unseen::begin()?;
    unseen.terminal.write_all(question.as_bytes())?;
    // As large as it may become: nothing of it is left behind where it was too small.
    let mut typed = Zeroizing::new(vec![0; LONGEST]);
    let mut length = 0;
    while let Some(room) = typed.get_mut(length..).filter(|room| !room.is_empty()) {
        match unseen.terminal.read(room)? {
            0 => break,
            more => length += more,
        }
        if typed
            .get(..length)
            .is_some_and(|text| text.ends_with(b"\n"))
        {
            break;
        }
    }
    let text = typed.get(..length).unwrap_or_default();
    str::from_utf8(text.strip_suffix(b"\n").unwrap_or(text))
        .map(|text| Zeroizing::new(text.to_owned()))
        .map_err(|_| io::ErrorKind::InvalidData.into())
}
