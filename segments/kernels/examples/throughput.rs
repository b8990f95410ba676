//! How many gigabytes of rows per second each kernel goes through, for every backend that this processor has.
//!
//! One query against 64 rows that stay in the nearest caches, so that the arithmetic is measured and not the memory;
//! the best of several rounds, since other programs only ever slow one down. Bytes are those of the rows; of `dots_many`,
//! those of the rows for each query. What memory gives stands above.
//!
//! ```sh
//! cargo run --release --package nearstone-kernels --example throughput
//! ```

use nearstone_kernels::{Kernels, QueryPanels, kernels};
use std::hint::black_box;
use std::time::{Duration, Instant};

const ROWS: usize = 64;
const ROUNDS: usize = 5;
const STREAM_BYTES: usize = 256 << 20;
const ROUND: Duration = Duration::from_millis(15);
const DIMENSIONS: [usize; 4] = [64, 128, 384, 768];

/// The best rate of some rounds over rows of `bytes` bytes, in GB/s. `pass` goes over all rows once.
fn rate(bytes: usize, mut pass: impl FnMut()) -> f64 {
    let mut best = 0f64;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut passes = 0u32;
        while start.elapsed() < ROUND {
            (0..16).for_each(|_| pass());
            passes += 16;
        }
        let seconds = start.elapsed().as_secs_f64();
        best = best.max(f64::from(passes) * (ROWS * bytes) as f64 / seconds / 1e9);
    }
    best
}

fn row(name: &str, backend: Kernels, of: impl Fn(usize) -> f64) {
    print!("{name:<18}{:<10}", backend.name());
    DIMENSIONS.iter().for_each(|&dimension| print!("{:>10.1}", of(dimension)));
    println!();
}

fn floats<T>(backend: Kernels, dimension: usize, kernel: impl Fn(Kernels, &[f32], &[f32]) -> T) -> f64 {
    let numbers: Vec<f32> = (0..dimension * (ROWS + 1)).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let (query, rows) = numbers.split_at(dimension);
    rate(dimension * 4, || {
        for row in rows.chunks_exact(dimension) {
            black_box(kernel(backend, black_box(query), row));
        }
    })
}

/// The plain stream of memory, in GB/s: the best of some rounds over more than a cache holds, only added up.
fn stream() -> f64 {
    let numbers: Vec<u32> = (0..STREAM_BYTES as u32 / 4).collect();
    let mut best = 0f64;
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let mut sums = [0u32; 64];
        for numbers in black_box(&numbers).chunks_exact(sums.len()) {
            sums.iter_mut().zip(numbers).for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
        }
        black_box(sums);
        best = best.max(STREAM_BYTES as f64 / start.elapsed().as_secs_f64() / 1e9);
    }
    best
}

fn main() {
    println!("the plain stream of memory: {:.1} GB/s", stream());
    println!("chosen by default: {}; GB/s of rows at dimension:", kernels().name());
    print!("{:<28}", "");
    DIMENSIONS.iter().for_each(|dimension| print!("{dimension:>10}"));
    println!();
    for backend in Kernels::supported() {
        row("dot", backend, |d| floats(backend, d, Kernels::dot));
        row("l2", backend, |d| floats(backend, d, Kernels::l2));
        row("dot_norm", backend, |d| floats(backend, d, Kernels::dot_norm));
        row("dot_precise", backend, |d| floats(backend, d, Kernels::dot_precise));
        row("l2_precise", backend, |d| floats(backend, d, Kernels::l2_precise));
        row("dot_norm_precise", backend, |d| floats(backend, d, Kernels::dot_norm_precise));
        // Rows times queries of a panel: what reading the rows for each query apart would have to reach.
        row("dots_many", backend, |d| {
            let numbers: Vec<f32> = (0..d * 256).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
            let slices: Vec<&[f32]> = numbers.chunks_exact(d).collect();
            let width = backend.panel_width();
            let (queries, rows) = (QueryPanels::new(backend, &slices[..width]), &slices[width..][..ROWS]);
            let mut dots = vec![0.0; ROWS * width];
            rate(d * 4 * width, || {
                queries.dots(0, black_box(rows), &mut dots);
                black_box(&dots);
            })
        });
        row("dots_biased", backend, |d| {
            let codes: Vec<u8> = (0..d * (ROWS + 1)).map(|i| (i * 7) as u8).collect();
            let (from, codes) = codes.split_at(d);
            rate(d, || {
                for four in codes.chunks_exact(4 * d) {
                    let rows = std::array::from_fn(|row| &four[row * d..][..d]);
                    black_box(backend.dots_biased(&rows, black_box(from)));
                }
            })
        });
        for bits in [4, 2, 1] {
            // The same numbers in fewer bytes: a rate of half as much at 4 bits is the same time.
            row(&format!("dots_packed, {bits}"), backend, |d| {
                let (dimension, row_bytes) = (d as u32, (d as u32 * bits / 8).next_multiple_of(64) as usize);
                let codes: Vec<u8> = (0..row_bytes * ROWS).map(|i| (i * 7) as u8).collect();
                let from: Vec<u8> = (0..row_bytes * 8 / bits as usize).map(|i| (i * 5) as u8).collect();
                rate((dimension * bits / 8) as usize, || {
                    for four in codes.chunks_exact(4 * row_bytes) {
                        let rows = std::array::from_fn(|row| &four[row * row_bytes..][..row_bytes]);
                        black_box(backend.dots_packed(bits, &rows, black_box(&from)));
                    }
                })
            });
        }
    }
}
