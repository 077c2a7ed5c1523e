//! A terminal with a person who types and reads.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use rustix::termios::tcsetwinsize;

/// A deadline, not a measurement: machines are slow at times.
const DEADLINE: Duration = Duration::from_mins(1);

/// The session behind it.
pub struct Terminal {
    child: Child,
    keys: File,
    reader: Option<JoinHandle<()>>,
    screen: Arc<(Mutex<Vec<u8>>, Condvar)>,
    seen: usize,
}

impl Terminal {
    /// Of a session as ada.
    pub fn open(root: &Path, adjust: impl FnOnce(&mut Command)) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).unwrap();
        // A session of its own, of which this is the controlling terminal: Ctrl-C and window sizes come as signals.
        let mut command = Command::new("setsid");
        command
            .args(["--ctty", env!("CARGO_BIN_EXE_culvert-cli-rehearsal")])
            .arg("--root")
            .arg(root)
            .args(["--principal", "ada"])
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .env_remove("SSH_CONNECTION")
            .env_remove("SSH_ORIGINAL_COMMAND")
            .stdin(slave(&pair.slave))
            .stdout(slave(&pair.slave))
            .stderr(slave(&pair.slave));
        adjust(&mut command);
        let child = command.spawn().unwrap();
        // The command holds copies of the slave: with them the master would never come to an end.
        drop(command);
        drop(pair.slave);
        let keys = File::from(pair.master);
        let mut from = keys.try_clone().unwrap();
        let screen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let written = Arc::clone(&screen);
        let reader = thread::spawn(move || {
            let mut part = [0; 4096];
            // It ends with an error when the last one at the other end is gone.
            while let Ok(length @ 1..) = from.read(&mut part) {
                written.0.lock().unwrap().extend_from_slice(&part[..length]);
                written.1.notify_all();
            }
        });
        Self {
            child,
            keys,
            reader: Some(reader),
            screen,
            seen: 0,
        }
    }

    /// Keys as they come.
    pub fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for a text behind what was read before; gives what stands before it.
    pub fn read_to(&mut self, text: &str) -> String {
        let end = Instant::now() + DEADLINE;
        let mut screen = self.screen.0.lock().unwrap();
        loop {
            let unread = &screen[self.seen..];
            if let Some(at) = unread
                .windows(text.len())
                .position(|part| part == text.as_bytes())
            {
                let before = String::from_utf8_lossy(&unread[..at]).into_owned();
                self.seen += at + text.len();
                return before;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{text:?} does not come; there is {:?}",
                String::from_utf8_lossy(unread)
            );
            screen = self.screen.1.wait_timeout(screen, left).unwrap().0;
        }
    }

    /// Waits for the prompt of operational mode; gives what stands before it.
    pub fn prompt(&mut self) -> String {
        self.prompt_of('>')
    }

    /// Waits for the prompt of configuration mode; gives what stands before it.
    pub fn configuration_prompt(&mut self) -> String {
        self.prompt_of('#')
    }

    fn prompt_of(&mut self, sign: char) -> String {
        self.read_to(&format!("ada@branch{sign} "))
    }

    /// Types a line in operational mode; gives what comes of it.
    pub fn ask(&mut self, line: &str) -> String {
        self.press(&format!("{line}\r"));
        self.prompt()
    }

    /// Types a line in configuration mode; gives what comes of it.
    pub fn change(&mut self, line: &str) -> String {
        self.press(&format!("{line}\r"));
        self.configuration_prompt()
    }

    /// Presses Ctrl-C until what runs has stopped.
    pub fn interrupt(&mut self) {
        let end = Instant::now() + DEADLINE;
        while !self.has_come("stopped waiting") {
            assert!(Instant::now() < end, "Ctrl-C does nothing");
            self.press("\x03");
            thread::sleep(Duration::from_millis(300));
        }
        self.read_to("stopped waiting");
    }

    fn has_come(&self, text: &str) -> bool {
        let screen = self.screen.0.lock().unwrap();
        let unread = &screen[self.seen..];
        unread
            .windows(text.len())
            .any(|part| part == text.as_bytes())
    }

    /// Another size.
    pub fn resize(&mut self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&self.keys, size).unwrap();
    }

    /// Waits for the end of the session; gives what was still written, and whether it ended well.
    pub fn end(mut self) -> (String, bool) {
        let end = Instant::now() + DEADLINE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "the session does not end");
            thread::sleep(Duration::from_millis(10));
        };
        // What it wrote last may still be on its way.
        self.reader.take().unwrap().join().unwrap();
        let screen = self.screen.0.lock().unwrap();
        (
            String::from_utf8_lossy(&screen[self.seen..]).into_owned(),
            status.success(),
        )
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn slave(fd: &OwnedFd) -> Stdio {
    Stdio::from(fd.try_clone().unwrap())
}
