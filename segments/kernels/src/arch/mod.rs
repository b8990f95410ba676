//! The instruction sets: for each the vector operations, and a table of kernels compiled for it.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

/// Compiles every kernel for an instruction set and makes the table of them.
macro_rules! kernels_for {
    ($name:literal, $features:tt, $floats:ty, $doubles:ty, $bytes:ty) => {
        /// The kernels of this instruction set. Calling one needs a processor that has it.
        pub(crate) static TABLE: crate::dispatch::Table = crate::dispatch::Table {
            name: $name,
            panel_width: crate::many::panel_width::<$floats>(),
            dot,
            l2,
            l2_halves,
            widen,
            narrow,
            dot_norm,
            dots_many,
            reaching,
            dot_precise,
            l2_precise,
            dot_norm_precise,
            dots_biased: [dots_bits, dots_crumbs, dots_nibbles, dots_biased],
        };

        crate::arch::kernels_for!(@one $features, dot, (a: &[f32], b: &[f32]) -> f32, $floats);
        crate::arch::kernels_for!(@one $features, l2, (a: &[f32], b: &[f32]) -> f32, $floats);
        crate::arch::kernels_for!(@one $features, l2_halves, (a: &[f32], b: &[&[half::f16]; 4]) -> [f32; 4], $floats);
        crate::arch::kernels_for!(@one $features, widen, (a: &[half::f16], b: &mut [f32]) -> (), $floats);
        crate::arch::kernels_for!(@one $features, narrow, (a: &[f32], b: &mut [half::f16]) -> (), $floats);
        crate::arch::kernels_for!(@one $features, dot_norm, (a: &[f32], b: &[f32]) -> (f32, f32), $floats);
        crate::arch::kernels_for!(@one $features, dots_many, (a: &crate::many::PanelRows<'_>, b: &mut [f32]) -> (), $floats);
        crate::arch::kernels_for!(@one $features, reaching, (a: &[f32], b: &crate::many::Bar<'_>) -> u64, $floats);
        crate::arch::kernels_for!(@one $features, dot_precise, (a: &[f32], b: &[f32]) -> f64, $doubles);
        crate::arch::kernels_for!(@one $features, l2_precise, (a: &[f32], b: &[f32]) -> f64, $doubles);
        crate::arch::kernels_for!(@one $features, dot_norm_precise, (a: &[f32], b: &[f32]) -> (f64, f64), $doubles);
        crate::arch::kernels_for!(@one $features, dots_biased, (a: &[&[u8]; 4], b: &[u8]) -> [i32; 4], $bytes);
        crate::arch::kernels_for!(@one $features, dots_nibbles, (a: &[&[u8]; 4], b: &[u8]) -> [i32; 4], $bytes);
        crate::arch::kernels_for!(@one $features, dots_crumbs, (a: &[&[u8]; 4], b: &[u8]) -> [i32; 4], $bytes);
        crate::arch::kernels_for!(@one $features, dots_bits, (a: &[&[u8]; 4], b: &[u8]) -> [i32; 4], $bytes);
    };
    (@one none, $kernel:ident, ($a:ident: $at:ty, $b:ident: $bt:ty) -> $out:ty, $vector:ty) => {
        /// # Safety
        /// The slices have the same length, byte slices a multiple of 64; or what the kernel says.
        unsafe fn $kernel($a: $at, $b: $bt) -> $out {
            // SAFETY: every processor has this instruction set; the lengths are the caller's promise.
            unsafe { crate::generic::$kernel::<$vector>($a, $b) }
        }
    };
    (@one $features:literal, $kernel:ident, ($a:ident: $at:ty, $b:ident: $bt:ty) -> $out:ty, $vector:ty) => {
        /// # Safety
        /// The processor has the instruction set; the slices have the same length, byte slices a multiple of 64; or
        /// what the kernel says.
        #[target_feature(enable = $features)]
        unsafe fn $kernel($a: $at, $b: $bt) -> $out {
            // SAFETY: the caller's promise.
            unsafe { crate::generic::$kernel::<$vector>($a, $b) }
        }
    };
}
pub(crate) use kernels_for;
