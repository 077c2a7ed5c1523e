//! GCM in 256-bit registers: two blocks in each, placed as `bits512` places four.
//!
//! There are no masks and half as many registers. A register that is not full is copied to and from a whole one; two
//! short packets go through the rounds together.

// Numbers of packets and registers are what the loops are about, and all bounds are constants.
#![allow(clippy::needless_range_loop, clippy::indexing_slicing)]

use core::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm_set_epi64x, _mm_setzero_si128, _mm_shuffle_epi8,
    _mm_storeu_si128, _mm_xor_si128, _mm256_aesenc_epi128, _mm256_aesenclast_epi128,
    _mm256_broadcastsi128_si256, _mm256_castsi256_si128, _mm256_clmulepi64_epi128,
    _mm256_extracti128_si256, _mm256_inserti128_si256, _mm256_load_si256, _mm256_loadu_si256,
    _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_shuffle_epi32,
    _mm256_storeu_si256, _mm256_xor_si256, _mm256_zextsi128_si256,
};

use arrayvec::ArrayVec;

use super::super::cpu::Bits256;
use super::super::direction::Direction;
use super::front::Front;
use super::job::{Job, admit, look};
use super::key::{AHEAD, GcmKey, POLYNOMIAL, POWERS};
use super::tables::COUNTERS;
use crate::mac::same_icv;

/// Bytes of a register.
const WIDTH: usize = 32;
/// Registers of hashed blocks up to which a packet is short.
const SHORT: usize = 4;
/// Short packets whose registers go through the rounds together.
const TOGETHER: usize = 2;
/// Registers of a chunk of a long packet.
const CHUNK: usize = 8;
/// Blocks of a chunk.
const CHUNK_BLOCKS: usize = 2 * CHUNK;

/// Works through a batch, short packets of like length together, and sets all results.
pub(super) fn run<D: Direction>(
    _: Bits256,
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

#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
fn all<D: Direction>(rounds: usize, same_key: bool, ops: &mut [&mut D::Op<'_>]) {
    let mut waiting = [const { ArrayVec::<usize, TOGETHER>::new_const() }; SHORT];
    for at in 0..ops.len() {
        if !same_key
            && let Some(op) = ops.get(at + AHEAD)
            && let (Some(key), length) = look::<D>(op)
        {
            key.prefetch(length);
        }
        let Some(op) = ops.get_mut(at) else { break };
        let Some(mut job) = admit::<D>(op) else {
            continue;
        };
        let registers = job.blocks().div_ceil(2);
        if let Some(waiting) = waiting.get_mut(registers - 1) {
            waiting.push(at);
            if let Ok(places) = <[usize; TOGETHER]>::try_from(waiting.as_slice()) {
                waiting.clear();
                if let Ok([a, b]) = ops.get_disjoint_mut(places)
                    && let (Some(a), Some(b)) = (Job::<D>::of(a), Job::<D>::of(b))
                {
                    some::<D, TOGETHER>(rounds, registers, &mut [a, b]);
                }
            }
        } else {
            long::<D>(rounds, &mut job);
        }
    }
    for (waiting, registers) in waiting.iter().zip(1..) {
        for at in waiting {
            if let Some(job) = ops.get_mut(*at).and_then(|op| Job::<D>::of(op)) {
                some::<D, 1>(rounds, registers, &mut [job]);
            }
        }
    }
}

#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn some<D: Direction, const PACKETS: usize>(
    rounds: usize,
    registers: usize,
    jobs: &mut [Job<'_, D>; PACKETS],
) {
    match registers {
        1 | 2 => short::<D, 2, PACKETS>(rounds, jobs),
        3 => short::<D, 3, PACKETS>(rounds, jobs),
        _ => short::<D, 4, PACKETS>(rounds, jobs),
    }
}

/// Products that are not reduced yet, in two lanes.
#[derive(Clone, Copy)]
struct Sum {
    low: __m256i,
    middle: __m256i,
    high: __m256i,
}

impl Sum {
    #[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
    #[inline]
    fn zero() -> Self {
        let zero = _mm256_setzero_si256();
        Self {
            low: zero,
            middle: zero,
            high: zero,
        }
    }

    #[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
    #[inline]
    fn add(self, blocks: __m256i, powers: __m256i) -> Self {
        Self {
            low: _mm256_xor_si256(self.low, _mm256_clmulepi64_epi128::<0x00>(blocks, powers)),
            middle: xor3(
                self.middle,
                _mm256_clmulepi64_epi128::<0x01>(blocks, powers),
                _mm256_clmulepi64_epi128::<0x10>(blocks, powers),
            ),
            high: _mm256_xor_si256(self.high, _mm256_clmulepi64_epi128::<0x11>(blocks, powers)),
        }
    }

    /// The sum of both lanes, reduced; see `field::reduce`.
    #[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
    #[inline]
    fn reduce(self) -> __m128i {
        let polynomial = _mm256_set1_epi64x(POLYNOMIAL as i64);
        let middle = xor3(
            self.middle,
            _mm256_shuffle_epi32::<0x4e>(self.low),
            _mm256_clmulepi64_epi128::<0x00>(self.low, polynomial),
        );
        let high = xor3(
            self.high,
            _mm256_shuffle_epi32::<0x4e>(middle),
            _mm256_clmulepi64_epi128::<0x00>(middle, polynomial),
        );
        _mm_xor_si128(
            _mm256_castsi256_si128(high),
            _mm256_extracti128_si256::<1>(high),
        )
    }
}

#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn xor3(a: __m256i, b: __m256i, c: __m256i) -> __m256i {
    _mm256_xor_si256(a, _mm256_xor_si256(b, c))
}

/// Swaps the bytes of each block.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn swapped(blocks: __m256i) -> __m256i {
    let order =
        _mm256_broadcastsi128_si256(_mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f));
    _mm256_shuffle_epi8(blocks, order)
}

