//! Every backend against plain loops.

use crate::{Bar, Kernels, QueryPanels, roundings};
use half::f16;
use proptest::prelude::*;

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn check_floats(a: &[f32], b: &[f32]) {
    let pairs = || a.iter().zip(b).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    let dot: f64 = pairs().map(|(x, y)| x * y).sum();
    let absolute: f64 = pairs().map(|(x, y)| (x * y).abs()).sum();
    let l2: f64 = pairs().map(|(x, y)| (x - y) * (x - y)).sum();
    let norm: f64 = pairs().map(|(_, y)| y * y).sum();
    // Sums of at most len/4 + a few roundings, each of half a unit in the last place.
    let bound = (a.len() as f64 + 8.0) * f64::from(f32::EPSILON);
    for k in Kernels::supported() {
        let name = k.name();
        assert!(
            (f64::from(k.dot(a, b)) - dot).abs() <= bound * absolute + 1e-30,
            "{name} dot of {}",
            a.len()
        );
        assert!((f64::from(k.l2(a, b)) - l2).abs() <= 2.0 * bound * l2 + 1e-30, "{name} l2 of {}", a.len());
        assert!((k.dot_precise(a, b) - dot).abs() <= 1e-12 * absolute, "{name} precise dot of {}", a.len());
        assert!((k.l2_precise(a, b) - l2).abs() <= 1e-12 * l2, "{name} precise l2 of {}", a.len());
        let (d, n) = k.dot_norm(a, b);
        let bound = product_bound(a.len());
        assert!((f64::from(d) - dot).abs() <= bound * absolute + 1e-38, "{name} single dot of {}", a.len());
        assert!((f64::from(n) - norm).abs() <= bound * norm + 1e-38, "{name} single norm of {}", a.len());
        let (d, n) = k.dot_norm_precise(a, b);
        assert!(
            (d - dot).abs() <= 1e-12 * absolute && (n - norm).abs() <= 1e-12 * norm,
            "{name} of {}",
            a.len()
        );
    }
}

/// How much of the absolute products a sum in single precision may be wrong by, with what the reference itself is.
fn product_bound(dimension: usize) -> f64 {
    let c = roundings(dimension) as f64 * 2f64.powi(-24);
    c / (1.0 - c) + 1e-12
}

/// All products of a block, on every backend.
fn check_block(queries: &[&[f32]], rows: &[&[f32]]) {
    for k in Kernels::supported() {
        let panels = QueryPanels::new(k, queries);
        let width = panels.width();
        assert_eq!(panels.count(), queries.len().div_ceil(width));
        for panel in 0..panels.count() {
            let mut out = vec![f32::NAN; rows.len() * width];
            panels.dots(panel, rows, &mut out);
            for (row, dots) in rows.iter().zip(out.chunks_exact(width)) {
                for (lane, &found) in dots.iter().enumerate() {
                    let Some(query) = queries.get(panel * width + lane) else {
                        assert_eq!(found, 0.0, "{} lane {lane} without a query", k.name());
                        continue;
                    };
                    let products = || query.iter().zip(*row).map(|(&x, &y)| f64::from(x) * f64::from(y));
                    let (dot, absolute): (f64, f64) = (products().sum(), products().map(f64::abs).sum());
                    let error = (f64::from(found) - dot).abs();
                    let bound = product_bound(row.len()) * absolute + 1e-38;
                    assert!(error <= bound, "{} at {}: {error:e} > {bound:e}", k.name(), row.len());
                }
            }
        }
    }
}

#[test]
fn products_of_a_block_agree_at_every_size_and_length() {
    let data = numbers(45_000, 3);
    let slices = |count: usize, len: usize, shift: usize| -> Vec<&[f32]> {
        (0..count).map(|i| &data[(i * 61 + shift) % 1000..][..len]).collect()
    };
    for queries in [1, 7, 8, 9, 16, 31, 32, 33, 70] {
        for rows in [0, 1, 3, 4, 5, 6, 7, 8, 9, 13, 24] {
            check_block(&slices(queries, 19, 0), &slices(rows, 19, 1));
        }
    }
    for len in (1..=40).chain([127, 255, 256, 257, 511, 512, 513, 1000, 4096, 40_000]) {
        check_block(&slices(5, len, 0), &slices(5, len, 500));
    }
}

