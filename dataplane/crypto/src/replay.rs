//! The anti-replay window (RFC 4303 section 3.4.3 and appendix A).
//!
//! ```text
//!        late          |<------------- size ------------->|   ahead
//!  --------------------+----------------------------------+--------------> sequence numbers
//!                    bottom       seen or not, a bit     top
//! ```
//!
//! A packet's number is checked before its ICV is verified, so that replays cost nothing, and
//! once more when the window is updated behind that: of two copies in one vector the second is
//! told apart only then. With ESN the check also infers the high half of the number, which is
//! not on the wire.
//!
//! What falls out at the bottom without having been seen is lost, as far as the receiver can ever
//! know, and counted. Should it come after all it is late, and counted as that, too.

/// What the window says of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New so far. The number in full: with ESN the inferred high half over the low one.
    Ok(u64),
    /// Seen before.
    Replayed,
    /// Too old to know, or a number that no sender uses.
    Late,
}

/// Which sequence numbers of an SA were seen.
///
/// Behind a lock or owned by one thread: checking and updating are not atomic by themselves.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// The highest number seen; zero at first.
    top: u64,
    /// In numbers; zero for off.
    size: u32,
    esn: bool,
    /// Numbers that left the window unseen.
    lost: u64,
    /// A ring of bits by number: a power of two of words, at least one more than the window
    /// needs, so that moving ahead clears whole words (the idea of RFC 6479).
    seen: Box<[u64]>,
}

impl ReplayWindow {
    /// The largest size, in numbers.
    pub const MAX_SIZE: u32 = 4096;

    /// How far ESN looks back for the high half when the window is off: as far as ahead.
    const NOMINAL: u64 = 1 << 31;

    /// A window of exactly `size` numbers, at most [`MAX_SIZE`](Self::MAX_SIZE); zero for none: every
    /// number is new then.
    pub fn new(size: u32, esn: bool) -> Self {
        let size = size.min(Self::MAX_SIZE);
        let words = if size == 0 {
            0
        } else {
            (size.div_ceil(64) as usize + 1).next_power_of_two()
        };
        Self {
            top: 0,
            size,
            esn,
            lost: 0,
            seen: vec![0; words].into_boxed_slice(),
        }
    }

    /// The highest number seen; zero before the first packet.
    #[inline]
    pub const fn top(&self) -> u64 {
        self.top
    }

    /// In numbers; zero for off.
    #[inline]
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// How many numbers the window has left behind without having seen them; none while it is off.
    #[inline]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Infers the full number of a packet and says whether it may be new; changes nothing.
    #[inline]
    pub fn check(&self, low: u32) -> Verdict {
        match self.infer(low) {
            Some(number) => self.judge(number),
            None => Verdict::Late,
        }
    }

    /// Marks a number as seen once its packet is authentic. Anything but [`Verdict::Ok`] says
    /// that another copy came first, or that the window has moved on; drop the packet then.
    #[inline]
    pub fn update(&mut self, number: u64) -> Verdict {
        let verdict = self.judge(number);
        if verdict != Verdict::Ok(number) {
            return verdict;
        }
        if number > self.top {
            self.advance(number);
        }
        let (word, bit) = self.place(number);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
        verdict
    }

    /// RFC 4303 appendix A2.2; `None` for a number before the SA's first or past its last.
    #[inline]
    fn infer(&self, low: u32) -> Option<u64> {
        if !self.esn {
            return Some(u64::from(low));
        }
        let window = if self.size == 0 {
            Self::NOMINAL
        } else {
            u64::from(self.size)
        };
        let top_low = self.top & 0xffff_ffff;
        let high = self.top >> 32;
        let low = u64::from(low);
        let high = if top_low >= window - 1 {
            // The whole window is in one half: a number under its bottom is of the next one.
            if low + window > top_low {
                high
            } else {
                high + 1
            }
        } else {
            // The window reaches down into the half before.
            if low + window > top_low + (1 << 32) {
                high.checked_sub(1)?
            } else {
                high
            }
        };
        u32::try_from(high).is_ok().then_some(high << 32 | low)
    }

    #[inline]
    fn judge(&self, number: u64) -> Verdict {
        if self.size == 0 {
            return Verdict::Ok(number);
        }
        if number > self.top {
            return Verdict::Ok(number);
        }
        if number == 0 || self.top - number >= u64::from(self.size) {
            return Verdict::Late;
        }
        let (word, bit) = self.place(number);
        match self.seen.get(word) {
            Some(word) if word & bit == 0 => Verdict::Ok(number),
            _ => Verdict::Replayed,
        }
    }

