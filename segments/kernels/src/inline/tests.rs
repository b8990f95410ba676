//! The codes against what they estimate, and the backends against each other.

use super::backend::Backend;
use super::pool::NONE;
use super::portable::Portable;
use super::*;
use crate::Rotation;
use half::f16;
use proptest::prelude::*;

/// Lets every row be read.
fn there(_: u32) -> Result<(), ()> {
    Ok(())
}

/// A generator of numbers around zero.
fn numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The sum of a few even ones is nearly normal.
        (0..4).map(|i| (state >> (16 * i) & 0xffff) as f32 / 65_536.0 - 0.5).sum()
    }
}

struct Made {
    shape: InlineShape,
    vectors: Vec<Vec<f16>>,
    bytes: Vec<u8>,
}

/// Where the `step`-th link of a row leads, from 1: far away, so that rows near each other in number are not near in
/// steps.
fn link(row: u32, step: u32, rows: u32) -> u32 {
    (row + step * 61) % rows
}

/// Linked rows.
fn made(bits: InlineBits, dimension: usize, rows: u32, links: u32) -> Made {
    let shape = InlineShape::new(dimension, links as usize, bits).unwrap();
    let mut number = numbers(u64::from(rows) << 32 | dimension as u64);
    let vectors: Vec<Vec<f16>> =
        (0..rows).map(|_| (0..shape.dimension()).map(|_| f16::from_f32(number())).collect()).collect();
    let mut bytes = vec![0; shape.stride() * rows as usize];
    let mut work = EncodeWork::default();
    for (row, out) in bytes.chunks_exact_mut(shape.stride()).enumerate() {
        let list: Vec<u32> = (1..=links).map(|step| link(row as u32, step, rows)).collect();
        let of = |id: u32| &vectors[id as usize][..];
        shape.encode(crate::kernels(), of(row as u32), &list, of, out, &mut work);
    }
    Made { shape, vectors, bytes }
}

/// What the module says a row is, number by number.
#[test]
fn every_backend_writes_the_row_that_the_layout_describes() {
    let shapes = [(64, 0), (64, 1), (65, 31), (128, 32), (384, 33), (1000, 64)];
    for (bits, (dimension, links)) in InlineBits::ALL.into_iter().flat_map(|bits| shapes.map(|it| (bits, it)))
    {
        let Made { shape, vectors, .. } = &made(bits, dimension, 90, links.max(1));
        let list: Vec<u32> = (1..=links).map(|step| link(4, step, 90)).collect();
        // Equal to its centre, the last one has no direction.
        let mut vectors = vectors.clone();
        if let Some(&last) = list.last() {
            vectors[last as usize] = vectors[4].clone();
        }
        let centre: Vec<f64> = vectors[4].iter().map(|x| x.to_f64()).collect();
        let mut work = EncodeWork::default();
        for kernels in Kernels::supported() {
            // Whatever was there before is overwritten.
            let mut row = vec![0xa5; shape.stride()];
            leave_another_row(*shape, kernels, &mut work);
            shape.encode(kernels, &vectors[4], &list, |id| &vectors[id as usize], &mut row, &mut work);
            for (bytes, x) in row.chunks_exact(2).zip(&vectors[4]) {
                assert_eq!(bytes, x.to_le_bytes());
            }
            let number = |at: usize| f16::from_le_bytes([row[at], row[at + 1]]);
            for place in 0..shape.places() {
                let code: Vec<f64> =
                    (0..shape.dimension()).map(|i| code_at(*shape, &row, place, i)).collect();
                let at = shape.factors_at() + place / 32 * 128 + place % 32 * 2;
                let (add, rescale) = (number(at), number(at + 64));
                let id = u32::from_le_bytes(row[shape.ids_at() + place * 4..][..4].try_into().unwrap());
                let Some(&other) = list.get(place) else {
                    assert_eq!((add, rescale, id), (f16::INFINITY, f16::ZERO, NO_NEIGHBOUR));
                    assert!(code.iter().all(|&x| x == 0.0));
                    continue;
                };
                let difference: Vec<f64> =
                    vectors[other as usize].iter().zip(&centre).map(|(x, c)| x.to_f64() - c).collect();
                let square: f64 = difference.iter().map(|r| r * r).sum();
                let (middle, step) = match bits {
                    InlineBits::One => (0.5, f64::INFINITY),
                    InlineBits::Four => (7.5, 0.3352 * (square / difference.len() as f64).sqrt()),
                };
                for (x, r) in code.iter().zip(&difference).filter(|_| square > 0.0) {
                    match bits {
                        InlineBits::One => assert_eq!(*x == 1.0, *r > 0.0, "{place}"),
                        // Where it lies between two levels, single precision may say either.
                        InlineBits::Four => {
                            let right = (r / step + middle).clamp(0.0, 15.0);
                            assert!((x - right).abs() < 0.5001, "{place}: {x} for {right}");
                        }
                    }
                }
                let onto: f64 = code.iter().zip(&difference).map(|(x, r)| (x - middle) * r).sum();
                let along: f64 = code.iter().zip(&centre).map(|(x, c)| (x - middle) * c).sum();
                let right = if square == 0.0 { 0.0 } else { -2.0 * square / onto };
                let near =
                    |found: f16, right: f64| (found.to_f64() - right).abs() <= 0.002 * right.abs() + 0.01;
                assert_eq!(id, other);
                assert!(near(rescale, right), "{}: {rescale} for {right}", kernels.name());
                assert!(near(add, square - right * along), "{}: {add}", kernels.name());
            }
        }
    }
}

