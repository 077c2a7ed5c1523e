//! Sixteen packets at once; see the module above.
//!
//! ```text
//!   states of packets, a row each      words in lanes                 key stream, a row each
//!   | c c c c k k k k ... iv iv |      | word 0 of all packets |      | 64 bytes for packet 0 |
//!   | c c c c k k k k ... iv iv | ---> | word 1 of all packets | ---> | 64 bytes for packet 1 |
//!   |          ...              |      |        ...            |      |          ...          |
//! ```

// Lanes, words and rounds are counted by constants, which the compiler sees.
#![allow(clippy::indexing_slicing)]

use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi32, _mm512_cmpgt_epu64_mask, _mm512_load_si512,
    _mm512_loadu_si512, _mm512_mask_set1_epi64, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8,
    _mm512_maskz_mov_epi8, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_storeu_si512, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
    _mm512_xor_si512,
};

use super::super::cpu::Bits512;
use super::super::transpose::{transpose_8, transpose_16};
use super::poly1305::Poly;
use super::{HEADER, Job, LANES};

/// Bytes of a block of key stream.
const BLOCK: usize = 64;
/// Blocks of Poly1305 in one of ChaCha20.
const QUARTERS: usize = 4;

/// Callers of one function, of which each has an instance: see [`chacha`].
const FIRST: u8 = 0;
const NEXT: u8 = 1;
const REST: u8 = 2;
const LENGTHS: u8 = 3;

/// Numbers of sixteen lanes of 64 bits.
type Lanes = [__m512i; 2];

