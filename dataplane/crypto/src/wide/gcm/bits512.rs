//! GCM in 512-bit registers: four blocks in each.
//!
//! Every register stands for 64 bytes of the packet from its ESP header on, so that header and text keep their place:
//!
//! ```text
//!   packet      | header, IV | text 1 | text 2 | text 3 |  | text 4 | text 5 (tail) |
//!   counters    |     1      |   2    |   3    |   4    |  |   5    |   6    |  7   |  8  |
//!   hashed      | SPI, seq   | text 1 | text 2 | text 3 |  | text 4 | text 5 | lengths |  0  |
//!   multiplied  |    H^7     |  H^6   |  H^5   |  H^4   |  |  H^3   |  H^2   |  H^1    |  -  |
//! ```
//!
//! The first counter's block is the tag's mask: it falls where the header is, which is not encrypted. The powers come
//! from memory at the right offset, so that a packet's last block always meets H^1. Products are added up as they are
//! and reduced once for each packet of up to 40 blocks, else once for 32.

// Numbers of packets and registers are what the loops are about, and all bounds are constants.
#![allow(clippy::needless_range_loop, clippy::indexing_slicing)]

use core::arch::x86_64::{
    __m128i, __m512i, _bzhi_u64, _mm_loadu_si128, _mm_mask_cmpneq_epu8_mask, _mm_mask_storeu_epi8,
    _mm_maskz_loadu_epi8, _mm_set_epi64x, _mm_setzero_si128, _mm_shuffle_epi8, _mm_storeu_si128,
    _mm_xor_si128, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256,
    _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_broadcast_i32x4, _mm512_castsi512_si128,
    _mm512_castsi512_si256, _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64,
    _mm512_inserti32x4, _mm512_load_si512, _mm512_loadu_si512, _mm512_mask_broadcast_i32x4,
    _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_maskz_mov_epi8, _mm512_set1_epi64,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_shuffle_epi32, _mm512_ternarylogic_epi64,
    _mm512_xor_si512, _mm512_zextsi128_si512,
};

use arrayvec::ArrayVec;

use super::super::cpu::Bits512;
use super::super::direction::Direction;
use super::front::Front;
use super::job::{Job, admit, look};
use super::key::{AHEAD, GcmKey, POLYNOMIAL, POWERS};
use super::tables::COUNTERS;

/// Registers of hashed blocks up to which packets of the same number wait for each other.
const SHORT: usize = 4;
/// Registers of hashed blocks of which there are powers enough: the packet is reduced once.
const MIDDLE: usize = POWERS / 4;
/// Registers of a chunk of a longer packet.
const CHUNK: usize = 8;
/// Blocks of a chunk.
const CHUNK_BLOCKS: usize = 4 * CHUNK;