/// A round key in both lanes.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn round_key(key: &GcmKey, round: usize) -> __m256i {
    debug_assert!(round < key.rounds.len());
    #[allow(unsafe_code)]
    // SAFETY: the kernels ask for rounds 0 to 14 only, of which there are 15.
    unsafe {
        let round = key.rounds.as_ptr().add(round);
        _mm256_broadcastsi128_si256(_mm_loadu_si128(round.cast()))
    }
}

/// Two powers, of which the first is for the block that `left` blocks (itself included) are left of.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn powers(key: &GcmKey, left: usize) -> __m256i {
    debug_assert!(0 < left && left <= POWERS);
    let key: *const GcmKey = key;
    #[allow(unsafe_code)]
    // SAFETY: the powers are the first field, and the first of the two that are read is among them; behind the last of
    // them are bytes of the fields that follow without a gap.
    unsafe {
        _mm256_loadu_si256(key.cast::<u128>().add(POWERS - left).cast())
    }
}

/// The counters of the register of this number, in place.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn counters(number: usize) -> __m256i {
    debug_assert!(number < 2 * COUNTERS.len());
    #[allow(unsafe_code)]
    // SAFETY: jobs are at most as long as the table (`LONGEST`), two registers a line, and a line is 64 bytes.
    unsafe {
        _mm256_load_si256(COUNTERS.as_ptr().cast::<__m256i>().add(number))
    }
}

/// The bytes of the register of this number that are header or text.
fn covered<D: Direction>(job: &Job<'_, D>, number: usize) -> usize {
    job.covered().saturating_sub(WIDTH * number).min(WIDTH)
}

/// The first `bytes` bytes of the packet at the register of this number; zero behind them.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn load<D: Direction>(job: &Job<'_, D>, number: usize, bytes: usize) -> __m256i {
    debug_assert!(bytes <= covered(job, number));
    let mut whole = [0_u8; WIDTH];
    #[allow(unsafe_code)]
    // SAFETY: as many bytes are in the packet: they come from `covered`, or all of the register are covered.
    unsafe {
        let place = job.start().wrapping_add(WIDTH * number);
        if bytes == WIDTH {
            return _mm256_loadu_si256(place.cast());
        }
        whole.as_mut_ptr().copy_from_nonoverlapping(place, bytes);
        _mm256_loadu_si256(whole.as_ptr().cast())
    }
}

/// The reverse of [`load`], but that the first `skipped` bytes stay as they are: 16 or none.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn store<D: Direction>(
    job: &mut Job<'_, D>,
    number: usize,
    skipped: usize,
    bytes: usize,
    from: __m256i,
) {
    debug_assert!(bytes <= covered(job, number));
    let mut whole = [0_u8; WIDTH];
    #[allow(unsafe_code)]
    // SAFETY: as for `load`; the job borrows the packet mutably. What is skipped is not more than what is covered.
    unsafe {
        let place = job.start_mut().wrapping_add(WIDTH * number);
        match (skipped, bytes) {
            (0, WIDTH) => _mm256_storeu_si256(place.cast(), from),
            (16, WIDTH) => {
                _mm_storeu_si128(place.add(16).cast(), _mm256_extracti128_si256::<1>(from));
            }
            _ => {
                _mm256_storeu_si256(whole.as_mut_ptr().cast(), from);
                place.add(skipped).copy_from_nonoverlapping(
                    whole.as_ptr().add(skipped),
                    bytes.saturating_sub(skipped),
                );
            }
        }
    }
}