/// A number of the code of the neighbour in a place.
fn code_at(shape: InlineShape, row: &[u8], place: usize, i: usize) -> f64 {
    let (block, lane) = (place / BLOCK_LINKS, place % BLOCK_LINKS);
    let codes = &row[shape.codes_at() + block * shape.block_bytes()..];
    match shape.bits() {
        InlineBits::One => {
            let byte = codes[i / 4 * 16 + lane % 16];
            f64::from(byte >> (i % 4 + lane / 16 * 4) & 1)
        }
        InlineBits::Four => {
            let byte = codes[i / 4 * 64 + lane % 16 * 4 + i % 4];
            f64::from(byte >> (lane / 16 * 4) & 15)
        }
    }
}

/// Leaves in `work` what a full row, of which each bit is set, leaves there.
fn leave_another_row(shape: InlineShape, kernels: Kernels, work: &mut EncodeWork) {
    let (zeros, ones) = (vec![f16::ZERO; shape.dimension()], vec![f16::ONE; shape.dimension()]);
    let list = vec![0; shape.places()];
    shape.encode(kernels, &zeros, &list, |_| &ones, &mut vec![0; shape.stride()], work);
}

fn square(a: &[f32], b: &[f16]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a - b.to_f32()).powi(2)).sum()
}

fn query_of(kernels: Kernels, numbers: &[f32], bits: InlineBits) -> InlineQuery {
    let mut query = InlineQuery::default();
    query.prepare(kernels, numbers, bits);
    query
}

fn estimates(
    made: &Made,
    row: usize,
    block: usize,
    query: &InlineQuery,
    backend: &str,
) -> (f32, [f32; 32], u32) {
    let (shape, start) = (made.shape, made.bytes[row * made.shape.stride()..].as_ptr());
    let mut out = [0f32; 32];
    // SAFETY: a whole row is there, and the backend was found to be supported.
    unsafe {
        let codes = start.add(shape.codes_at() + block * shape.block_bytes());
        let factors = start.add(shape.factors_at() + block * 128);
        let (numbers, next) = (query.numbers(), start);
        macro_rules! by {
            ($backend:ty) => {{
                let base = <$backend>::centre(start, numbers, shape.dimension, next);
                let sums = match shape.bits() {
                    InlineBits::One => <$backend>::signs(codes, query, next),
                    InlineBits::Four => <$backend>::levels(codes, query, next),
                };
                (base, <$backend>::estimate(sums, factors, query, base, 60.0, &mut out))
            }};
        }
        let (base, better) = match backend {
            #[cfg(target_arch = "x86_64")]
            "avx512" => by!(avx512::Avx512),
            #[cfg(target_arch = "x86_64")]
            "avx2" => by!(avx2::Avx2),
            _ => by!(Portable),
        };
        (base, out, better)
    }
}

#[test]
fn every_backend_estimates_the_same() {
    let shapes = [(64, 32), (65, 7), (384, 32), (1000, 40), (4160, 32)];
    for (bits, (dimension, links)) in InlineBits::ALL.into_iter().flat_map(|bits| shapes.map(|it| (bits, it)))
    {
        let made = made(bits, dimension, 50, links);
        let mut number = numbers(3);
        let numbers: Vec<f32> = (0..made.shape.dimension()).map(|_| number()).collect();
        let query = query_of(crate::kernels(), &numbers, bits);
        for block in 0..made.shape.blocks {
            let (base, wanted, _) = estimates(&made, 4, block, &query, "portable");
            for kernels in Kernels::supported() {
                let (other, found, better) = estimates(&made, 4, block, &query, kernels.name());
                assert!((base - other).abs() <= base * 1e-5);
                for lane in 0..32 {
                    let near = (wanted[lane] - found[lane]).abs() <= 1e-3 * base.max(1.0);
                    assert!(near || wanted[lane] == found[lane], "{dimension}: {wanted:?} {found:?}");
                    assert_eq!(better >> lane & 1 == 1, found[lane] < 60.0);
                    // Places without a neighbour are infinitely far.
                    assert_eq!(found[lane].is_infinite(), block * 32 + lane >= links as usize);
                }
            }
        }
    }
}