/// Encrypts or decrypts the text of up to sixteen packets; gives their tags.
pub(super) fn run<const OPEN: bool>(_: Bits512, jobs: &mut [Job<'_>]) -> [[u8; 16]; LANES] {
    debug_assert!((1..=LANES).contains(&jobs.len()));
    #[allow(unsafe_code)]
    // SAFETY: the token says that this CPU has what the function is compiled for.
    unsafe {
        all::<OPEN>(jobs)
    }
}

/// 64 bytes of ciphertext of each packet as Poly1305 takes them: blocks of 16 bytes, in each of both halves of the lanes
/// lower and upper half of the blocks.
struct Message {
    blocks: [[[__m512i; 2]; 2]; QUARTERS],
    /// Which lanes have the block.
    active: [[__mmask8; 2]; QUARTERS],
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi1,bmi2")]
fn all<const OPEN: bool>(jobs: &mut [Job<'_>]) -> [[u8; 16]; LANES] {
    let zero = _mm512_setzero_si512();
    let mut state = State::new(jobs);
    let blocks = numbers(jobs, |job| job.text.div_ceil(16) as u64);
    let longest = jobs.iter().map(|job| job.text).max().unwrap_or(0);
    let units = longest.div_ceil(BLOCK);

    let mut polys = Poly::pair(&chacha::<OPEN, FIRST>(&state, 0, None));
    let low = numbers(jobs, |job| job.associated[0]);
    let high = numbers(jobs, |job| job.associated[1]);
    for (poly, (low, high)) in polys.iter_mut().zip(low.into_iter().zip(high)) {
        poly.block::<OPEN, FIRST>(u8::MAX, low, high);
    }

    let mut message = Message {
        blocks: [[[zero; 2]; 2]; QUARTERS],
        active: [[0; 2]; QUARTERS],
    };
    for unit in 0..units {
        let hashed = (unit > 0).then_some((&mut polys, &message));
        let words = chacha::<OPEN, NEXT>(&state, unit as u32 + 1, hashed);
        let streams = transpose_16(&words);
        let mut text = [zero; LANES];
        for (lane, job) in jobs.iter_mut().enumerate().take(LANES) {
            text[lane] = apply::<OPEN>(job, unit, streams[lane]);
        }
        let (halves, _) = text.as_chunks::<8>();
        for (half, rows) in halves.iter().enumerate() {
            let columns = transpose_8(rows);
            for quarter in 0..QUARTERS {
                message.blocks[quarter][half] = [columns[2 * quarter], columns[2 * quarter + 1]];
                let number = _mm512_set1_epi64((QUARTERS * unit + quarter) as i64);
                message.active[quarter][half] = _mm512_cmpgt_epu64_mask(blocks[half], number);
            }
        }
    }
    for quarter in 0..longest.div_ceil(16).saturating_sub(QUARTERS * (units - 1)) {
        hash::<OPEN, REST>(&mut polys, &message, quarter);
    }
    let low = numbers(jobs, |job| job.associated_bytes);
    let high = numbers(jobs, |job| job.text as u64);
    let mut tags = [[0; 16]; LANES];
    let (halves, _) = tags.as_chunks_mut::<8>();
    for (half, poly) in polys.iter_mut().enumerate() {
        poly.block::<OPEN, LENGTHS>(u8::MAX, low[half], high[half]);
        let [low, high] = poly.tags();
        // Lanes 0, 2, 4, 6, and 1, 3, 5, 7.
        let even = _mm512_unpacklo_epi64(low, high);
        let odd = _mm512_unpackhi_epi64(low, high);
        let mut pairs = [[[0_u8; 16]; 4]; 2];
        for (to, from) in pairs.iter_mut().zip([even, odd]) {
            #[allow(unsafe_code)]
            // SAFETY: 64 bytes are written to as many, of any alignment.
            unsafe {
                _mm512_storeu_si512(to.as_mut_ptr().cast(), from);
            }
        }
        for (lane, tag) in halves[half].iter_mut().enumerate() {
            *tag = pairs[lane % 2][lane / 2];
        }
    }
    state.wipe();
    tags
}

/// One number of each packet; zero in lanes without.
#[target_feature(enable = "avx512f")]
#[inline]
fn numbers(jobs: &[Job<'_>], number: impl Fn(&Job<'_>) -> u64) -> Lanes {
    let mut numbers = [[0_u64; 8]; 2];
    for (to, job) in numbers.as_flattened_mut().iter_mut().zip(jobs) {
        *to = number(job);
    }
    numbers.map(|numbers| {
        #[allow(unsafe_code)]
        // SAFETY: 64 bytes are read of as many, of any alignment.
        unsafe {
            _mm512_loadu_si512(numbers.as_ptr().cast())
        }
    })
}

/// First states of sixteen packets: word by word, in each the sixteen lanes.
struct State([__m512i; 16]);

impl State {
    /// Lanes without a packet have the first one's key and no IV: nobody uses what they give.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn new(jobs: &[Job<'_>]) -> Self {
        let mut rows = [_mm512_setzero_si512(); LANES];
        for (row, job) in rows.iter_mut().zip(jobs) {
            #[allow(unsafe_code)]
            // SAFETY: the state has 64 bytes and is the first field of what is aligned to as many.
            let state = unsafe { _mm512_load_si512(job.key.state.as_ptr().cast()) };
            *row = _mm512_mask_set1_epi64(state, 1 << 7, job.iv as i64);
        }
        Self(transpose_16(&rows))
    }

    /// It has keys in it.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn wipe(&mut self) {
        for words in &mut self.0 {
            #[allow(unsafe_code)]
            // SAFETY: a reference may be written to.
            unsafe {
                std::ptr::from_mut(words).write_volatile(_mm512_setzero_si512());
            }
        }
    }
}

/// A block of key stream of each packet, word by word. Between the rounds a message goes into the hash.
///
/// `CALLER` makes each instance one with a single caller, which the compiler then puts where it is called: states stay in
/// registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi1,bmi2")]
#[inline]
fn chacha<const OPEN: bool, const CALLER: u8>(
    state: &State,
    counter: u32,
    mut hashed: Option<(&mut [Poly; 2], &Message)>,
) -> [__m512i; 16] {
    let mut start = state.0;
    start[12] = _mm512_set1_epi32(counter as i32);
    let mut words = start;
    // RFC 8439 section 2.3. The compiler does not keep words in registers unless they have names.
    for round in 0..10 {
        if let Some((polys, message)) = &mut hashed
            && round < QUARTERS
        {
            hash::<OPEN, CALLER>(polys, message, round);
        }
        let [
            mut x0,
            mut x1,
            mut x2,
            mut x3,
            mut x4,
            mut x5,
            mut x6,
            mut x7,
            mut x8,
            mut x9,
            mut xa,
            mut xb,
            mut xc,
            mut xd,
            mut xe,
            mut xf,
        ] = words;
        macro_rules! step {
            ($rotation:literal: $($a:ident $b:ident $d:ident),*) => {
                $($a = _mm512_add_epi32($a, $b);)*
                $($d = _mm512_rol_epi32::<$rotation>(_mm512_xor_si512($d, $a));)*
            };
        }
        // Columns.
        step!(16: x0 x4 xc, x1 x5 xd, x2 x6 xe, x3 x7 xf);
        step!(12: x8 xc x4, x9 xd x5, xa xe x6, xb xf x7);
        step!(8: x0 x4 xc, x1 x5 xd, x2 x6 xe, x3 x7 xf);
        step!(7: x8 xc x4, x9 xd x5, xa xe x6, xb xf x7);
        // Diagonals.
        step!(16: x0 x5 xf, x1 x6 xc, x2 x7 xd, x3 x4 xe);
        step!(12: xa xf x5, xb xc x6, x8 xd x7, x9 xe x4);
        step!(8: x0 x5 xf, x1 x6 xc, x2 x7 xd, x3 x4 xe);
        step!(7: xa xf x5, xb xc x6, x8 xd x7, x9 xe x4);
        words = [
            x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, xa, xb, xc, xd, xe, xf,
        ];
    }
    for (word, start) in words.iter_mut().zip(start) {
        *word = _mm512_add_epi32(*word, start);
    }
    words
}

/// One block of both halves of the lanes. `CALLER`: see [`chacha`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi1,bmi2")]
#[inline]
fn hash<const OPEN: bool, const CALLER: u8>(
    polys: &mut [Poly; 2],
    message: &Message,
    quarter: usize,
) {
    for (half, poly) in polys.iter_mut().enumerate() {
        let [low, high] = message.blocks[quarter][half];
        poly.block::<OPEN, CALLER>(message.active[quarter][half], low, high);
    }
}

/// Encrypts or decrypts 64 bytes of a packet's text, or what there is of them; gives the ciphertext with zeros behind it.
#[target_feature(enable = "avx512f,avx512bw,bmi1,bmi2")]
#[inline]
fn apply<const OPEN: bool>(job: &mut Job<'_>, unit: usize, stream: __m512i) -> __m512i {
    let left = job.text.saturating_sub(BLOCK * unit);
    let place = job.packet.as_mut_ptr().wrapping_add(HEADER + BLOCK * unit);
    if left >= BLOCK {
        #[allow(unsafe_code)]
        // SAFETY: the text begins behind the header, and 64 bytes of it are left here.
        unsafe {
            let before = _mm512_loadu_si512(place.cast());
            let after = _mm512_xor_si512(before, stream);
            _mm512_storeu_si512(place.cast(), after);
            return if OPEN { before } else { after };
        }
    }
    let mask = (1 << left) - 1;
    #[allow(unsafe_code)]
    // SAFETY: the mask has the bytes that are left of the text; others are not touched.
    unsafe {
        let before = _mm512_maskz_loadu_epi8(mask, place.cast());
        let after = _mm512_xor_si512(before, stream);
        _mm512_mask_storeu_epi8(place.cast(), mask, after);
        if OPEN {
            before
        } else {
            _mm512_maskz_mov_epi8(mask, after)
        }
    }
}