/// Works through a batch, short packets of like length together, and sets all results.
pub(super) fn run<D: Direction>(
    _: Bits512,
    rounds: usize,
    same_key: bool,
    ops: &mut [&mut D::Op<'_>],
) {
    #[allow(unsafe_code)]
    // SAFETY: the token says that this CPU has what the function is compiled for.
    unsafe {
        all::<D>(rounds, same_key, ops);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
fn all<D: Direction>(rounds: usize, same_key: bool, ops: &mut [&mut D::Op<'_>]) {
    // Places of short packets that wait for others of the same number of registers.
    let mut waiting = [const { ArrayVec::<usize, 4>::new_const() }; SHORT];
    let mut at = 0;
    while at < ops.len() {
        if !same_key {
            for op in ops.iter().skip(at + AHEAD).take(4) {
                if let (Some(key), length) = look::<D>(op) {
                    key.prefetch(length);
                }
            }
        }
        if let Some([a, b, c, d]) = ops.get_mut(at..at + 4)
            && let (Some(a), Some(b), Some(c), Some(d)) = (
                Job::<D>::of(a),
                Job::<D>::of(b),
                Job::<D>::of(c),
                Job::<D>::of(d),
            )
            && let registers = a.registers()
            && registers <= SHORT
            && registers == b.registers()
            && registers == c.registers()
            && registers == d.registers()
        {
            four(rounds, registers, &mut [a, b, c, d]);
            at += 4;
            continue;
        }
        for at in at..(at + 4).min(ops.len()) {
            let Some(op) = ops.get_mut(at) else { break };
            let Some(mut job) = admit::<D>(op) else {
                continue;
            };
            let registers = job.registers();
            let Some(waiting) = waiting.get_mut(registers - 1) else {
                one(rounds, registers, &mut job);
                continue;
            };
            waiting.push(at);
            if let Ok(places) = <[usize; 4]>::try_from(waiting.as_slice()) {
                waiting.clear();
                if let Ok([a, b, c, d]) = ops.get_disjoint_mut(places)
                    && let (Some(a), Some(b), Some(c), Some(d)) = (
                        Job::<D>::of(a),
                        Job::<D>::of(b),
                        Job::<D>::of(c),
                        Job::<D>::of(d),
                    )
                {
                    four(rounds, registers, &mut [a, b, c, d]);
                }
            }
        }
        at += 4;
    }
    for (waiting, registers) in waiting.iter().zip(1..) {
        for at in waiting {
            if let Some(mut job) = ops.get_mut(*at).and_then(|op| Job::<D>::of(op)) {
                one(rounds, registers, &mut job);
            }
        }
    }
}

/// Four packets of so many registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
fn four<D: Direction>(rounds: usize, registers: usize, jobs: &mut [Job<'_, D>; 4]) {
    match registers {
        1 => whole::<D, 1, 4>(rounds, jobs),
        2 => whole::<D, 2, 4>(rounds, jobs),
        3 => pairs::<D, 3>(rounds, jobs),
        _ => pairs::<D, 4>(rounds, jobs),
    }
}

/// Two and two: more streams than the instructions take at once only delay the hash.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
fn pairs<D: Direction, const REGISTERS: usize>(rounds: usize, jobs: &mut [Job<'_, D>; 4]) {
    for pair in jobs.as_chunks_mut::<2>().0 {
        whole::<D, REGISTERS, 2>(rounds, pair);
    }
}

/// A packet of so many registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
fn one<D: Direction>(rounds: usize, registers: usize, job: &mut Job<'_, D>) {
    let jobs = std::array::from_mut(job);
    match registers {
        1 => whole::<D, 1, 1>(rounds, jobs),
        2 => whole::<D, 2, 1>(rounds, jobs),
        3 => whole::<D, 3, 1>(rounds, jobs),
        4 => whole::<D, 4, 1>(rounds, jobs),
        5 => whole::<D, 5, 1>(rounds, jobs),
        6 => whole::<D, 6, 1>(rounds, jobs),
        7 => whole::<D, 7, 1>(rounds, jobs),
        8 => whole::<D, 8, 1>(rounds, jobs),
        9 => whole::<D, 9, 1>(rounds, jobs),
        MIDDLE => whole::<D, MIDDLE, 1>(rounds, jobs),
        _ => long::<D>(rounds, job),
    }
}

/// Products that are not reduced yet, in four lanes.
#[derive(Clone, Copy)]
struct Sum {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Sum {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
    #[inline]
    fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self {
            low: zero,
            middle: zero,
            high: zero,
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
    #[inline]
    fn add(self, blocks: __m512i, powers: __m512i) -> Self {
        Self {
            low: _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128::<0x00>(blocks, powers)),
            middle: xor3(
                self.middle,
                _mm512_clmulepi64_epi128::<0x01>(blocks, powers),
                _mm512_clmulepi64_epi128::<0x10>(blocks, powers),
            ),
            high: _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128::<0x11>(blocks, powers)),
        }
    }

    /// The sum of all lanes, reduced; see `field::reduce`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
    #[inline]
    fn reduce(self) -> __m128i {
        let polynomial = _mm512_set1_epi64(POLYNOMIAL as i64);
        let middle = xor3(
            self.middle,
            _mm512_shuffle_epi32::<0x4e>(self.low),
            _mm512_clmulepi64_epi128::<0x00>(self.low, polynomial),
        );
        let high = xor3(
            self.high,
            _mm512_shuffle_epi32::<0x4e>(middle),
            _mm512_clmulepi64_epi128::<0x00>(middle, polynomial),
        );
        let two = _mm256_xor_si256(
            _mm512_castsi512_si256(high),
            _mm512_extracti64x4_epi64::<1>(high),
        );
        _mm_xor_si128(
            _mm256_castsi256_si128(two),
            _mm256_extracti128_si256::<1>(two),
        )
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// Swaps the bytes of each block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn swapped(blocks: __m512i) -> __m512i {
    let order =
        _mm512_broadcast_i32x4(_mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f));
    _mm512_shuffle_epi8(blocks, order)
}

/// A round key in each lane.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn round_key(key: &GcmKey, round: usize) -> __m512i {
    debug_assert!(round < key.rounds.len());
    #[allow(unsafe_code)]
    // SAFETY: the kernels ask for rounds 0 to 14 only, of which there are 15.
    unsafe {
        let round = key.rounds.as_ptr().add(round);
        _mm512_broadcast_i32x4(_mm_loadu_si128(round.cast()))
    }
}

/// Four powers, of which the first is for the block that `left` blocks (itself included) are left of.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn powers(key: &GcmKey, left: usize) -> __m512i {
    debug_assert!(0 < left && left <= POWERS);
    let key: *const GcmKey = key;
    #[allow(unsafe_code)]
    // SAFETY: the powers are the first field, and at least one of the four that are read is among them; the up to three
    // behind them are bytes of the fields that follow without a gap.
    unsafe {
        _mm512_loadu_si512(key.cast::<u128>().add(POWERS - left).cast())
    }
}

/// The counters of the register of this number, in place.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn counters(number: usize) -> __m512i {
    debug_assert!(number < COUNTERS.len());
    #[allow(unsafe_code)]
    // SAFETY: jobs are at most as long as the table (`Job::of`), and its lines are 64 bytes.
    unsafe {
        _mm512_load_si512(COUNTERS.as_ptr().add(number).cast())
    }
}

/// The bytes of the register of this number that are header or text.
#[target_feature(enable = "bmi1,bmi2")]
#[inline]
fn covered<D: Direction>(job: &Job<'_, D>, number: usize) -> u64 {
    _bzhi_u64(
        u64::MAX,
        job.covered().saturating_sub(64 * number).min(64) as u32,
    )
}

/// The 64 bytes of the packet at the register of this number, those only which the mask names; the others are zero.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn load<D: Direction>(job: &Job<'_, D>, number: usize, mask: u64) -> __m512i {
    debug_assert!(mask & !covered(job, number) == 0);
    #[allow(unsafe_code)]
    // SAFETY: what the mask names is in the packet: it comes from `covered`, or all 64 bytes are covered. Bytes that it
    // does not name are not touched.
    unsafe {
        _mm512_maskz_loadu_epi8(mask, job.start().wrapping_add(64 * number).cast())
    }
}

/// The reverse of [`load`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn store<D: Direction>(job: &mut Job<'_, D>, number: usize, mask: u64, bytes: __m512i) {
    debug_assert!(mask & !covered(job, number) == 0);
    #[allow(unsafe_code)]
    // SAFETY: as for `load`; the job borrows the packet mutably.
    unsafe {
        _mm512_mask_storeu_epi8(
            job.start_mut().wrapping_add(64 * number).cast(),
            mask,
            bytes,
        );
    }
}

/// The last register takes the lengths behind the last block of text.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn with_lengths<D: Direction>(blocks: __m512i, job: &Job<'_, D>) -> __m512i {
    let lane = 0xf_u16 << (4 * ((job.blocks() - 1) % 4));
    let lengths = _mm_set_epi64x(job.key.associated_bits as i64, job.text() as i64 * 8);
    _mm512_mask_broadcast_i32x4(blocks, lane, lengths)
}

