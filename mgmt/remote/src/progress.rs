//! What a person sees while a gateway is asked: on a terminal beside the answer, nowhere else.

use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two pictures.
const TICK: Duration = Duration::from_millis(100);

/// One line at the bottom, which goes when this does.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// On standard error, if that is a terminal.
    pub fn begin(doing: &str) -> Self {
        let target = if stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self::on(target, doing)
    }

    fn on(target: ProgressDrawTarget, doing: &str) -> Self {
        let bar = ProgressBar::with_draw_target(None, target);
        style(&bar, "{spinner:.cyan} {msg} {elapsed:.dim}");
        bar.set_message(doing.to_owned());
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self(bar)
    }

    /// Something of no known size.
    pub fn step(&self, doing: &str) {
        self.0.unset_length();
        style(&self.0, "{spinner:.cyan} {msg} {elapsed:.dim}");
        self.0.set_message(doing.to_owned());
    }

    /// So many of so many bytes.
    pub fn bytes(&self, doing: &str, done: usize, all: usize) {
        if self.0.length() != Some(all as u64) {
            self.0.set_length(all as u64);
            style(
                &self.0,
                "{spinner:.cyan} {msg} {bar:30.cyan/dim} {bytes} of {total_bytes} {elapsed:.dim}",
            );
            self.0.set_message(doing.to_owned());
        }
        self.0.set_position(done as u64);
    }

    /// So many of so many things.
    pub fn items(&self, doing: &str, done: usize, all: usize) {
        if self.0.length() != Some(all as u64) {
            self.0.set_length(all as u64);
            style(
                &self.0,
                "{spinner:.cyan} {bar:30.cyan/dim} {pos} of {len} {msg} {elapsed:.dim}",
            );
        }
        self.0.set_message(doing.to_owned());
        self.0.set_position(done as u64);
    }
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// A terminal that remembers everything that was ever written to it since it was last asked.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl Paper {
        fn taken(&self) -> String {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            100
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.write_str("[cleared]")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_terminal_shows_how_far_it_is_and_nothing_afterwards() {
        let paper = Paper::default();
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let progress = Progress::on(target, "connecting");
        let shown = || {
            progress.0.force_draw();
            paper.taken()
        };
        progress.bytes("sending", 512, 2048);
        let sending = shown();
        assert!(sending.contains("sending"), "{sending}");
        assert!(sending.contains("512 B of 2.00 KiB"), "{sending}");
        progress.items("show routes", 3, 19);
        let asking = shown();
        assert!(asking.contains("3 of 19 show routes"), "{asking}");
        progress.step("committing");
        let waiting = shown();
        assert!(
            waiting.contains("committing") && !waiting.contains("of 19"),
            "{waiting}"
        );
        drop(progress);
        assert!(paper.taken().ends_with("[cleared]"));
    }

    #[test]
    fn nobody_is_shown_anything_without_a_terminal() {
        let progress = Progress::on(ProgressDrawTarget::hidden(), "connecting");
        assert!(progress.0.is_hidden());
        progress.bytes("sending", 1, 2);
        assert_eq!((progress.0.position(), progress.0.length()), (1, Some(2)));
    }
}
