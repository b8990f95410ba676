//! Which kernels run: chosen once, by asking the processor; `NEARSTONE_KERNELS` (`avx512`, `avx2`, `portable`) forces
//! a backend that the processor has, for tests and comparisons.

use crate::arch;
use crate::many::{Bar, PanelRows};
use half::f16;
use std::sync::OnceLock;

/// Products of four rows of codes with one of bytes.
type DotsBiased = unsafe fn(&[&[u8]; 4], &[u8]) -> [i32; 4];

/// A backend's kernels. The pointers stay private: each is only called after the processor was asked.
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// Queries in a panel of [`crate::QueryPanels`].
    pub(crate) panel_width: usize,
    pub(crate) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) l2: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) l2_halves: unsafe fn(&[f32], &[&[f16]; 4]) -> [f32; 4],
    pub(crate) widen: unsafe fn(&[f16], &mut [f32]),
    pub(crate) narrow: unsafe fn(&[f32], &mut [f16]),
    pub(crate) dot_norm: unsafe fn(&[f32], &[f32]) -> (f32, f32),
    pub(crate) dots_many: unsafe fn(&PanelRows<'_>, &mut [f32]),
    pub(crate) reaching: unsafe fn(&[f32], &Bar<'_>) -> u64,
    pub(crate) dot_precise: unsafe fn(&[f32], &[f32]) -> f64,
    pub(crate) l2_precise: unsafe fn(&[f32], &[f32]) -> f64,
    pub(crate) dot_norm_precise: unsafe fn(&[f32], &[f32]) -> (f64, f64),
    /// Of codes of 1, 2, 4 and 8 bits.
    pub(crate) dots_biased: [DotsBiased; 4],
}

/// The kernels of one backend that this processor has. A value of this type is the proof that it does.
#[derive(Clone, Copy)]
pub struct Kernels(&'static Table);

/// The best kernels of this processor.
#[inline]
pub fn kernels() -> Kernels {
    static CHOSEN: OnceLock<Kernels> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let supported = Kernels::supported();
        let forced = std::env::var("NEARSTONE_KERNELS").ok();
        let wanted = forced.and_then(|name| supported.iter().find(|k| k.name() == name).copied());
        wanted.unwrap_or(supported[0])
    })
}