/// The last register takes the lengths behind the last block of text.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn with_lengths<D: Direction>(blocks: __m256i, job: &Job<'_, D>) -> __m256i {
    let lengths = _mm_set_epi64x(job.key.associated_bits as i64, job.text() as i64 * 8);
    if job.blocks().is_multiple_of(2) {
        _mm256_inserti128_si256::<1>(blocks, lengths)
    } else {
        _mm256_inserti128_si256::<0>(blocks, lengths)
    }
}

/// Compares the ICV, or writes it and the header: the ICV is the hash's last value under the mask of the first counter's block.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn finish<D: Direction>(
    job: &mut Job<'_, D>,
    front: &Front,
    hash: __m128i,
    first: __m256i,
) -> bool {
    let order = _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    let tag = _mm_xor_si128(_mm_shuffle_epi8(hash, order), _mm256_castsi256_si128(first));
    let mut bytes = [0; 16];
    #[allow(unsafe_code)]
    // SAFETY: the array has 16 bytes.
    unsafe {
        _mm_storeu_si128(bytes.as_mut_ptr().cast(), tag);
    }
    let icv = job.icv_mut();
    let tag = bytes.get(..icv.len()).unwrap_or_default();
    if D::OPEN {
        same_icv(icv, tag)
    } else {
        icv.copy_from_slice(tag);
        #[allow(unsafe_code)]
        // SAFETY: a job's packet begins with the 16 bytes of its header.
        unsafe {
            _mm_storeu_si128(job.start_mut().cast(), front.header);
        }
        true
    }
}

/// Encrypts or decrypts one register of the packet; gives the ciphertext in the hash's order.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn xored<D: Direction>(
    job: &mut Job<'_, D>,
    number: usize,
    bytes: usize,
    stream: __m256i,
) -> __m256i {
    let before = load(job, number, bytes);
    let after = _mm256_xor_si256(before, stream);
    store(job, number, if number == 0 { 16 } else { 0 }, bytes, after);
    swapped(if D::OPEN {
        before
    } else if bytes == WIDTH {
        after
    } else {
        load(job, number, bytes)
    })
}

/// `PACKETS` packets whose hashed blocks take up to `REGISTERS` registers each.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn short<D: Direction, const REGISTERS: usize, const PACKETS: usize>(
    rounds: usize,
    jobs: &mut [Job<'_, D>; PACKETS],
) {
    let zero = _mm256_setzero_si256();
    let mut fronts = [Front {
        header: _mm_setzero_si128(),
        base: _mm_setzero_si128(),
        associated: _mm_setzero_si128(),
    }; PACKETS];
    let mut streams = [[zero; REGISTERS]; PACKETS];
    for p in 0..PACKETS {
        fronts[p] = Front::new(&jobs[p]);
        let base = _mm256_broadcastsi128_si256(fronts[p].base);
        for r in 0..REGISTERS {
            streams[p][r] = _mm256_xor_si256(base, counters(r));
        }
    }
    for round in 1..rounds {
        for p in 0..PACKETS {
            let key = round_key(jobs[p].key, round);
            for stream in &mut streams[p] {
                *stream = _mm256_aesenc_epi128(*stream, key);
            }
        }
    }
    for p in 0..PACKETS {
        let job = &mut jobs[p];
        let key = round_key(job.key, rounds);
        let mut first = zero;
        let mut sum = Sum::zero();
        for r in 0..REGISTERS {
            let stream = _mm256_aesenclast_epi128(streams[p][r], key);
            let bytes = covered(job, r);
            let mut blocks = xored(job, r, bytes, stream);
            if r == 0 {
                first = stream;
                blocks = _mm256_inserti128_si256::<0>(blocks, fronts[p].associated);
            }
            if r == REGISTERS - 1 {
                blocks = with_lengths(blocks, job);
            }
            sum = sum.add(blocks, powers(job.key, job.blocks() - 2 * r));
        }
        let good = finish(job, &fronts[p], sum.reduce(), first);
        job.done(good);
    }
}

