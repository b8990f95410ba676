//! Numbers as signed bytes of one step, for products of bytes.

use crate::Kernels;

/// The largest code.
const MOST: f32 = 127.0;
/// The byte of the code 0.
const ZERO: u8 = 128;
/// `1.5 * 2^23`: a number of this size has no room for fractions, so that adding it rounds, and leaves the whole number in the lowest
/// bits.
const ROUND: f32 = 12_582_912.0;
/// Numbers that are worked on together.
const LANES: usize = 64;

impl Kernels {
    /// Brings numbers to codes `c` in `-127..=127` of one step, the largest number over 127: `x` is about `step * c`. `out` gets `c + 128`,
    /// which is what [`Kernels::dots_biased`] compares with codes. The step, and the sum of all `c`; where numbers are not finite, the
    /// step is not either. Panics when lengths differ or are no multiple of 64.
    pub fn to_biased(self, numbers: &[f32], out: &mut [u8]) -> (f32, i32) {
        assert!(numbers.len() == out.len() && numbers.len().is_multiple_of(LANES));
        match self.name() {
            // SAFETY: a value of `Kernels` is the proof that the processor has the backend.
            #[cfg(target_arch = "x86_64")]
            "avx512" => unsafe { to_biased_avx512(numbers, out) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            "avx2" => unsafe { to_biased_avx2(numbers, out) },
            _ => to_biased(numbers, out),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
fn to_biased_avx512(numbers: &[f32], out: &mut [u8]) -> (f32, i32) {
    to_biased(numbers, out)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn to_biased_avx2(numbers: &[f32], out: &mut [u8]) -> (f32, i32) {
    to_biased(numbers, out)
}

#[inline(always)]
fn to_biased(numbers: &[f32], out: &mut [u8]) -> (f32, i32) {
    let (numbers, _) = numbers.as_chunks::<LANES>();
    let (out, _) = out.as_chunks_mut::<LANES>();
    let (mut most, mut nothing) = ([0f32; LANES], [0f32; LANES]);
    for numbers in numbers {
        for ((most, nothing), x) in most.iter_mut().zip(&mut nothing).zip(numbers) {
            let x = x.abs();
            *most = if x > *most { x } else { *most };
            // 0 for a number, NaN for what is none.
            *nothing += x * 0.0;
        }
    }
    let most = most.iter().fold(0f32, |a, &b| a.max(b)) + nothing.iter().sum::<f32>();
    let inverse = if most > 0.0 { MOST / most } else { 0.0 };
    let mut sums = [0i32; LANES];
    for (numbers, out) in numbers.iter().zip(out) {
        for ((x, out), sum) in numbers.iter().zip(out).zip(&mut sums) {
            // The lowest byte of what is added is zero, so what is left there is the code.
            let code = i32::from((x * inverse + ROUND).to_bits() as i8);
            *sum += code;
            *out = (code as u8).wrapping_add(ZERO);
        }
    }
    (most / MOST, sums.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels;

    #[test]
    fn numbers_become_the_nearest_codes_and_every_backend_gives_the_same() {
        for len in [64, 384, 1_536] {
            let numbers: Vec<f32> = (0..len).map(|i| ((i * 61 % 127) as f32 - 70.0) * 0.37).collect();
            let mut codes = vec![0; len];
            let (step, sum) = kernels().to_biased(&numbers, &mut codes);
            assert_eq!(step, 70.0 * 0.37 / 127.0);
            assert_eq!(sum, codes.iter().map(|&code| i32::from(code) - 128).sum::<i32>());
            for (&x, &code) in numbers.iter().zip(&codes) {
                let near = step * (f32::from(code) - 128.0);
                assert!((x - near).abs() <= step * 0.501, "{x} became {near}");
            }
            for other in Kernels::supported() {
                let mut others = vec![0; len];
                assert_eq!(other.to_biased(&numbers, &mut others), (step, sum));
                assert_eq!(others, codes, "{other:?}");
            }
        }
    }

    #[test]
    fn nothing_and_what_is_no_number_is_no_panic() {
        let mut codes = [0; 64];
        assert_eq!(kernels().to_biased(&[0.0; 64], &mut codes), (0.0, 0));
        assert_eq!(codes, [128; 64]);
        for x in [0.0, f32::MIN_POSITIVE / 16.0, f32::MAX, f32::INFINITY, f32::NAN] {
            let mut numbers = [0.5; 64];
            numbers[37] = x;
            for kernels in Kernels::supported() {
                let (step, sum) = kernels.to_biased(&numbers, &mut codes);
                assert_eq!(step.is_finite(), x.is_finite());
                assert!(sum.abs() <= 64 * 128);
            }
        }
    }
}