impl Kernels {
    /// Every backend that this processor has, the best first; the portable one is always there and last.
    pub fn supported() -> Vec<Kernels> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if arch::avx512::supported() {
                all.push(Kernels(&arch::avx512::TABLE));
            }
            if arch::avx2::supported() {
                all.push(Kernels(&arch::avx2::TABLE));
            }
        }
        all.push(Kernels(&arch::portable::TABLE));
        all
    }

    /// The backend's name.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Queries in a panel of [`crate::QueryPanels`].
    #[inline]
    pub fn panel_width(self) -> usize {
        self.0.panel_width
    }

    #[inline]
    pub(crate) fn table(self) -> &'static Table {
        self.0
    }

    /// `sum a_i b_i`. Panics when the lengths differ.
    #[inline]
    pub fn dot(self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        // SAFETY: `self` exists only for a processor that has the backend; the lengths are equal.
        unsafe { (self.0.dot)(a, b) }
    }

    /// `sum (a_i - b_i)^2`. Panics when the lengths differ.
    #[inline]
    pub fn l2(self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        // SAFETY: as in `dot`.
        unsafe { (self.0.l2)(a, b) }
    }

    /// `sum (from_i - row_i)^2` of four rows in half precision. Panics when the lengths differ or are no multiple of
    /// [`HALVES_ALIGN`](crate::HALVES_ALIGN).
    #[inline]
    pub fn l2_halves(self, from: &[f32], rows: &[&[f16]; 4]) -> [f32; 4] {
        assert!(from.len().is_multiple_of(crate::HALVES_ALIGN));
        assert!(rows.iter().all(|row| row.len() == from.len()));
        // SAFETY: as in `dot`; the length is a multiple of what the kernel wants.
        unsafe { (self.0.l2_halves)(from, rows) }
    }

    /// Half precision to single precision. Panics as [`Kernels::l2_halves`] does.
    #[inline]
    pub fn widen(self, halves: &[f16], out: &mut [f32]) {
        assert!(halves.len() == out.len() && out.len().is_multiple_of(crate::HALVES_ALIGN));
        // SAFETY: as in `l2_halves`.
        unsafe { (self.0.widen)(halves, out) }
    }

    /// Single precision to half precision, rounded to the nearest. Panics as [`Kernels::l2_halves`] does.
    #[inline]
    pub fn narrow(self, numbers: &[f32], out: &mut [f16]) {
        assert!(numbers.len() == out.len() && out.len().is_multiple_of(crate::HALVES_ALIGN));
        // SAFETY: as in `l2_halves`.
        unsafe { (self.0.narrow)(numbers, out) }
    }

    /// `(sum a_i b_i, sum b_i^2)` in one pass, wrong by what [`crate::roundings`] says. Panics when the lengths differ.
    #[inline]
    pub fn dot_norm(self, a: &[f32], b: &[f32]) -> (f32, f32) {
        assert_eq!(a.len(), b.len());
        // SAFETY: as in `dot`.
        unsafe { (self.0.dot_norm)(a, b) }
    }

    /// `sum a_i b_i` in double precision. Panics when the lengths differ.
    #[inline]
    pub fn dot_precise(self, a: &[f32], b: &[f32]) -> f64 {
        assert_eq!(a.len(), b.len());
        // SAFETY: as in `dot`.
        unsafe { (self.0.dot_precise)(a, b) }
    }

    /// `sum (a_i - b_i)^2` in double precision. Panics when the lengths differ.
    #[inline]
    pub fn l2_precise(self, a: &[f32], b: &[f32]) -> f64 {
        assert_eq!(a.len(), b.len());
        // SAFETY: as in `dot`.
        unsafe { (self.0.l2_precise)(a, b) }
    }

    /// `(sum a_i b_i, sum b_i^2)` in double precision, in one pass. Panics when the lengths differ.
    #[inline]
    pub fn dot_norm_precise(self, a: &[f32], b: &[f32]) -> (f64, f64) {
        assert_eq!(a.len(), b.len());
        // SAFETY: as in `dot`.
        unsafe { (self.0.dot_norm_precise)(a, b) }
    }

    /// `sum codes_i (from_i - 128)` for four rows at a time, exact up to 65,536 bytes: the products of rows of one kind,
    /// codes of 128 being zero, and `128 * sum(from_i - 128)` more. Panics when the lengths differ, are no
    /// multiple of 64, or are larger than that.
    #[inline]
    pub fn dots_biased(self, codes: &[&[u8]; 4], from: &[u8]) -> [i32; 4] {
        assert!(from.len().is_multiple_of(64) && from.len() <= 65_536);
        assert!(codes.iter().all(|row| row.len() == from.len()));
        // SAFETY: as in `dot`; the length is a multiple of 64.
        unsafe { (self.0.dots_biased[3])(codes, from) }
    }

    /// As [`Kernels::dots_biased`], for codes of 1, 2, 4 or 8 bits. A byte holds `8 / bits` of them, the first in its lowest
    /// bits; of each 64 bytes the first codes are compared with the first 64 bytes of `from` that belong to them, the
    /// second with the next 64, and so on. Panics for other `bits`, when `from` has not as many bytes as a row has codes,
    /// when the bytes of a row are no multiple of 64, or the codes more than 65,536.
    #[inline]
    pub fn dots_packed(self, bits: u32, codes: &[&[u8]; 4], from: &[u8]) -> [i32; 4] {
        assert!(matches!(bits, 1 | 2 | 4 | 8), "codes of {bits} bits");
        let len = from.len() / (8 / bits as usize);
        assert!(from.len().is_multiple_of(64 * (8 / bits as usize)) && from.len() <= 65_536);
        assert!(codes.iter().all(|row| row.len() == len));
        // SAFETY: as in `dots_biased`; the lengths fit.
        unsafe { (self.0.dots_biased[bits.trailing_zeros() as usize])(codes, from) }
    }
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.name())
    }
}