/// RaBitQ's promise (arXiv 2405.12497, theorem 3.2): unbiased, and off by O(1 / sqrt(D)) of the product of both
/// lengths.
#[test]
fn estimates_are_unbiased_and_within_their_bound() {
    let dimensions = [128, 512];
    for (bits, dimension) in InlineBits::ALL.into_iter().flat_map(|bits| dimensions.map(|it| (bits, it))) {
        let made = made(bits, dimension, 400, 32);
        let rotation = Rotation::new(dimension, 5);
        let (mut sum, mut count, mut outside) = (0f64, 0, 0);
        for row in 0..400 {
            let mut number = numbers(row as u64 + 77);
            let mut numbers: Vec<f32> = (0..dimension).map(|_| number()).collect();
            rotation.apply(crate::kernels(), &mut numbers);
            let query = query_of(crate::kernels(), &numbers, bits);
            let (base, found, _) = estimates(&made, row, 0, &query, crate::kernels().name());
            for (lane, estimate) in found.iter().enumerate() {
                let other = &made.vectors[link(row as u32, lane as u32 + 1, 400) as usize];
                let centre: Vec<f32> = made.vectors[row].iter().map(|x| x.to_f32()).collect();
                let error = estimate - square(&numbers, other);
                // For normal numbers: the square of the cosine of r and its signs is 2 / pi; and of r and its sixteen levels, 1 less
                // the square of the error that these leave.
                let cosine = match bits {
                    InlineBits::One => std::f32::consts::FRAC_2_PI,
                    InlineBits::Four => 1.0 - 0.01154,
                };
                let bound = 2.0 * (square(&centre, other) * base * (1.0 - cosine) / cosine).sqrt() * 1.9
                    / (dimension as f32 - 1.0).sqrt();
                sum += f64::from(error / bound);
                outside += u32::from(error.abs() > bound);
                count += 1;
            }
        }
        // 1.9 standard deviations: about one in seventeen is outside. (The steps of the query and half precision, for which the bound
        // leaves no room, add a tenth to the error of four bits.)
        assert!(f64::from(outside) < 0.09 * f64::from(count), "{dimension}: {outside} of {count}");
        assert!((sum / f64::from(count)).abs() < 0.02, "{dimension}: bias {}", sum / f64::from(count));
    }
}

#[test]
fn a_duplicate_is_as_far_as_its_centre() {
    for bits in InlineBits::ALL {
        let shape = InlineShape::new(64, 32, bits).unwrap();
        let vector = vec![f16::from_f32(0.5); 64];
        let mut bytes = vec![0; shape.stride()];
        shape.encode(crate::kernels(), &vector, &[0], |_| &vector, &mut bytes, &mut EncodeWork::default());
        let made = Made { shape, vectors: vec![vector], bytes };
        let query = query_of(crate::kernels(), &[0.75; 64], bits);
        let (base, found, better) = estimates(&made, 0, 0, &query, crate::kernels().name());
        assert_eq!((base, found[0], better), (4.0, 4.0, 1));
    }
}

/// A product too small for single precision rounds to -0, whose bits make the largest key: the neighbour was lost.
#[test]
fn an_estimate_that_rounds_to_minus_zero_is_zero() {
    for bits in InlineBits::ALL {
        let shape = InlineShape::new(64, 32, bits).unwrap();
        let vector = vec![f16::ZERO; 64];
        let mut bytes = vec![0; shape.stride()];
        shape.encode(crate::kernels(), &vector, &[0], |_| &vector, &mut bytes, &mut EncodeWork::default());
        let rescale = shape.factors_at() + 64;
        for tiny in [f16::from_bits(0x8001), f16::from_bits(0x0001)] {
            bytes[rescale..rescale + 2].copy_from_slice(&tiny.to_le_bytes());
            let made = Made { shape, vectors: vec![vector.clone()], bytes: bytes.clone() };
            for number in [1e-40f32, -1e-40] {
                for kernels in Kernels::supported() {
                    let query = query_of(kernels, &[number; 64], bits);
                    let (base, found, better) = estimates(&made, 0, 0, &query, kernels.name());
                    // Nearly zero, and not below it.
                    assert!(found[0].to_bits() < 8, "{} {number}: {}", kernels.name(), found[0]);
                    assert_eq!((base, better & 1), (0.0, 1), "{} {number}", kernels.name());
                }
            }
        }
    }
}