/// Compares the ICV, or writes it and the header: the ICV is the hash's last value under the mask of the first counter's block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn finish<D: Direction>(
    job: &mut Job<'_, D>,
    front: &Front,
    hash: __m128i,
    first: __m512i,
) -> bool {
    let order = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    let tag = _mm_xor_si128(_mm_shuffle_epi8(hash, order), _mm512_castsi512_si128(first));
    let mask = job.key.icv_mask;
    #[allow(unsafe_code)]
    // SAFETY: the ICV's bytes, which the mask names, stand behind the text (`Job::of`); the header's 16 before it.
    unsafe {
        let place = job.start_mut().wrapping_add(job.covered());
        if D::OPEN {
            let icv = _mm_maskz_loadu_epi8(mask, place.cast());
            _mm_mask_cmpneq_epu8_mask(mask, icv, tag) == 0
        } else {
            _mm_mask_storeu_epi8(place.cast(), mask, tag);
            // Not earlier: what was just written is slow to load together with what stands behind it.
            _mm_storeu_si128(job.start_mut().cast(), front.header);
            true
        }
    }
}

/// Encrypts or decrypts one register of the packet; gives the ciphertext in the hash's order. Of `full` ones every byte
/// is text, or header.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn apply<D: Direction>(
    job: &mut Job<'_, D>,
    number: usize,
    full: bool,
    stream: __m512i,
) -> __m512i {
    let mask = if full { u64::MAX } else { covered(job, number) };
    let before = load(job, number, mask);
    let after = _mm512_xor_si512(before, stream);
    // The header stays.
    store(
        job,
        number,
        if number == 0 { mask & !0xffff } else { mask },
        after,
    );
    swapped(if D::OPEN {
        before
    } else if full {
        after
    } else {
        _mm512_maskz_mov_epi8(mask, after)
    })
}

