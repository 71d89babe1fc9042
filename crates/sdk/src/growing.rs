//! Reads the ABI's growing structs, whose newer versions have more fields at the end, from an older
//! or newer side.
//!
//! Fields that the other side's shorter struct lacks are 0, which stands for the behaviour before
//! that field. Fields beyond this side's version must be 0 too: then they ask for nothing unknown.
//! Anything else is refused, since ignoring it could silently give wrong results.
//!
//! Every struct that crosses and has a size is read here, on both sides. [`abi::Ops`] alone is not
//! copied: its reader looks at its size before it calls a function.

use core::{fmt, mem::MaybeUninit};

use crate::abi;

/// A struct of the ABI that gets new fields only at its end.
///
/// # Safety
/// `repr(C)`, and every field that lies beyond [`Growing::FIRST`] is valid with all its bytes 0 (a
/// number, a raw pointer, an `Option` of a function).
pub unsafe trait Growing: Copy {
    /// For messages.
    const NAME: &'static str;
    /// Bytes of its first released version.
    const FIRST: usize;
}

/// Implements [`Growing`] for structs of [`abi`]: name and first size.
macro_rules! growing {
    ($($type:ident $first:literal),+ $(,)?) => {
        // SAFETY: all are `repr(C)`; what has been added since is numbers and pointers
        // (tests/layout.rs lists them).
        $(unsafe impl Growing for abi::$type {
            const NAME: &'static str = stringify!($type);
            #[cfg(target_pointer_width = "64")]
            const FIRST: usize = $first;
            #[cfg(not(target_pointer_width = "64"))]
            const FIRST: usize = size_of::<abi::$type>();
        })+
    };
}

growing!(
    Rope 32, Attn 24, Route 32, Arch 40, Rows 80, Grads 40, Loss 24, Candidates 32, Step 48,
    Sampler 40, Opt 104, Item 80, Plugin 88,
);

/// Why a struct cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misfit {
    /// The struct is shorter than its first version.
    Short {
        /// Name of the struct.
        name: &'static str,
        /// Size in bytes.
        size: usize,
        /// Bytes of the first version.
        first: usize,
    },
    /// A field that this side does not know is not 0.
    Unknown {
        /// Name of the struct.
        name: &'static str,
        /// Size in bytes.
        size: usize,
        /// Bytes of the version known here.
        known: usize,
        /// The first byte that is not 0 beyond them.
        offset: usize,
    },
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Misfit::Short { name, size, first } => write!(
                f,
                "its {name} is {size} bytes long, plugin interface {} asks for {first}",
                abi::MAJOR
            ),
            Misfit::Unknown {
                name,
                size,
                known,
                offset,
            } => write!(
                f,
                "its {name} is {size} bytes long, of which {known} are known here, and asks for something at offset {offset}"
            ),
        }
    }
}

/// Copies a struct that begins with its own size.
///
/// # Errors
/// [`Misfit`].
///
/// # Safety
/// `from` is aligned and points to as many readable bytes as the `usize` there says.
pub unsafe fn read<T: Growing>(from: *const T) -> Result<T, Misfit> {
    // SAFETY: every version begins with its size.
    let size = unsafe { from.cast::<usize>().read() };
    // SAFETY: the caller's promise.
    unsafe { read_sized(from, size) }
}

/// Copies a struct of `size` bytes, given separately.
///
/// # Errors
/// [`Misfit`].
///
/// # Safety
/// `from` points to `size` readable bytes, the beginning of a `T` of some version.
pub unsafe fn read_sized<T: Growing>(from: *const T, size: usize) -> Result<T, Misfit> {
    // SAFETY: the caller's promise.
    let copy = unsafe { known_part(from, size) }?;
    let (bytes, known) = (from.cast::<u8>(), size_of::<T>());
    // SAFETY: within the struct.
    let offset = (known..size).find(|&i| unsafe { bytes.add(i).read() } != 0);
    match offset {
        None => Ok(copy),
        Some(offset) => Err(Misfit::Unknown {
            name: T::NAME,
            size,
            known,
            offset,
        }),
    }
}

/// Copies what this side knows of a struct of `size` bytes, whatever it asks for beyond that: to
/// say in an error whose struct it is.
///
/// # Errors
/// [`Misfit::Short`].
///
/// # Safety
/// As [`read_sized`].
pub unsafe fn known_part<T: Growing>(from: *const T, size: usize) -> Result<T, Misfit> {
    if size < T::FIRST {
        return Err(Misfit::Short {
            name: T::NAME,
            size,
            first: T::FIRST,
        });
    }
    let (mut copy, known) = (MaybeUninit::<T>::zeroed(), size_of::<T>());
    // SAFETY: both are at least as long, and `copy` is our own.
    unsafe {
        core::ptr::copy_nonoverlapping(
            from.cast::<u8>(),
            copy.as_mut_ptr().cast::<u8>(),
            size.min(known),
        );
    }
    // SAFETY: the first version's bytes are there, and 0 is valid for all after them.
    Ok(unsafe { copy.assume_init() })
}

#[cfg(test)]
mod tests;