#[test]
fn a_walk_finds_the_nearest_with_every_backend() {
    for bits in InlineBits::ALL {
        // Every row leads to every other one in two steps.
        let made = made(bits, 128, 300, 32);
        let rows = InlineRows::new(made.shape, &made.bytes).unwrap();
        assert!(rows.places(299).eq((1..=32).map(|step| link(299, step, 300))));
        for kernels in Kernels::supported() {
            let mut scratch = InlineScratch::default();
            let mut right = 0;
            for turn in 0..50 {
                let mut number = numbers(1000 + turn);
                let numbers: Vec<f32> = (0..128).map(|_| number()).collect();
                let query = query_of(kernels, &numbers, bits);
                inline_walk(kernels, &rows, &query, 100, InlineStart::Row(150), there, &mut scratch).unwrap();
                let mut ids: Vec<u32> = scratch.expanded().map(|row| row.id).collect();
                let found = scratch.expanded().min_by(|a, b| a.distance.total_cmp(&b.distance)).unwrap();
                let nearest = (0..300).min_by(|&a, &b| {
                    square(&numbers, &made.vectors[a]).total_cmp(&square(&numbers, &made.vectors[b]))
                });
                right += u32::from(nearest == Some(found.id as usize));
                assert!((found.distance - square(&numbers, &made.vectors[found.id as usize])).abs() < 1e-3);
                let count = ids.len();
                ids.sort_unstable();
                ids.dedup();
                assert_eq!(ids.len(), count, "a row was expanded twice");
            }
            assert!(right >= 45, "{}: {right} of 50", kernels.name());
        }
    }
}

/// Who is told of the rows that will be read.
#[derive(Default)]
struct Told(Vec<u32>);

impl InlineWatch for &mut Told {
    type Error = ();

    fn touch(&mut self, _: u32) -> Result<(), ()> {
        Ok(())
    }

    fn soon(&mut self, row: u32) {
        self.0.push(row);
    }
}

#[test]
fn a_walk_tells_of_most_rows_that_are_read_and_of_few_others() {
    let Made { bytes, shape, .. } = made(InlineBits::One, 64, 600, 32);
    let rows = InlineRows::new(shape, &bytes).unwrap();
    let mut next = numbers(77);
    for kernels in Kernels::supported() {
        let query: Vec<f32> = (0..64).map(|_| next()).collect();
        let query = query_of(kernels, &query, InlineBits::One);
        let beam = InlineBeam { read: 10, ..InlineBeam::from(60) };
        let (mut told, mut scratch) = (Told::default(), InlineScratch::default());
        inline_walk(kernels, &rows, &query, beam, InlineStart::Row(0), &mut told, &mut scratch).unwrap();
        let last = scratch.nth(10);
        let near: Vec<u32> =
            scratch.expanded().filter(|row| row.distance <= last).map(|row| row.id).collect();
        let right = told.0.iter().filter(|row| near.contains(row)).count();
        assert!(right >= 5, "{right} of ten");
        assert!(told.0.len() <= 40, "{} of {}", told.0.len(), scratch.expanded().len());
        let silent = InlineBeam { read: 0, ..beam };
        let mut told = Told::default();
        inline_walk(kernels, &rows, &query, silent, InlineStart::Row(0), &mut told, &mut scratch).unwrap();
        assert!(told.0.is_empty());
    }
}

#[test]
fn a_refused_row_ends_the_walk_and_the_next_one_is_not_harmed() {
    for bits in InlineBits::ALL {
        // Many words of marks, so that no row's mark goes away with another one's.
        let made = made(bits, 64, 2_000, 32);
        let rows = InlineRows::new(made.shape, &made.bytes).unwrap();
        let query = query_of(crate::kernels(), &[0.1; 64], bits);
        let mut scratch = InlineScratch::default();
        let mut walk = |refused: usize| {
            let mut touched = 0;
            let touch = |row| {
                touched += 1;
                if touched == refused { Err(row) } else { Ok(()) }
            };
            let walked =
                inline_walk(crate::kernels(), &rows, &query, 200, InlineStart::Row(0), touch, &mut scratch);
            (walked, scratch.expanded().len())
        };
        let (walked, all) = walk(usize::MAX);
        assert_eq!(walked, Ok(()));
        assert!(all > 100, "{all} rows");
        for refused in [1, 2, 7, 50, all] {
            assert!(walk(refused).0.is_err());
            assert_eq!(walk(usize::MAX), (Ok(()), all), "after row {refused} of a walk was refused");
        }
    }
}