/// All rounds but the first and the last.
///
/// The loop is not unrolled, since the number of rounds is known at run time only. That is wanted: unrolled, the compiler
/// puts one stream behind the other and keeps round keys on the stack.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn middle_rounds<D: Direction, const REGISTERS: usize, const PACKETS: usize>(
    jobs: &[Job<'_, D>; PACKETS],
    rounds: std::ops::Range<usize>,
    streams: &mut [[__m512i; REGISTERS]; PACKETS],
) {
    for round in rounds {
        for p in 0..PACKETS {
            let key = round_key(jobs[p].key, round);
            for stream in &mut streams[p] {
                *stream = _mm512_aesenc_epi128(*stream, key);
            }
        }
    }
}

/// `PACKETS` packets whose hashed blocks take `REGISTERS` registers each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn whole<D: Direction, const REGISTERS: usize, const PACKETS: usize>(
    rounds: usize,
    jobs: &mut [Job<'_, D>; PACKETS],
) {
    let zero = _mm512_setzero_si512();
    let mut fronts = [Front {
        header: _mm_setzero_si128(),
        base: _mm_setzero_si128(),
        associated: _mm_setzero_si128(),
    }; PACKETS];
    let mut streams = [[zero; REGISTERS]; PACKETS];
    for p in 0..PACKETS {
        fronts[p] = Front::new(&jobs[p]);
        let base = _mm512_broadcast_i32x4(fronts[p].base);
        for r in 0..REGISTERS {
            streams[p][r] = _mm512_xor_si512(base, counters(r));
        }
    }
    middle_rounds(jobs, 1..rounds, &mut streams);
    for p in 0..PACKETS {
        let key = round_key(jobs[p].key, rounds);
        for stream in &mut streams[p] {
            *stream = _mm512_aesenclast_epi128(*stream, key);
        }
    }
    for p in 0..PACKETS {
        let job = &mut jobs[p];
        let front = &fronts[p];
        let mut sum = Sum::zero();
        for r in 0..REGISTERS {
            let mut blocks = apply(job, r, r + 2 < REGISTERS, streams[p][r]);
            if r == 0 {
                blocks = _mm512_inserti32x4::<0>(blocks, front.associated);
            }
            if r == REGISTERS - 1 {
                blocks = with_lengths(blocks, job);
            }
            sum = sum.add(blocks, powers(job.key, job.blocks() - 4 * r));
        }
        let good = finish(job, front, sum.reduce(), streams[p][0]);
        job.done(good);
    }
}