/// A packet of more than `SHORT` registers.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn long<D: Direction>(rounds: usize, job: &mut Job<'_, D>) {
    let zero = _mm256_setzero_si256();
    let front = Front::new(job);
    let base = _mm256_broadcastsi128_si256(front.base);
    // At least the lengths and the last block of text are left for the end.
    let chunks = (job.blocks() - 2) / CHUNK_BLOCKS;
    let mut first = zero;
    let mut hash = _mm_setzero_si128();
    for chunk in 0..chunks {
        let at = chunk * CHUNK;
        let mut streams = [zero; CHUNK];
        for r in 0..CHUNK {
            streams[r] = _mm256_xor_si256(base, counters(at + r));
        }
        // Ciphertext that is there already is hashed between the rounds: its own, or that of the chunk before.
        let hashed = if D::OPEN {
            Some(chunk)
        } else {
            chunk.checked_sub(1)
        };
        let mut sum = Sum::zero();
        for round in 1..rounds {
            let key = round_key(job.key, round);
            for stream in &mut streams {
                *stream = _mm256_aesenc_epi128(*stream, key);
            }
            if let Some(chunk) = hashed
                && round <= CHUNK
            {
                let blocks = whole(
                    job,
                    chunk * CHUNK + round - 1,
                    &front,
                    (round == 1).then_some(hash),
                );
                sum = sum.add(blocks, powers(job.key, CHUNK_BLOCKS - 2 * (round - 1)));
            }
        }
        if hashed.is_some() {
            hash = sum.reduce();
        }
        let key = round_key(job.key, rounds);
        for r in 0..CHUNK {
            streams[r] = _mm256_aesenclast_epi128(streams[r], key);
            let after = _mm256_xor_si256(load(job, at + r, WIDTH), streams[r]);
            store(job, at + r, if at + r == 0 { 16 } else { 0 }, WIDTH, after);
        }
        if chunk == 0 {
            first = streams[0];
        }
    }
    if !D::OPEN && chunks > 0 {
        let mut sum = Sum::zero();
        for r in 0..CHUNK {
            let blocks = whole(
                job,
                (chunks - 1) * CHUNK + r,
                &front,
                (r == 0).then_some(hash),
            );
            sum = sum.add(blocks, powers(job.key, CHUNK_BLOCKS - 2 * r));
        }
        hash = sum.reduce();
    }
    let rest = (job.blocks() - chunks * CHUNK_BLOCKS).div_ceil(2);
    let at = chunks * CHUNK;
    let good = match rest {
        1 => last::<D, 1>(rounds, job, &front, at, hash, first),
        2 => last::<D, 2>(rounds, job, &front, at, hash, first),
        3 => last::<D, 3>(rounds, job, &front, at, hash, first),
        4 => last::<D, 4>(rounds, job, &front, at, hash, first),
        5 => last::<D, 5>(rounds, job, &front, at, hash, first),
        6 => last::<D, 6>(rounds, job, &front, at, hash, first),
        7 => last::<D, 7>(rounds, job, &front, at, hash, first),
        8 => last::<D, 8>(rounds, job, &front, at, hash, first),
        _ => last::<D, 9>(rounds, job, &front, at, hash, first),
    };
    job.done(good);
}

/// A full register of ciphertext in the hash's order: the first of all has the associated data where the header is, the
/// first of a chunk takes the hash so far.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn whole<D: Direction>(
    job: &Job<'_, D>,
    number: usize,
    front: &Front,
    hash: Option<__m128i>,
) -> __m256i {
    let mut blocks = swapped(load(job, number, WIDTH));
    if number == 0 {
        blocks = _mm256_inserti128_si256::<0>(blocks, front.associated);
    }
    match hash {
        Some(hash) => _mm256_xor_si256(blocks, _mm256_zextsi128_si256(hash)),
        None => blocks,
    }
}

/// The last registers of a long packet.
#[target_feature(enable = "avx2,aes,pclmulqdq,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn last<D: Direction, const REGISTERS: usize>(
    rounds: usize,
    job: &mut Job<'_, D>,
    front: &Front,
    at: usize,
    hash: __m128i,
    first: __m256i,
) -> bool {
    let mut streams = [_mm256_setzero_si256(); REGISTERS];
    let base = _mm256_broadcastsi128_si256(front.base);
    for r in 0..REGISTERS {
        streams[r] = _mm256_xor_si256(base, counters(at + r));
    }
    for round in 1..rounds {
        let key = round_key(job.key, round);
        for stream in &mut streams {
            *stream = _mm256_aesenc_epi128(*stream, key);
        }
    }
    let key = round_key(job.key, rounds);
    let mut sum = Sum::zero();
    let mut first = first;
    for r in 0..REGISTERS {
        let stream = _mm256_aesenclast_epi128(streams[r], key);
        let bytes = if r + 2 < REGISTERS {
            WIDTH
        } else {
            covered(job, at + r)
        };
        let mut blocks = xored(job, at + r, bytes, stream);
        if r == 0 {
            if at == 0 {
                first = stream;
                blocks = _mm256_inserti128_si256::<0>(blocks, front.associated);
            }
            blocks = _mm256_xor_si256(blocks, _mm256_zextsi128_si256(hash));
        }
        if r == REGISTERS - 1 {
            blocks = with_lengths(blocks, job);
        }
        sum = sum.add(blocks, powers(job.key, job.blocks() - 2 * (at + r)));
    }
    finish(job, front, sum.reduce(), first)
}
