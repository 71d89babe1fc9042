//! Reads the ABI's growing structs, whose newer versions have more fields at the end, from an older
//! or newer side.
//!
//! Fields that the other side's shorter struct lacks are 0, which stands for the behaviour before
//! that field. Fields beyond this side's version must be 0 too: then they ask for nothing unknown.
//! Anything else is refused, since ignoring it could silently give wrong results.

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
    Rope 32, Attn 24, Route 32, Arch 40, Rows 80, Grads 40, Loss 24, Sampler 40, Opt 104, Item 80, Plugin 88,
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
    let (bytes, known) = (from.cast::<u8>(), size_of::<T>());
    if size < T::FIRST {
        return Err(Misfit::Short {
            name: T::NAME,
            size,
            first: T::FIRST,
        });
    }
    // SAFETY: within the struct.
    let offset = (known..size).find(|&i| unsafe { bytes.add(i).read() } != 0);
    if let Some(offset) = offset {
        return Err(Misfit::Unknown {
            name: T::NAME,
            size,
            known,
            offset,
        });
    }
    let mut copy = MaybeUninit::<T>::zeroed();
    // SAFETY: both are at least as long, and `copy` is our own.
    unsafe { core::ptr::copy_nonoverlapping(bytes, copy.as_mut_ptr().cast(), size.min(known)) };
    // SAFETY: the first version's bytes are there, and 0 is valid for all after them.
    Ok(unsafe { copy.assume_init() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    /// Room for a table and what may lie behind it.
    #[repr(C)]
    struct Room {
        table: abi::Loss,
        behind: [u8; 16],
    }

    fn room(size: usize, behind: [u8; 16]) -> Room {
        let table = abi::Loss {
            size,
            needs_ref: 1,
            eval: None,
            coupled: 1,
            needs_reward: 7,
        };
        Room { table, behind }
    }

    fn read_room(room: &Room) -> Result<abi::Loss, Misfit> {
        // SAFETY: the room is as long as any size that a test writes into it.
        unsafe { read((room as *const Room).cast::<abi::Loss>()) }
    }

    #[test]
    fn what_a_shorter_struct_lacks_is_0() {
        for (size, coupled, needs_reward) in [(24, 0, 0), (28, 1, 0), (32, 1, 7)] {
            let loss = read_room(&room(size, [9; 16])).unwrap();
            let got = (loss.size, loss.needs_ref, loss.coupled, loss.needs_reward);
            assert_eq!(got, (size, 1, coupled, needs_reward));
        }
        let why = read_room(&room(23, [0; 16])).err().unwrap().to_string();
        assert_eq!(
            why,
            "its Loss is 23 bytes long, plugin interface 1 asks for 24"
        );
        assert!(read_room(&room(0, [0; 16])).is_err());
    }

    #[test]
    fn a_longer_struct_must_ask_for_nothing_more() {
        assert_eq!(read_room(&room(48, [0; 16])).unwrap().coupled, 1);
        for at in 0..16 {
            let mut behind = [0; 16];
            behind[at] = 1;
            let why = read_room(&room(48, behind)).err().unwrap();
            let (name, offset) = ("Loss", 32 + at);
            let (size, known) = (48, 32);
            assert_eq!(
                why,
                Misfit::Unknown {
                    name,
                    size,
                    known,
                    offset
                }
            );
            // what lies behind its size is not its own
            assert!(read_room(&room(32 + at, behind)).is_ok());
        }
    }
}