/// A packet of more than [`MIDDLE`] registers, in chunks.
///
/// ```text
///   seal   rounds 0 | rounds 1, hash 0 | rounds 2, hash 1 | rounds of the rest, hash 2 | hash of the rest
///   open   rounds 0, hash 0 | rounds 1, hash 1 | rounds 2, hash 2 | rounds of the rest | hash of the rest
/// ```
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
fn long<D: Direction>(rounds: usize, job: &mut Job<'_, D>) {
    let front = Front::new(job);
    // The rest has 9 to 40 blocks.
    let chunks = (job.blocks() - POWERS).div_ceil(CHUNK_BLOCKS);
    let mut first = _mm512_setzero_si512();
    let mut hash = _mm_setzero_si128();
    let mut waiting = [_mm512_setzero_si512(); CHUNK];
    for chunk in 0..chunks {
        let at = chunk * CHUNK;
        if D::OPEN {
            waiting[0] = swapped(load(job, at, u64::MAX));
            if chunk == 0 {
                waiting[0] = _mm512_inserti32x4::<0>(waiting[0], front.associated);
            }
        }
        let hashed = (D::OPEN || chunk > 0).then_some((&waiting, &mut hash));
        let streams = streams::<D, CHUNK, false>(rounds, job, &front, at, hashed);
        for r in 0..CHUNK {
            let after = _mm512_xor_si512(load(job, at + r, u64::MAX), streams[r]);
            let text = if at + r == 0 { !0xffff } else { u64::MAX };
            store(job, at + r, text, after);
            if !D::OPEN {
                waiting[r] = swapped(after);
            }
        }
        if chunk == 0 {
            first = streams[0];
            if !D::OPEN {
                waiting[0] = _mm512_inserti32x4::<0>(waiting[0], front.associated);
            }
        }
    }
    let at = chunks * CHUNK;
    let rest = job.registers() - at;
    let good = match rest {
        3 => rest_of::<D, 3>(rounds, job, &front, at, &waiting, hash, first),
        4 => rest_of::<D, 4>(rounds, job, &front, at, &waiting, hash, first),
        5 => rest_of::<D, 5>(rounds, job, &front, at, &waiting, hash, first),
        6 => rest_of::<D, 6>(rounds, job, &front, at, &waiting, hash, first),
        7 => rest_of::<D, 7>(rounds, job, &front, at, &waiting, hash, first),
        8 => rest_of::<D, 8>(rounds, job, &front, at, &waiting, hash, first),
        9 => rest_of::<D, 9>(rounds, job, &front, at, &waiting, hash, first),
        _ => rest_of::<D, MIDDLE>(rounds, job, &front, at, &waiting, hash, first),
    };
    job.done(good);
}

/// The key stream from register `at` on. Between the rounds a chunk of ciphertext goes into the hash: for `open` it is the
/// one from register `at` on, and only its first register is given; for `seal` it is the one before.
///
/// `REST` makes each instance one with a single caller, which the compiler then puts where it is called: streams stay in
/// registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn streams<D: Direction, const REGISTERS: usize, const REST: bool>(
    rounds: usize,
    job: &Job<'_, D>,
    front: &Front,
    at: usize,
    hashed: Option<(&[__m512i; CHUNK], &mut __m128i)>,
) -> [__m512i; REGISTERS] {
    let mut streams = [[_mm512_setzero_si512(); REGISTERS]];
    let base = _mm512_broadcast_i32x4(front.base);
    for r in 0..REGISTERS {
        streams[0][r] = _mm512_xor_si512(base, counters(at + r));
    }
    let jobs = std::array::from_ref(job);
    let mut done = 0;
    if let Some((waiting, hash)) = hashed {
        middle_rounds(jobs, 1..2, &mut streams);
        let blocks = _mm512_xor_si512(waiting[0], _mm512_zextsi128_si512(*hash));
        let mut sum = Sum::zero().add(blocks, powers(job.key, CHUNK_BLOCKS));
        // All of a chunk, which the compiler shall not know; there are more rounds.
        done = CHUNK.min(rounds - 1);
        for r in 1..done {
            middle_rounds(jobs, r + 1..r + 2, &mut streams);
            let blocks = if D::OPEN {
                swapped(load(job, at + r, u64::MAX))
            } else {
                waiting[r]
            };
            sum = sum.add(blocks, powers(job.key, CHUNK_BLOCKS - 4 * r));
        }
        *hash = sum.reduce();
    }
    middle_rounds(jobs, done + 1..rounds, &mut streams);
    let key = round_key(job.key, rounds);
    let [mut streams] = streams;
    for stream in &mut streams {
        *stream = _mm512_aesenclast_epi128(*stream, key);
    }
    streams
}

/// The last registers of a long packet.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn rest_of<D: Direction, const REGISTERS: usize>(
    rounds: usize,
    job: &mut Job<'_, D>,
    front: &Front,
    at: usize,
    waiting: &[__m512i; CHUNK],
    mut hash: __m128i,
    first: __m512i,
) -> bool {
    let hashed = (!D::OPEN).then_some((waiting, &mut hash));
    let streams = streams::<D, REGISTERS, true>(rounds, job, front, at, hashed);
    let mut sum = Sum::zero();
    for r in 0..REGISTERS {
        let mut blocks = apply(job, at + r, r + 2 < REGISTERS, streams[r]);
        if r == 0 {
            blocks = _mm512_xor_si512(blocks, _mm512_zextsi128_si512(hash));
        }
        if r == REGISTERS - 1 {
            blocks = with_lengths(blocks, job);
        }
        sum = sum.add(blocks, powers(job.key, job.blocks() - 4 * (at + r)));
    }
    finish(job, front, sum.reduce(), first)
}
