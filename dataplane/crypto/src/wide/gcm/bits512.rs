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

use core::arch::x86_64::*;

use arrayvec::ArrayVec;

use super::super::cpu::Bits512;
use super::job::{Direction, Job, admit};
use super::key::{GcmKey, POLYNOMIAL, POWERS};
use super::tables::COUNTERS;

/// Registers of hashed blocks up to which a packet is short.
const SHORT: usize = 4;
/// Short packets whose registers go through the rounds together.
const TOGETHER: usize = 4;
/// Registers of a chunk of a long packet.
const CHUNK: usize = 8;
/// Blocks of a chunk.
const CHUNK_BLOCKS: usize = 4 * CHUNK;

/// Works through a batch, short packets of like length together, and sets all results.
pub(super) fn run<D: Direction, const ROUNDS: usize>(_: Bits512, ops: &mut [&mut D::Op<'_>]) {
    #[allow(unsafe_code)]
    // SAFETY: the token says that this CPU has what the function is compiled for.
    unsafe {
        all::<D, ROUNDS>(ops);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
fn all<D: Direction, const ROUNDS: usize>(ops: &mut [&mut D::Op<'_>]) {
    let mut waiting = [const { ArrayVec::<usize, TOGETHER>::new_const() }; SHORT];
    for at in 0..ops.len() {
        let Some(op) = ops.get_mut(at) else { break };
        let Some(blocks) = admit::<D>(op) else {
            continue;
        };
        let registers = blocks.div_ceil(4);
        if let Some(waiting) = waiting.get_mut(registers - 1) {
            waiting.push(at);
            if let Ok(places) = <[usize; TOGETHER]>::try_from(waiting.as_slice()) {
                waiting.clear();
                if let Ok([a, b, c, d]) = ops.get_disjoint_mut(places)
                    && let (Some(a), Some(b), Some(c), Some(d)) =
                        (D::job(a), D::job(b), D::job(c), D::job(d))
                {
                    some::<D, ROUNDS, TOGETHER>(registers, &mut [a, b, c, d]);
                }
            }
        } else if let Some(mut job) = D::job(op) {
            long::<D, ROUNDS>(&mut job);
        }
    }
    for (waiting, registers) in waiting.iter().zip(1..) {
        for at in waiting {
            if let Some(job) = ops.get_mut(*at).and_then(|op| D::job(op)) {
                some::<D, ROUNDS, 1>(registers, &mut [job]);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn some<D: Direction, const ROUNDS: usize, const PACKETS: usize>(
    registers: usize,
    jobs: &mut [Job<'_, D>; PACKETS],
) {
    match registers {
        1 => short::<D, ROUNDS, 1, PACKETS>(jobs),
        2 => short::<D, ROUNDS, 2, PACKETS>(jobs),
        3 => short::<D, ROUNDS, 3, PACKETS>(jobs),
        _ => short::<D, ROUNDS, 4, PACKETS>(jobs),
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
    // SAFETY: jobs are at most as long as the table (`Job::new`), and its lines are 64 bytes.
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

/// What is made of the packet's first 16 bytes.
#[derive(Clone, Copy)]
struct Front {
    /// Salt and IV in each lane, the counters zero, and the first round key added.
    base: __m512i,
    /// Lower and upper half of the hash's first block.
    associated: [u64; 2],
    /// ESP header and IV.
    header: u128,
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn front<D: Direction>(job: &Job<'_, D>) -> Front {
    let numbers = job.number();
    let nonce = _mm512_mask_set1_epi64(
        _mm512_set1_epi64(numbers.nonce[0] as i64),
        0xaa,
        numbers.nonce[1] as i64,
    );
    Front {
        base: _mm512_xor_si512(nonce, round_key(job.key, 0)),
        associated: numbers.associated,
        header: numbers.header,
    }
}

/// The header's place in the first register takes the associated data.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn with_associated(blocks: __m512i, front: &Front) -> __m512i {
    let blocks = _mm512_mask_set1_epi64(blocks, 0b01, front.associated[0] as i64);
    _mm512_mask_set1_epi64(blocks, 0b10, front.associated[1] as i64)
}

/// The last register takes the lengths behind the last block of text.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn with_lengths<D: Direction>(blocks: __m512i, job: &Job<'_, D>) -> __m512i {
    let lower = 1_u8 << (2 * ((job.blocks() - 1) % 4));
    let blocks = _mm512_mask_set1_epi64(blocks, lower, job.text() as i64 * 8);
    _mm512_mask_set1_epi64(blocks, lower << 1, job.key.associated_bits() as i64)
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
    let mask = _bzhi_u32(u32::MAX, u32::from(job.key.icv)) as u16;
    if !D::OPEN {
        job.write_header(front.header);
    }
    #[allow(unsafe_code)]
    // SAFETY: the ICV's bytes, which the mask names, stand behind the text (`Job::new`).
    unsafe {
        let place = job.start_mut().wrapping_add(job.covered());
        if D::OPEN {
            let icv = _mm_maskz_loadu_epi8(mask, place.cast());
            _mm_mask_cmpneq_epu8_mask(mask, icv, tag) == 0
        } else {
            _mm_mask_storeu_epi8(place.cast(), mask, tag);
            true
        }
    }
}

/// `PACKETS` packets whose hashed blocks take `REGISTERS` registers each.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn short<D: Direction, const ROUNDS: usize, const REGISTERS: usize, const PACKETS: usize>(
    jobs: &mut [Job<'_, D>; PACKETS],
) {
    let zero = _mm512_setzero_si512();
    let mut fronts = [Front {
        base: zero,
        associated: [0; 2],
        header: 0,
    }; PACKETS];
    let mut streams = [[zero; REGISTERS]; PACKETS];
    for p in 0..PACKETS {
        fronts[p] = front(&jobs[p]);
        for r in 0..REGISTERS {
            streams[p][r] = _mm512_xor_si512(fronts[p].base, counters(r));
        }
    }
    for round in 1..ROUNDS {
        for p in 0..PACKETS {
            let key = round_key(jobs[p].key, round);
            for stream in &mut streams[p] {
                *stream = _mm512_aesenc_epi128(*stream, key);
            }
        }
    }
    for p in 0..PACKETS {
        let key = round_key(jobs[p].key, ROUNDS);
        for stream in &mut streams[p] {
            *stream = _mm512_aesenclast_epi128(*stream, key);
        }
    }
    for p in 0..PACKETS {
        let job = &mut jobs[p];
        let mut sum = Sum::zero();
        for r in 0..REGISTERS {
            let mask = if r + 2 < REGISTERS {
                u64::MAX
            } else {
                covered(job, r)
            };
            let mut blocks = xored(job, r, mask, streams[p][r]);
            if r == 0 {
                blocks = with_associated(blocks, &fronts[p]);
            }
            if r == REGISTERS - 1 {
                blocks = with_lengths(blocks, job);
            }
            sum = sum.add(blocks, powers(job.key, job.blocks() - 4 * r));
        }
        let good = finish(job, &fronts[p], sum.reduce(), streams[p][0]);
        job.done(good);
    }
}

/// Encrypts or decrypts one register of the packet; gives the ciphertext in the hash's order.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn xored<D: Direction>(job: &mut Job<'_, D>, number: usize, mask: u64, stream: __m512i) -> __m512i {
    let before = load(job, number, mask);
    let after = _mm512_xor_si512(before, stream);
    // The header stays.
    let text = if number == 0 { mask & !0xffff } else { mask };
    store(job, number, text, after);
    if D::OPEN {
        swapped(before)
    } else if mask == u64::MAX {
        swapped(after)
    } else {
        swapped(_mm512_maskz_mov_epi8(mask, after))
    }
}

/// A packet of more than `SHORT` registers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn long<D: Direction, const ROUNDS: usize>(job: &mut Job<'_, D>) {
    let zero = _mm512_setzero_si512();
    let front = front(job);
    // At least the lengths and the last block of text are left for the end.
    let chunks = (job.blocks() - 2) / CHUNK_BLOCKS;
    let mut waiting = [zero; CHUNK];
    let mut first = zero;
    let mut hash = _mm_setzero_si128();
    for chunk in 0..chunks {
        let at = chunk * CHUNK;
        let mut sum = Sum::zero();
        if D::OPEN {
            for r in 0..CHUNK {
                waiting[r] = swapped(load(job, at + r, u64::MAX));
            }
            if chunk == 0 {
                waiting[0] = with_associated(waiting[0], &front);
            }
            waiting[0] = _mm512_xor_si512(waiting[0], _mm512_zextsi128_si512(hash));
        }
        let mut streams = [zero; CHUNK];
        for r in 0..CHUNK {
            streams[r] = _mm512_xor_si512(front.base, counters(at + r));
        }
        let hashing = D::OPEN || chunk > 0;
        for round in 1..ROUNDS {
            let key = round_key(job.key, round);
            for stream in &mut streams {
                *stream = _mm512_aesenc_epi128(*stream, key);
            }
            if hashing && round <= CHUNK {
                sum = sum.add(
                    waiting[round - 1],
                    powers(job.key, CHUNK_BLOCKS - 4 * (round - 1)),
                );
            }
        }
        if hashing {
            hash = sum.reduce();
        }
        let key = round_key(job.key, ROUNDS);
        for r in 0..CHUNK {
            streams[r] = _mm512_aesenclast_epi128(streams[r], key);
            let blocks = xored_at(job, at + r, streams[r], chunk == 0 && r == 0);
            if !D::OPEN {
                waiting[r] = blocks;
            }
        }
        if chunk == 0 {
            first = streams[0];
        }
        if !D::OPEN {
            if chunk == 0 {
                waiting[0] = with_associated(waiting[0], &front);
            }
            waiting[0] = _mm512_xor_si512(waiting[0], _mm512_zextsi128_si512(hash));
        }
    }
    if !D::OPEN && chunks > 0 {
        let mut sum = Sum::zero();
        for r in 0..CHUNK {
            sum = sum.add(waiting[r], powers(job.key, CHUNK_BLOCKS - 4 * r));
        }
        hash = sum.reduce();
    }
    let rest = (job.blocks() - chunks * CHUNK_BLOCKS).div_ceil(4);
    let at = chunks * CHUNK;
    let good = match rest {
        1 => last::<D, ROUNDS, 1>(job, &front, at, hash, first),
        2 => last::<D, ROUNDS, 2>(job, &front, at, hash, first),
        3 => last::<D, ROUNDS, 3>(job, &front, at, hash, first),
        4 => last::<D, ROUNDS, 4>(job, &front, at, hash, first),
        5 => last::<D, ROUNDS, 5>(job, &front, at, hash, first),
        6 => last::<D, ROUNDS, 6>(job, &front, at, hash, first),
        7 => last::<D, ROUNDS, 7>(job, &front, at, hash, first),
        8 => last::<D, ROUNDS, 8>(job, &front, at, hash, first),
        _ => last::<D, ROUNDS, 9>(job, &front, at, hash, first),
    };
    job.done(good);
}

/// As [`xored`], of a register that is full.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn xored_at<D: Direction>(
    job: &mut Job<'_, D>,
    number: usize,
    stream: __m512i,
    header: bool,
) -> __m512i {
    let before = load(job, number, u64::MAX);
    let after = _mm512_xor_si512(before, stream);
    store(job, number, if header { !0xffff } else { u64::MAX }, after);
    swapped(if D::OPEN { before } else { after })
}

/// The last registers of a long packet.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,vaes,vpclmulqdq,bmi1,bmi2")]
#[inline]
fn last<D: Direction, const ROUNDS: usize, const REGISTERS: usize>(
    job: &mut Job<'_, D>,
    front: &Front,
    at: usize,
    hash: __m128i,
    first: __m512i,
) -> bool {
    let mut streams = [_mm512_setzero_si512(); REGISTERS];
    for r in 0..REGISTERS {
        streams[r] = _mm512_xor_si512(front.base, counters(at + r));
    }
    for round in 1..ROUNDS {
        let key = round_key(job.key, round);
        for stream in &mut streams {
            *stream = _mm512_aesenc_epi128(*stream, key);
        }
    }
    let key = round_key(job.key, ROUNDS);
    let mut sum = Sum::zero();
    let mut first = first;
    for r in 0..REGISTERS {
        streams[r] = _mm512_aesenclast_epi128(streams[r], key);
        let mask = if r + 2 < REGISTERS {
            u64::MAX
        } else {
            covered(job, at + r)
        };
        let mut blocks = xored(job, at + r, mask, streams[r]);
        if r == 0 {
            if at == 0 {
                first = streams[0];
                blocks = with_associated(blocks, front);
            }
            blocks = _mm512_xor_si512(blocks, _mm512_zextsi128_si512(hash));
        }
        if r == REGISTERS - 1 {
            blocks = with_lengths(blocks, job);
        }
        sum = sum.add(blocks, powers(job.key, job.blocks() - 4 * (at + r)));
    }
    finish(job, front, sum.reduce(), first)
}