#[test]
fn a_walk_ends_where_enough_is_near() {
    let made = made(InlineBits::One, 64, 2_000, 32);
    let rows = InlineRows::new(made.shape, &made.bytes).unwrap();
    let mut scratch = InlineScratch::default();
    let query = query_of(crate::kernels(), &[0.1; 64], InlineBits::One);
    let mut expanded = |enough: Enough| {
        let beam = InlineBeam { enough, ..InlineBeam::from(200) };
        inline_walk(crate::kernels(), &rows, &query, beam, InlineStart::Row(0), there, &mut scratch).unwrap();
        scratch.expanded().len()
    };
    let all = expanded(Enough::NEVER);
    let early = Enough { rows: 10, share: 0.95 };
    let fewer = expanded(early);
    assert!((10..all / 2).contains(&fewer), "{fewer} of {all}");
    assert_eq!(expanded(Enough { rows: 2_000, ..early }), all, "there are never so many");
}

#[test]
fn a_walk_that_finds_nothing_nearer_for_long_is_over() {
    let made = made(InlineBits::One, 64, 2_000, 32);
    let rows = InlineRows::new(made.shape, &made.bytes).unwrap();
    let mut scratch = InlineScratch::default();
    let query = query_of(crate::kernels(), &[0.1; 64], InlineBits::One);
    let mut expanded = |patience: usize| {
        let beam = InlineBeam { patience, ..InlineBeam::from(20) };
        inline_walk(crate::kernels(), &rows, &query, beam, InlineStart::Row(0), there, &mut scratch).unwrap();
        scratch.expanded().map(|row| row.distance).collect::<Vec<f32>>()
    };
    let all = expanded(usize::MAX);
    for patience in [2, 5, 12] {
        let some = expanded(patience);
        assert!((20..all.len()).contains(&some.len()), "{} of {}", some.len(), all.len());
        // Counted again: rows since the last one that was among the twenty nearest of those before it.
        let mut stale = 0;
        for (place, distance) in some.iter().enumerate() {
            assert!(stale < patience, "{stale} rows in vain, and the walk went on");
            let nearer = some[..place].iter().filter(|&other| other <= distance).count();
            stale = if nearer < 20 { 0 } else { stale + 1 };
        }
        assert!(stale > 0, "it ended with a row that was near");
    }
    assert_eq!(expanded(1_000), all);
}

/// Several sets of rows and one query in the space of each; the walks over them, all with the same beam.
struct Lanes {
    made: Vec<Made>,
    queries: Vec<InlineQuery>,
    scratch: Vec<InlineScratch>,
}

type Walked<E> = (Result<(), E>, Vec<Vec<Expanded>>);

impl Lanes {
    /// Of each, how many rows.
    fn new(bits: &[InlineBits], sizes: &[u32]) -> Lanes {
        let bits = sizes.iter().zip(bits.iter().cycle());
        let made: Vec<Made> = bits.map(|(&size, &bits)| made(bits, 64, size, 32)).collect();
        let queries =
            made.iter().map(|made| query_of(crate::kernels(), &[0.1; 64], made.shape.bits())).collect();
        Lanes { scratch: vec![InlineScratch::default(); made.len()], made, queries }
    }

    fn walk<E>(
        &mut self,
        kernels: Kernels,
        (beam, least): (InlineBeam, usize),
        (enough, known): (usize, &[f32]),
        touch: impl Fn(usize, u32) -> Result<(), E>,
    ) -> Walked<E> {
        let touch = &touch;
        let mut lanes: Vec<_> = (0..)
            .zip(self.made.iter().zip(&self.queries).zip(&mut self.scratch))
            .map(|(number, ((made, query), scratch))| InlineLane {
                rows: InlineRows::new(made.shape, &made.bytes).unwrap(),
                query,
                beam,
                start: InlineStart::Row(0),
                least,
                scale: InlineScale { fixed: 0.5, factor: 2.0 },
                watch: move |row| touch(number, row),
                scratch,
            })
            .collect();
        let mut common = InlineCommon::default();
        common.reset(enough, known);
        let walked = inline_walk_together(kernels, &mut lanes, &mut common);
        drop(lanes);
        (walked, self.scratch.iter().map(|scratch| scratch.expanded().collect()).collect())
    }
}

/// The nearest rows, by distance.
fn nearest(rows: &[Expanded], count: usize) -> Vec<u32> {
    let mut rows = rows.to_vec();
    rows.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    rows.iter().take(count).map(|row| row.id).collect()
}