    #[inline]
    fn place(&self, number: u64) -> (usize, u64) {
        let word = (number / 64) as usize & self.seen.len().wrapping_sub(1);
        (word, 1 << (number % 64))
    }

    /// Makes `number` the top and forgets the words that now stand for new numbers.
    #[inline]
    fn advance(&mut self, number: u64) {
        self.leave_behind(number);
        let words = number / 64 - self.top / 64;
        self.top = number;
        if words == 0 || self.seen.is_empty() {
            return;
        }
        if words >= self.seen.len() as u64 {
            self.seen.fill(0);
            return;
        }
        for back in 0..words {
            let (word, _) = self.place(number - back * 64);
            if let Some(word) = self.seen.get_mut(word) {
                *word = 0;
            }
        }
    }

    /// Counts what a window whose top becomes `number` has never seen and covers no more.
    #[inline]
    fn leave_behind(&mut self, number: u64) {
        let size = u64::from(self.size);
        if size == 0 || number <= size {
            return;
        }
        let last = number - size;
        // Zero is no number: a young window reaches below the first one.
        let first = (self.top + 1).saturating_sub(size).max(1);
        self.lost += if first == last && last <= self.top {
            // The next number in order, as most are.
            let (word, bit) = self.place(last);
            u64::from(self.seen.get(word).is_some_and(|word| word & bit == 0))
        } else if last <= self.top {
            self.unseen(first, last)
        } else {
            // The window has jumped over some.
            self.unseen(first, self.top) + (last - self.top)
        };
    }

