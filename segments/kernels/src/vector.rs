//! The vector operations that the kernels are written in: one implementation per instruction set.
//!
//! All functions are `unsafe` for one reason: the processor must have the instruction set of the implementation. They
//! are inlined into functions that were compiled for it, and those are only reached after asking the processor.

use half::f16;

/// Some `f32` lanes.
pub(crate) trait Floats: Copy {
    /// How many lanes.
    const LANES: usize;
    /// How many vectors the registers hold.
    const REGISTERS: usize;

    /// All lanes zero.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn zero() -> Self;

    /// All lanes `x`.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn splat(x: f32) -> Self;

    /// Loads `LANES` numbers.
    ///
    /// # Safety
    /// The processor has the instruction set; `from` is valid for reading `LANES` numbers, at any alignment.
    unsafe fn load(from: *const f32) -> Self;

    /// Loads `count < LANES` numbers; the other lanes are zero.
    ///
    /// # Safety
    /// The processor has the instruction set; `from` is valid for reading `count` numbers.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;

    /// Loads `LANES` numbers of half precision, which single precision holds all.
    ///
    /// # Safety
    /// The processor has the instruction set; `from` is valid for reading `LANES` numbers, at any alignment.
    unsafe fn load_halves(from: *const f16) -> Self;

    /// Stores `LANES` numbers in half precision, rounded to the nearest, to even ones between two.
    ///
    /// # Safety
    /// The processor has the instruction set; `to` is valid for writing `LANES` numbers, at any alignment.
    unsafe fn store_halves(self, to: *mut f16);

    /// Stores `LANES` numbers.
    ///
    /// # Safety
    /// The processor has the instruction set; `to` is valid for writing `LANES` numbers, at any alignment.
    unsafe fn store(self, to: *mut f32);

    /// A bit per lane, clear where `self < other`; set where they can't be compared.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn not_below(self, other: Self) -> u32;

    /// A bit per lane, set where the number is above zero.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn above_zero(self) -> u32;

    /// Lane by lane `sum + x` where the bit is set, `sum` elsewhere.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add_where(sum: Self, lanes: u32, x: Self) -> Self;

    /// Lane by lane without the sign.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn abs(self) -> Self;

    /// Lane by lane `self - other`.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn sub(self, other: Self) -> Self;

    /// Lane by lane `self * other + sum`, rounded once or twice.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self;

    /// Lane by lane `self + other`.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn add(self, other: Self) -> Self;

    /// The sum of all lanes.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn sum(self) -> f32;

    /// The sums of all lanes, of four at once.
    ///
    /// # Safety
    /// The processor has the instruction set.
    #[inline(always)]
    unsafe fn sums(four: [Self; 4]) -> [f32; 4] {
        // SAFETY: the caller's promise.
        unsafe { [four[0].sum(), four[1].sum(), four[2].sum(), four[3].sum()] }
    }
}

/// Some `f64` lanes, loaded from `f32` numbers.
pub(crate) trait Doubles: Copy {
    /// How many lanes.
    const LANES: usize;

    /// All lanes zero.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn zero() -> Self;

    /// Loads and widens `LANES` numbers.
    ///
    /// # Safety
    /// The processor has the instruction set; `from` is valid for reading `LANES` numbers.
    unsafe fn load(from: *const f32) -> Self;

    /// Lane by lane `self - other`.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn sub(self, other: Self) -> Self;

    /// Lane by lane `self * other + sum`.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn mul_add(self, other: Self, sum: Self) -> Self;

    /// The sum of all lanes.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn sum(self) -> f64;
}

/// Some 32-bit sums of products of bytes.
pub(crate) trait Bytes: Copy {
    /// How many bytes go into one step; divides 64.
    const STEP: usize;

    /// All sums zero.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn zero() -> Self;

    /// Adds the products of what `STEP` bytes hold, `BITS` bits each, and bytes from which 128 is subtracted, exactly. Those
    /// that belong to the lowest bits come first; each further part of the bits has its own 64 bytes farther on.
    ///
    /// # Safety
    /// The processor has the instruction set; `BITS` divides 8; `codes` is valid for reading `STEP` bytes, and so is `from`, 64
    /// bytes farther on for each further part.
    unsafe fn add_biased<const BITS: usize>(self, codes: *const u8, from: *const u8) -> Self;

    /// The sum of all sums, of four at once.
    ///
    /// # Safety
    /// The processor has the instruction set.
    unsafe fn sums(four: [Self; 4]) -> [i32; 4];
}