/// With look-ahead a walk alone expands rows that one beside others does not.
#[test]
fn walks_made_together_find_what_each_finds_alone() {
    for kernels in Kernels::supported() {
        for count in [1, 2, 3, 5, 11] {
            let sizes: Vec<u32> = (0..count).map(|lane| 600 + 100 * lane).collect();
            let mut lanes = Lanes::new(&InlineBits::ALL, &sizes);
            let mut alone = Vec::new();
            for (made, query) in lanes.made.iter().zip(&lanes.queries) {
                let rows = InlineRows::new(made.shape, &made.bytes).unwrap();
                let mut scratch = InlineScratch::default();
                inline_walk(kernels, &rows, query, 60, InlineStart::Row(0), there, &mut scratch).unwrap();
                alone.push(scratch.expanded().collect::<Vec<_>>());
            }
            // Twice, since marks may have stayed.
            for _ in 0..2 {
                let beam = InlineBeam::from(60);
                let (walked, together) = lanes.walk(kernels, (beam, 0), (10, &[]), |_, row| there(row));
                assert_eq!((walked, together.len()), (Ok(()), count as usize));
                for (together, alone) in together.iter().zip(&alone) {
                    let mut ids: Vec<u32> = together.iter().map(|row| row.id).collect();
                    ids.sort_unstable();
                    ids.dedup();
                    assert_eq!(ids.len(), together.len(), "no row is expanded twice");
                    let near = nearest(alone, 30);
                    let found = near.iter().filter(|id| ids.contains(id)).count();
                    assert!(found >= 28, "{found} of 30 among {count}, {}", kernels.name());
                    assert!(
                        together.len() * 10 <= alone.len() * 11,
                        "{} and {}",
                        together.len(),
                        alone.len()
                    );
                }
            }
        }
    }
}

#[test]
fn what_one_walk_finds_ends_the_others_and_so_does_what_was_known_before() {
    let mut lanes = Lanes::new(&[InlineBits::One], &[2_000, 2_001, 2_002, 2_003]);
    let early = InlineBeam { enough: Enough { rows: 10, share: 1.0 }, ..InlineBeam::from(200) };
    let mut expanded = |beam: InlineBeam, least: usize, known: &[f32]| {
        let (walked, rows) = lanes.walk(crate::kernels(), (beam, least), (10, known), |_, row| there(row));
        walked.unwrap();
        rows.iter().map(Vec::len).collect::<Vec<usize>>()
    };
    let all = expanded(InlineBeam::from(200), 0, &[]);
    let fewer = expanded(early, 4, &[]);
    assert!(fewer.iter().zip(&all).all(|(fewer, all)| (4..all / 2).contains(fewer)), "{fewer:?} of {all:?}");
    // Ten rows elsewhere that nothing here comes near: each goes on until a few of its own are nearer than what is left.
    let known = [-0.2495; 10];
    for least in [1, 2] {
        let fewest = expanded(early, least, &known);
        assert!(
            fewest.iter().zip(&fewer).all(|(fewest, fewer)| (least..*fewer).contains(fewest)),
            "{fewest:?}"
        );
    }
    assert_eq!(expanded(early, 0, &known), [1; 4], "the start alone");
    assert!(expanded(early, 30, &known).iter().all(|&rows| rows >= 30));
    assert_eq!(expanded(early, 4, &known[..9]), fewer, "nine are not enough");
    assert_eq!(expanded(InlineBeam::from(200), 4, &known), all, "who wants everything gets it");
}

/// A segment with nearly all rows was walked to the end of its beam as soon as there was a row elsewhere: it has to have nearly all of the nearest.
#[test]
fn a_walk_ends_where_it_would_end_alone_whatever_part_of_the_rows_it_has() {
    let mut lanes = Lanes::new(&[InlineBits::One], &[2_000]);
    let beam = InlineBeam { enough: Enough { rows: 10, share: 0.95 }, ..InlineBeam::from(200) };
    let rows = InlineRows::new(lanes.made[0].shape, &lanes.made[0].bytes).unwrap();
    let mut scratch = InlineScratch::default();
    inline_walk(crate::kernels(), &rows, &lanes.queries[0], beam, InlineStart::Row(0), there, &mut scratch)
        .unwrap();
    let alone = scratch.expanded().len();
    let (walked, expanded) = lanes.walk(crate::kernels(), (beam, 1_000), (10, &[]), |_, row| there(row));
    walked.unwrap();
    assert!((alone / 2..=alone + 3).contains(&expanded[0].len()), "{} and {alone}", expanded[0].len());
}

/// A row that counts for nobody.
struct Silent;

impl InlineWatch for Silent {
    type Error = ();

    fn touch(&mut self, _: u32) -> Result<(), ()> {
        Ok(())
    }

    fn counts(&self, _: u32) -> bool {
        false
    }
}