#[test]
fn lanes_reach_their_bar_unless_they_are_below_it() {
    for k in Kernels::supported() {
        let panels = QueryPanels::new(k, &[&[1.0f32][..]]);
        let width = panels.width();
        let values = [f32::NEG_INFINITY, -3.0, -0.0, 0.0, 1.0, 1.5, f32::MAX, f32::INFINITY, f32::NAN];
        let at = |i: usize| values[i % values.len()];
        for round in 0..200 {
            let dots: Vec<f32> = (0..width).map(|lane| at(lane + round)).collect();
            let bases: Vec<f32> = (0..width).map(|lane| at(lane * 2 + round / 3)).collect();
            let slopes: Vec<f32> = (0..width).map(|lane| at(lane * 4 + round / 5)).collect();
            let bar = Bar { bases: &bases, slopes: &slopes, lift: at(round / 2), norm: 2.0 };
            let found = panels.reaching(&dots, &bar);
            for lane in 0..width {
                let below = dots[lane] < bases[lane] + bar.lift + slopes[lane] * bar.norm;
                assert_eq!(found >> lane & 1 == 0, below, "{} lane {lane}, {round}", k.name());
            }
            assert!(width == 64 || found >> width == 0);
        }
    }
}

#[test]
#[should_panic(expected = "rows of another length")]
fn rows_of_another_length_than_the_queries_are_refused() {
    QueryPanels::new(crate::kernels(), &[&[1.0, 2.0][..]]).dots(0, &[&[1.0]], &mut [0.0]);
}

#[test]
fn floats_agree_at_every_length_and_alignment() {
    for len in (0..=300).chain([511, 512, 513, 1536, 4096, 65_536]) {
        let (a, b) = (numbers(len + 1, 1), numbers(len + 1, 2));
        check_floats(&a[..len], &b[..len]);
        check_floats(&a[1..], &b[..len]);
    }
}