    /// How many of the numbers from `first` to `last`, which are in the window, it has not seen.
    fn unseen(&self, first: u64, last: u64) -> u64 {
        if first > last {
            return 0;
        }
        let (first_word, last_word) = (first / 64, last / 64);
        (first_word..=last_word)
            .map(|at| {
                let (place, _) = self.place(at * 64);
                let mut missing = !self.seen.get(place).copied().unwrap_or(0);
                if at == first_word {
                    missing &= u64::MAX << (first % 64);
                }
                if at == last_word {
                    missing &= u64::MAX >> (63 - last % 64);
                }
                u64::from(missing.count_ones())
            })
            .sum()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Every number ever seen, and the high half by trying all of them.
    struct Slow {
        seen: BTreeSet<u64>,
        size: u64,
        esn: bool,
    }

    impl Slow {
        fn top(&self) -> u64 {
            self.seen.last().copied().unwrap_or(0)
        }

        /// What is under the window and was never seen.
        fn lost(&self) -> u64 {
            let bottom = self.top().saturating_sub(self.size);
            bottom - self.seen.range(..=bottom).count() as u64
        }

        fn judge(&self, number: u64) -> Verdict {
            if number == 0 || u128::from(number) + u128::from(self.size) <= u128::from(self.top()) {
                Verdict::Late
            } else if self.seen.contains(&number) {
                Verdict::Replayed
            } else {
                Verdict::Ok(number)
            }
        }

        /// The one number with this low half among the 2^32 that begin at the window's bottom.
        fn check(&self, low: u32) -> Verdict {
            if !self.esn {
                return self.judge(u64::from(low));
            }
            let bottom = i128::from(self.top()) - i128::from(self.size) + 1;
            for high in -1..=i128::from(u32::MAX) {
                let number = (high << 32) + i128::from(low);
                if number >= bottom {
                    return u64::try_from(number)
                        .map_or(Verdict::Late, |number| self.judge(number));
                }
                // Far below: jump.
                if bottom - number > 1 << 40 {
                    let high = (bottom >> 32) - 1;
                    let number = (high << 32) + i128::from(low);
                    for step in 0..3 {
                        let number = number + (step << 32);
                        if number >= bottom {
                            return u64::try_from(number)
                                .map_or(Verdict::Late, |number| self.judge(number));
                        }
                    }
                }
            }
            Verdict::Late
        }
    }

    fn play(size: u32, esn: bool, start: u64, steps: &[i64]) {
        let mut window = ReplayWindow::new(size, esn);
        let mut slow = Slow {
            seen: BTreeSet::new(),
            size: u64::from(window.size()),
            esn,
        };
        let limit = if esn { u64::MAX } else { u64::from(u32::MAX) };
        let start = if esn { start } else { start & 0xffff_ffff };
        if start > 0 {
            assert_eq!(window.update(start), Verdict::Ok(start));
            slow.seen.insert(start);
        }
        for step in steps {
            let number = slow.top().saturating_add_signed(*step).min(limit);
            let low = number as u32;
            let verdict = window.check(low);
            assert_eq!(
                verdict,
                slow.check(low),
                "top {:#x} low {low:#x}",
                slow.top()
            );
            if let Verdict::Ok(number) = verdict {
                assert_eq!(window.update(number), verdict);
                slow.seen.insert(number);
                assert_eq!(window.update(number), Verdict::Replayed, "the second copy");
            }
            assert_eq!((window.top(), window.lost()), (slow.top(), slow.lost()));
        }
    }

    #[test]
    fn a_window_is_as_large_as_was_asked_for() {
        for size in [1, 31, 32, 33, 63, 64, 65, 100, 128, 1024, 4095, 4096] {
            for esn in [false, true] {
                let mut window = ReplayWindow::new(size, esn);
                let top = 10_000;
                let bottom = top - u64::from(size) + 1;
                assert_eq!(window.update(top), Verdict::Ok(top));
                assert_eq!(window.update(bottom - 1), Verdict::Late, "{size}");
                for number in bottom..top {
                    assert_eq!(window.update(number), Verdict::Ok(number), "{size}");
                }
                for number in bottom..=top {
                    assert_eq!(window.update(number), Verdict::Replayed, "{size}");
                }
                assert_eq!((window.size(), window.lost()), (size, bottom - 1));
            }
        }
        assert_eq!(ReplayWindow::new(u32::MAX, true).size(), 4096);
    }

    #[test]
    fn what_the_window_leaves_behind_unseen_is_lost() {
        let mut window = ReplayWindow::new(32, false);
        for number in 1..=32 {
            window.update(number);
        }
        assert_eq!(window.lost(), 0, "nothing is under a young window");
        for number in [34, 35, 37] {
            window.update(number);
        }
        assert_eq!(window.lost(), 0, "33 and 36 may still come");
        assert_eq!(window.update(36), Verdict::Ok(36));
        assert_eq!(window.update(65), Verdict::Ok(65));
        assert_eq!(window.lost(), 1, "33 left");
        assert_eq!(window.update(33), Verdict::Late);
        assert_eq!(window.lost(), 1, "late does not undo it");
        // 38 to 64 were never in, and 968 more numbers are jumped over.
        assert_eq!(window.update(1065), Verdict::Ok(1065));
        assert_eq!(window.lost(), 1 + 27 + 968);
        assert_eq!(window.update(1065), Verdict::Replayed);
        let mut off = ReplayWindow::new(0, false);
        off.update(1_000_000);
        assert_eq!(off.lost(), 0);
    }

    /// RFC 4303 appendix A2.1: the window in one half of the number space (case A), and in two (case B).
    #[test]
    fn high_halves_are_those_of_appendix_a2() {
        const W: u32 = 64;
        for (high, top, low, inferred) in [
            // Case A: Tl >= W - 1.
            (5, 0x100, 0x100 - W + 1, Some(5)),
            (5, 0x100, 0x100 - W, Some(6)),
            (5, 0x100, 0, Some(6)),
            (5, 0x100, 0x101, Some(5)),
            (5, 0x100, u32::MAX, Some(5)),
            // Its edge: the bottom is the half's first number.
            (5, W - 1, 0, Some(5)),
            (5, W - 1, u32::MAX, Some(5)),
            // The last number of a half: the next half begins right behind it.
            (5, u32::MAX, 0, Some(6)),
            (5, u32::MAX, u32::MAX - W + 1, Some(5)),
            (5, u32::MAX, u32::MAX - W, Some(6)),
            // Case B: Tl < W - 1.
            (5, W - 2, u32::MAX, Some(4)),
            (5, W - 2, u32::MAX - 1, Some(5)),
            (5, W - 2, 0, Some(5)),
            (5, 0, 0, Some(5)),
            (5, 0, 1, Some(5)),
            (5, 0, u32::MAX - W + 2, Some(4)),
            (5, 0, u32::MAX - W + 1, Some(5)),
            // There is no half before the first, and none after the last.
            (0, 10, u32::MAX, None),
            (0, 10, 10 + W, Some(0)),
            (u32::MAX, u32::MAX, 0, None),
        ] {
            let mut window = ReplayWindow::new(W, true);
            let top = u64::from(high) << 32 | u64::from(top);
            window.update(top);
            let number = inferred.map(|high: u32| u64::from(high) << 32 | u64::from(low));
            assert_eq!(window.infer(low), number, "top {top:#x} low {low:#x}");
        }
    }

    #[test]
    fn edges_of_the_window() {
        let mut window = ReplayWindow::new(64, false);
        assert_eq!(window.check(0), Verdict::Late, "no sender uses zero");
        assert_eq!(window.update(1), Verdict::Ok(1));
        assert_eq!(window.check(1), Verdict::Replayed);
        assert_eq!(window.update(65), Verdict::Ok(65));
        assert_eq!(window.check(1), Verdict::Late, "65 - 64 is out");
        assert_eq!(window.check(2), Verdict::Ok(2), "65 - 63 is in");
        assert_eq!(
            window.update(u64::from(u32::MAX)),
            Verdict::Ok(u64::from(u32::MAX))
        );
        assert_eq!(
            window.check(5),
            Verdict::Late,
            "without ESN numbers do not wrap"
        );
    }

    #[test]
    fn high_half_is_inferred_over_the_boundary() {
        let mut window = ReplayWindow::new(64, true);
        assert_eq!(window.check(0x8000_0000), Verdict::Ok(0x8000_0000));
        assert_eq!(window.update(0xffff_fff0), Verdict::Ok(0xffff_fff0));
        assert_eq!(window.check(0), Verdict::Ok(0x1_0000_0000));
        assert_eq!(window.update(0x1_0000_0005), Verdict::Ok(0x1_0000_0005));
        assert_eq!(
            window.check(0xffff_fff0),
            Verdict::Replayed,
            "still in the window, in the half before"
        );
        assert_eq!(window.check(0xffff_fff1), Verdict::Ok(0xffff_fff1));
        assert_eq!(window.check(0x8000_0000), Verdict::Ok(0x1_8000_0000));
    }

    #[test]
    fn first_half_has_none_before_it() {
        let mut window = ReplayWindow::new(64, true);
        assert_eq!(window.update(5), Verdict::Ok(5));
        assert_eq!(window.check(u32::MAX), Verdict::Late);
    }

    #[test]
    fn last_half_has_none_behind_it() {
        let mut window = ReplayWindow::new(64, true);
        assert_eq!(window.update(u64::MAX), Verdict::Ok(u64::MAX));
        assert_eq!(window.check(7), Verdict::Late);
    }

    #[test]
    fn a_window_of_zero_takes_everything() {
        let mut window = ReplayWindow::new(0, false);
        for _ in 0..2 {
            assert_eq!(window.check(9), Verdict::Ok(9));
            assert_eq!(window.update(9), Verdict::Ok(9));
        }
        let mut window = ReplayWindow::new(0, true);
        assert_eq!(window.update(0xffff_ffff), Verdict::Ok(0xffff_ffff));
        assert_eq!(window.check(3), Verdict::Ok(0x1_0000_0003));
        assert_eq!(window.update(0x1_0000_0003), Verdict::Ok(0x1_0000_0003));
        assert_eq!(
            window.check(0xffff_fffe),
            Verdict::Ok(0xffff_fffe),
            "the high half still follows"
        );
    }

    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let step = prop_oneof![
            4 => -200i64..200,
            4 => -5000i64..5000,
            1 => -70_000i64..70_000,
            1 => 0i64..0xffff_0000,
            1 => 0xffff_ff00i64..0x1_0000_0100,
        ];
        proptest::collection::vec(step, 1..300)
    }

    proptest! {
        #[test]
        fn verdicts_are_the_slow_ones(
            size in 1u32..=4096, esn: bool,
            start in prop_oneof![Just(0), 1u64..10_000, 0xffff_e000u64..0x1_0000_2000, any::<u64>().prop_map(|n| n | 1)],
            steps in steps(),
        ) {
            play(size, esn, start, &steps);
        }

        #[test]
        fn small_windows_are_the_slow_ones(steps in proptest::collection::vec(-100i64..100, 1..500), start in 0u64..300) {
            play(64, false, start, &steps);
            play(64, true, 0x1_0000_0000 - 100 + start, &steps);
        }
    }
}
