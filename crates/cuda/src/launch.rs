//! Kernel launches: by name, on a grid, with device addresses and numbers as arguments. [`Launch`]
//! is implemented by the GPU and by the tests' emulator; the ops above it are the same for both.

use crate::{Error, Result};

/// A device address in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ptr(pub u64);

impl Ptr {
    /// The null address, for an optional argument that is absent.
    pub const NULL: Ptr = Ptr(0);

    /// The address `bytes` further on.
    pub fn offset(self, bytes: usize) -> Ptr {
        Ptr(self.0 + bytes as u64)
    }
}

/// One argument of a kernel, in the type that the kernel declares.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arg {
    /// A pointer.
    Ptr(Ptr),
    /// `int`.
    I32(i32),
    /// `uint32_t`.
    U32(u32),
    /// `uint64_t`.
    U64(u64),
    /// `float`.
    F32(f32),
}

impl Arg {
    /// A pointer to the argument's value, as cuLaunchKernel takes it.
    pub fn address(&self) -> *const std::ffi::c_void {
        match self {
            Arg::Ptr(Ptr(v)) | Arg::U64(v) => std::ptr::from_ref(v).cast(),
            Arg::I32(v) => std::ptr::from_ref(v).cast(),
            Arg::U32(v) => std::ptr::from_ref(v).cast(),
            Arg::F32(v) => std::ptr::from_ref(v).cast(),
        }
    }
}

/// Converts values to arguments of their own type.
macro_rules! arguments {
    ($($kind:ident: $ty:ty),*) => {
        $(impl From<$ty> for Arg {
            fn from(v: $ty) -> Arg {
                Arg::$kind(v)
            }
        })*
    };
}
arguments!(Ptr: Ptr, I32: i32, U32: u32, U64: u64, F32: f32);

/// A size as an argument of type `int`.
///
/// # Errors
/// A size over 2^31 - 1.
pub fn int(n: usize) -> Result<Arg> {
    i32::try_from(n)
        .map(Arg::I32)
        .map_err(|_| Error::rule(format!("a kernel cannot count to {n}")))
}

/// The dimensions of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block along x, y, z.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Grid {
    /// A one-dimensional grid of `blocks` blocks of `threads` threads.
    pub fn line(blocks: usize, threads: u32) -> Grid {
        Grid {
            blocks: [blocks as u32, 1, 1],
            threads: [threads, 1, 1],
            shared: 0,
        }
    }

    /// One thread for each of `n` elements, in blocks of 256.
    pub fn each(n: usize) -> Grid {
        Grid::line(n.div_ceil(256), 256)
    }

    /// The same grid with `bytes` of dynamic shared memory a block.
    pub fn shared(mut self, bytes: usize) -> Grid {
        self.shared = bytes as u32;
        self
    }
}

/// Launches kernels in the order of the calls.
pub trait Launch {
    /// Queues `kernel`: it may run later, but before anything queued after it.
    ///
    /// # Errors
    /// An unknown kernel, a grid that the device refuses, a failed device.
    fn launch(&self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()>;
}

/// The floating-point type of a buffer's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    Bf16,
}

impl Float {
    /// The ending of the kernels' names for this type.
    pub fn suffix(self) -> &'static str {
        match self {
            Float::F32 => "f32",
            Float::Bf16 => "bf16",
        }
    }

    /// Bytes of one value.
    pub fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::Bf16 => 2,
        }
    }
}