#[test]
fn rows_that_do_not_count_are_not_enough_for_others() {
    let made = made(InlineBits::One, 64, 2_000, 32);
    let query = query_of(crate::kernels(), &[0.1; 64], InlineBits::One);
    let mut scratch = InlineScratch::default();
    let mut lanes = [InlineLane {
        rows: InlineRows::new(made.shape, &made.bytes).unwrap(),
        query: &query,
        beam: 60.into(),
        start: InlineStart::Row(0),
        least: 1,
        scale: InlineScale { fixed: 0.0, factor: 1.0 },
        watch: Silent,
        scratch: &mut scratch,
    }];
    let mut common = InlineCommon::default();
    common.reset(2, &[0.25]);
    inline_walk_together(crate::kernels(), &mut lanes, &mut common).unwrap();
    assert_eq!(common.bar(), f32::INFINITY);
    common.reset(1, &[0.25]);
    assert_eq!(common.bar(), 0.25);
}

#[test]
fn a_refused_row_ends_all_walks_and_the_next_ones_are_not_harmed() {
    let mut lanes = Lanes::new(&InlineBits::ALL, &[2_000, 1_500, 1_000]);
    let beam = InlineBeam::from(100);
    let walk = |lanes: &mut Lanes, (refused, after): (usize, usize)| {
        let touched = std::cell::Cell::new(0);
        lanes.walk(crate::kernels(), (beam, 0), (10, &[]), |lane, row| {
            touched.set(touched.get() + usize::from(lane == refused));
            if lane == refused && touched.get() == after { Err((lane, row)) } else { Ok(()) }
        })
    };
    let (walked, all) = walk(&mut lanes, (9, 0));
    assert!(walked.is_ok() && all.iter().all(|rows| rows.len() > 80));
    for refused in [(0, 1), (1, 1), (2, 2), (1, 7), (0, 50), (2, 80)] {
        let (walked, _) = walk(&mut lanes, refused);
        assert_eq!(walked.unwrap_err().0, refused.0);
        assert_eq!(walk(&mut lanes, (9, 0)), (Ok(()), all.clone()), "after {refused:?}");
    }
}

/// Every row seems to be at the query itself, so nothing that was expanded is ever nearer than what is left.
#[test]
fn a_walk_does_not_follow_forged_estimates_through_all_rows() {
    for bits in InlineBits::ALL {
        let mut made = made(bits, 64, 4_000, 32);
        let (shape, stride) = (made.shape, made.shape.stride());
        for row in made.bytes.chunks_exact_mut(stride) {
            for add in row[shape.factors_at()..][..64].chunks_exact_mut(2) {
                add.copy_from_slice(&f16::MIN.to_le_bytes());
            }
        }
        let rows = InlineRows::new(shape, &made.bytes).unwrap();
        let mut scratch = InlineScratch::default();
        for kernels in Kernels::supported() {
            let query = query_of(kernels, &[0.1; 64], bits);
            for ef in [10, 40] {
                // The same again, since marks may have stayed.
                for _ in 0..2 {
                    inline_walk(kernels, &rows, &query, ef, InlineStart::Row(0), there, &mut scratch)
                        .unwrap();
                    let expanded = scratch.expanded().len();
                    assert!(expanded <= 2 * ef + BLOCK_LINKS, "{expanded} rows with a beam of {ef}");
                }
            }
        }
    }
}

/// Equal rows are equally far by their estimates, also from the last one that a cut has kept: all of them were left out with
/// what is out of reach, and the walk was over after a few.
#[test]
fn a_walk_goes_on_among_equal_rows() {
    for bits in InlineBits::ALL {
        let shape = InlineShape::new(64, 32, bits).unwrap();
        let vector = vec![f16::from_f32(0.25); 64];
        let mut bytes = vec![0; shape.stride() * 4_000];
        let mut work = EncodeWork::default();
        for (row, out) in bytes.chunks_exact_mut(shape.stride()).enumerate() {
            let list: Vec<u32> = (1..=32).map(|step| link(row as u32, step * step, 4_000)).collect();
            shape.encode(crate::kernels(), &vector, &list, |_| &vector, out, &mut work);
        }
        let rows = InlineRows::new(shape, &bytes).unwrap();
        let mut scratch = InlineScratch::default();
        for kernels in Kernels::supported() {
            let query = query_of(kernels, &[0.1; 64], bits);
            for ef in [10, 64, 128, 256] {
                inline_walk(kernels, &rows, &query, ef, InlineStart::Row(0), there, &mut scratch).unwrap();
                let expanded = scratch.expanded().len();
                assert!(expanded >= ef, "{}: {expanded} rows with a beam of {ef}", kernels.name());
            }
        }
    }
}

/// The tables of a query were those of the one before, or none at all, and the walk read beyond their end.
#[test]
#[should_panic(expected = "left == right")]
fn a_query_that_is_not_finished_fits_no_rows() {
    let made = made(InlineBits::One, 64, 100, 32);
    let rows = InlineRows::new(made.shape, &made.bytes).unwrap();
    let mut query = InlineQuery::default();
    query.numbers_mut(64).fill(0.1);
    let _ = inline_walk(
        crate::kernels(),
        &rows,
        &query,
        10,
        InlineStart::Row(0),
        there,
        &mut InlineScratch::default(),
    );
}