#[test]
fn four_rows_at_a_time_agree_exactly_at_every_length_alignment_and_extreme() {
    let reference = |codes: &[u8], from: &[u8]| -> i32 {
        codes.iter().zip(from).map(|(&c, &f)| i32::from(c) * (i32::from(f) - 128)).sum()
    };
    let check = |four: [&[u8]; 4], from: &[u8]| {
        let expected = std::array::from_fn(|row| reference(four[row], from));
        for k in Kernels::supported() {
            assert_eq!(k.dots_biased(&four, from), expected, "{} at {}", k.name(), from.len());
        }
    };
    let bytes: Vec<u8> = (0..5 * 1200u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    for len in (0..=1152).step_by(64) {
        for shift in [0, 1, 17, 33] {
            let row = |row: usize| &bytes[row * 1200 + shift..][..len];
            check(std::array::from_fn(row), row(4));
        }
    }
    let constant = |byte: u8| vec![byte; 65_536];
    let (low, one, middle, high) = (constant(0), constant(1), constant(128), constant(255));
    for from in [&low, &one, &middle, &high] {
        check([&high, &low, &one, &middle], from);
    }
}

#[test]
fn codes_of_a_few_bits_agree_exactly_at_every_length_alignment_and_extreme() {
    for bits in [1usize, 2, 4, 8] {
        let parts = 8 / bits;
        let reference = |codes: &[u8], from: &[u8]| -> i32 {
            let product = |(i, &byte): (usize, &u8)| -> i32 {
                let code = |part: usize| i32::from(byte >> (bits * part)) & ((1 << bits) - 1);
                let other = |part: usize| i32::from(from[i / 64 * 64 * parts + 64 * part + i % 64]) - 128;
                (0..parts).map(|part| code(part) * other(part)).sum()
            };
            codes.iter().enumerate().map(product).sum()
        };
        let check = |four: [&[u8]; 4], from: &[u8]| {
            let expected = std::array::from_fn(|row| reference(four[row], from));
            for k in Kernels::supported() {
                let found = k.dots_packed(bits as u32, &four, from);
                assert_eq!(found, expected, "{} of {bits} bits at {}", k.name(), from.len());
            }
        };
        let bytes: Vec<u8> = (0..8_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
        for len in (0..=448).step_by(64) {
            for shift in [0, 1, 17, 33] {
                let row = |row: usize| &bytes[row * 500 + shift..][..len];
                check(std::array::from_fn(row), &bytes[2_000 + shift..][..len * parts]);
            }
        }
        let constant = |byte: u8, len: usize| vec![byte; len];
        for from in [0, 1, 128, 255].map(|byte| constant(byte, 65_536)) {
            let rows = [255, 0, 1, 0b0110_1001].map(|byte| constant(byte, 65_536 / parts));
            check(rows.each_ref().map(Vec::as_slice), &from);
        }
    }
}

#[test]
#[should_panic(expected = "codes of 3 bits")]
fn codes_of_an_odd_number_of_bits_are_refused() {
    crate::kernels().dots_packed(3, &[&[0; 64]; 4], &[0; 64]);
}

#[test]
#[should_panic(expected = "row.len() == len")]
fn rows_of_another_length_than_their_codes_are_refused() {
    crate::kernels().dots_packed(4, &[&[0; 64], &[0; 64], &[0; 64], &[0; 128]], &[0; 128]);
}

#[test]
#[should_panic(expected = "row.len() == from.len()")]
fn rows_of_another_length_are_refused() {
    crate::kernels().dots_biased(&[&[0; 64], &[0; 64], &[0; 128], &[0; 64]], &[0; 64]);
}

#[test]
fn every_number_of_half_precision_is_widened_and_narrowed_the_same() {
    let halves: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
    // Halfway between two of them, a little more, a little less, and what half precision does not reach.
    let between = halves.windows(2).map(|pair| (pair[0].to_f32() + pair[1].to_f32()) / 2.0);
    let mut numbers: Vec<f32> =
        between.flat_map(|x| [x, x * 1.000_001, x * 0.999_999, x * 1e4]).filter(|x| !x.is_nan()).collect();
    numbers.truncate(numbers.len() / 16 * 16);
    for k in Kernels::supported() {
        let mut wide = vec![0f32; halves.len()];
        k.widen(&halves, &mut wide);
        for (half, wide) in halves.iter().zip(&wide) {
            let same = half.is_nan() && wide.is_nan() || half.to_f32().to_bits() == wide.to_bits();
            assert!(same, "{}: {half} became {wide}", k.name());
        }
        let mut narrow = vec![f16::ZERO; numbers.len()];
        k.narrow(&numbers, &mut narrow);
        for (x, narrow) in numbers.iter().zip(&narrow) {
            assert_eq!(f16::from_f32(*x).to_bits(), narrow.to_bits(), "{}: {x} became {narrow}", k.name());
        }
    }
}

#[test]
fn distances_to_four_rows_in_half_precision_agree_at_every_length_and_alignment() {
    let all: Vec<f16> = numbers(5 * 4_200, 5).into_iter().map(f16::from_f32).collect();
    for len in (0..=256).step_by(16).chain([384, 768, 4_160]) {
        for shift in [0, 1, 7] {
            let from = &numbers(len + shift, 6)[shift..];
            let rows: [&[f16]; 4] = std::array::from_fn(|row| &all[row * 4_200 + shift..][..len]);
            for k in Kernels::supported() {
                for (found, row) in k.l2_halves(from, &rows).iter().zip(rows) {
                    let pairs = from.iter().zip(row).map(|(a, b)| (f64::from(*a) - b.to_f64()).powi(2));
                    let right: f64 = pairs.sum();
                    let bound = (len as f64 + 8.0) * f64::from(f32::EPSILON) * right + 1e-30;
                    assert!((f64::from(*found) - right).abs() <= bound, "{} at {len}", k.name());
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "row.len() == from.len()")]
fn a_half_row_of_another_length_is_refused() {
    let (short, long) = ([f16::ZERO; 16], [f16::ZERO; 32]);
    crate::kernels().l2_halves(&[0.0; 16], &[&short, &short, &long, &short]);
}

#[test]
fn the_portable_backend_is_always_there() {
    assert_eq!(Kernels::supported().last().unwrap().name(), "portable");
}

#[test]
#[should_panic(expected = "left == right")]
fn different_lengths_are_refused() {
    crate::kernels().dot(&[1.0, 2.0], &[1.0]);
}

proptest! {
    #[test]
    fn floats_agree_on_any_numbers(pairs in prop::collection::vec((-1e6f32..1e6, -1e6f32..1e6), 0..200)) {
        let (a, b): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        check_floats(&a, &b);
        check_block(&[&a, &b], &[&b, &a, &b]);
    }
}
