//! Every backend against plain loops.

use crate::Kernels;
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
        let (d, n) = k.dot_norm_precise(a, b);
        assert!(
            (d - dot).abs() <= 1e-12 * absolute && (n - norm).abs() <= 1e-12 * norm,
            "{name} of {}",
            a.len()
        );
    }
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
fn bytes_agree_exactly_also_at_the_extremes() {
    let reference =
        |c: &[u8], q: &[i8]| -> i32 { c.iter().zip(q).map(|(c, q)| i32::from(*c) * i32::from(*q)).sum() };
    for len in [0, 64, 128, 384, 1024, 65_536] {
        let cases: [(Vec<u8>, Vec<i8>); 4] = [
            (vec![255; len], vec![127; len]),
            (vec![255; len], vec![-127; len]),
            ((0..len).map(|i| (i * 7) as u8).collect(), (0..len).map(|i| (i * 13) as i8).collect()),
            (vec![1; len], vec![-128; len]),
        ];
        for (codes, query) in &cases {
            for k in Kernels::supported() {
                assert_eq!(k.dot_u8i8(codes, query), reference(codes, query), "{} at {len}", k.name());
            }
        }
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
#[should_panic(expected = "row.len() == from.len()")]
fn rows_of_another_length_are_refused() {
    crate::kernels().dots_biased(&[&[0; 64], &[0; 64], &[0; 128], &[0; 64]], &[0; 64]);
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
    }
}