#[test]
fn shapes_have_limits() {
    assert!(
        InlineShape::new(0, 32, InlineBits::One).is_none()
            && InlineShape::new(64, 0, InlineBits::One).is_none()
    );
    assert!(
        InlineShape::new(DIMENSION_MAX, 32, InlineBits::One).is_some()
            && InlineShape::new(DIMENSION_MAX + 1, 32, InlineBits::One).is_none()
    );
    let shape = InlineShape::new(384, 32, InlineBits::One).unwrap();
    assert_eq!((shape.stride(), shape.places()), (768 + 1536 + 128 + 128, 32));
    assert!(InlineRows::new(shape, &vec![0; shape.stride() + 1]).is_none());
}

/// What the operations on keys leave.
#[derive(PartialEq, Debug)]
struct Pool {
    removed: Vec<u64>,
    retained: Vec<u64>,
    appended: Vec<u64>,
    /// The nearest and the farthest that were not removed; the nearest, as removing and appending say it.
    ends: [u64; 4],
    below: [usize; 3],
}

/// Keys, ids and lanes through every operation on them, by every backend.
fn pool_operations<B: Backend>(keys: &[u64], ids: &[u32; 32], lanes: u32, taken: &[u64]) -> Pool {
    let distances: [f32; 32] = std::array::from_fn(|lane| lane as f32 * 0.5);
    let mut removed = keys.to_vec();
    removed.resize(keys.len().next_multiple_of(8), NONE);
    // SAFETY: the caller asked the processor; there is room for 32 keys and eight more.
    unsafe {
        let middle = keys.get(keys.len() / 2).copied().unwrap_or(7);
        let left = B::remove(removed.as_chunks_mut().0, middle as u32);
        let mut appended = vec![NONE; 40];
        let (count, first) = B::append(appended.as_mut_ptr(), &distances, ids.as_ptr(), lanes, taken);
        assert!(appended[count..].iter().all(|&key| key == NONE), "keys behind the last one");
        appended.truncate(count);
        let mut retained = removed.clone();
        let kept = B::retain(retained.as_chunks_mut().0, middle);
        retained.truncate(kept);
        let (all, _) = removed.as_chunks();
        let ends = [B::nearest(all), B::farthest(all), left, first];
        let below = [middle, NONE, 0].map(|end| B::below(all, end));
        Pool { ends, below, retained, appended, removed }
    }
}

proptest! {
    #[test]
    fn every_backend_keeps_the_same_pool(
        keys in prop::collection::vec((0u64..1 << 31, 0u64..50).prop_map(|(d, id)| d << 32 | id), 0..70),
        ids in prop::array::uniform32(prop_oneof![0u32..700, Just(NO_NEIGHBOUR)]),
        lanes in prop_oneof![prop::num::u32::ANY, prop::num::u32::ANY.prop_map(|lanes| lanes & lanes >> 3 & lanes << 5)],
        taken in prop::collection::vec(prop::num::u64::ANY, 0..10),
    ) {
        let wanted = pool_operations::<Portable>(&keys, &ids, lanes, &taken);
        let left = || wanted.removed.iter().copied().filter(|&key| key != NONE);
        let nearest = left().min().unwrap_or(NONE);
        let first = wanted.appended.iter().copied().min().unwrap_or(NONE);
        prop_assert_eq!(wanted.ends, [nearest, left().max().unwrap_or(0), nearest, first]);
        let middle = keys.get(keys.len() / 2).copied().unwrap_or(7);
        let below: Vec<u64> = left().filter(|&key| key < middle).collect();
        prop_assert_eq!(wanted.below, [below.len(), left().count(), 0]);
        prop_assert_eq!(&wanted.retained, &below);
        let fresh = |lane: &usize| {
            let id = ids[*lane];
            let marked = taken.get(id as usize / 64).is_some_and(|word| word >> (id % 64) & 1 == 1);
            lanes >> lane & 1 == 1 && !marked
        };
        let appended: Vec<u32> = (0..32).filter(fresh).map(|lane| ids[lane]).collect();
        prop_assert_eq!(wanted.appended.iter().map(|&key| key as u32).collect::<Vec<_>>(), appended);
        #[cfg(target_arch = "x86_64")]
        for kernels in Kernels::supported() {
            let found = match kernels.name() {
                "avx512" => pool_operations::<avx512::Avx512>(&keys, &ids, lanes, &taken),
                "avx2" => pool_operations::<avx2::Avx2>(&keys, &ids, lanes, &taken),
                _ => continue,
            };
            prop_assert_eq!(&found, &wanted, "{}", kernels.name());
        }
    }
}
