//! Parameter blocks of kernels: plain structs that Rust and CUDA C++ lay out alike.

use super::Address;

/// A number that is its bytes.
///
/// # Safety
/// No padding, and every pattern of bits is one.
pub unsafe trait Plain: Copy + 'static {
    /// The bytes of numbers.
    fn bytes_of(numbers: &[Self]) -> &[u8] {
        // SAFETY: no padding, so each byte is initialised.
        unsafe { std::slice::from_raw_parts(numbers.as_ptr().cast(), size_of_val(numbers)) }
    }

    /// The bytes of numbers, to be overwritten.
    fn bytes_of_mut(numbers: &mut [Self]) -> &mut [u8] {
        // SAFETY: no padding, and every pattern of bits is a number.
        unsafe { std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), size_of_val(numbers)) }
    }

    /// A number of zero bits.
    fn zero() -> Self {
        // SAFETY: every pattern of bits is one.
        unsafe { std::mem::zeroed() }
    }
}

macro_rules! plain {
    ($($type:ty),*) => { $(
        // SAFETY: a number without padding.
        unsafe impl Plain for $type {}
    )* };
}
plain!(u8, u16, u32, u64, i32, i64, f32, f64, half::bf16, half::f16, Address);

/// A struct of [`Plain`] fields without gaps between them; made by `parameters!`.
///
/// # Safety
/// `repr(C)`, no padding.
pub unsafe trait Parameters: Copy {
    fn bytes(&self) -> &[u8] {
        // SAFETY: no padding, so each byte is initialised.
        unsafe { std::slice::from_raw_parts(std::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// Declares the parameter block of a kernel, field by field as the struct in its `.cu` file: addresses first, then four-byte
/// numbers, an even number of them (or one called `unused` more).
macro_rules! parameters {
    ($(#[$meta:meta])* $visibility:vis struct $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        #[repr(C)]
        $visibility struct $name { $($(#[$field_meta])* pub $field: $type),* }

        const _: () = {
            const fn is_plain<T: $crate::gpu::Plain>() {}
            $(is_plain::<$type>();)*
            assert!(size_of::<$name>() == 0 $(+ size_of::<$type>())*, "a parameter block leaves no gaps");
        };
        // SAFETY: checked above.
        unsafe impl $crate::gpu::Parameters for $name {}
        // SAFETY: checked above.
        unsafe impl $crate::gpu::Plain for $name {}
    };
}
