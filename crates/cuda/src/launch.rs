//! How a kernel is started: by name, on a grid, with arguments that are device addresses or numbers. The device's driver is
//! one way to do it, the emulator of the tests another; everything above is the same code for both.

use crate::{Error, Result};

/// A device address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ptr(pub u64);

impl Ptr {
    /// No memory: an optional argument that is not there.
    pub const NULL: Ptr = Ptr(0);

    /// `bytes` on.
    pub fn offset(self, bytes: usize) -> Ptr {
        Ptr(self.0 + bytes as u64)
    }
}

/// One argument of a kernel, with the size that the kernel declares.
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
    /// Where its bytes lie, as cuLaunchKernel wants it.
    pub fn address(&self) -> *const std::ffi::c_void {
        match self {
            Arg::Ptr(Ptr(v)) | Arg::U64(v) => std::ptr::from_ref(v).cast(),
            Arg::I32(v) => std::ptr::from_ref(v).cast(),
            Arg::U32(v) => std::ptr::from_ref(v).cast(),
            Arg::F32(v) => std::ptr::from_ref(v).cast(),
        }
    }
}

impl From<Ptr> for Arg {
    fn from(p: Ptr) -> Arg {
        Arg::Ptr(p)
    }
}
impl From<f32> for Arg {
    fn from(v: f32) -> Arg {
        Arg::F32(v)
    }
}
impl From<u32> for Arg {
    fn from(v: u32) -> Arg {
        Arg::U32(v)
    }
}
impl From<u64> for Arg {
    fn from(v: u64) -> Arg {
        Arg::U64(v)
    }
}
impl From<i32> for Arg {
    fn from(v: i32) -> Arg {
        Arg::I32(v)
    }
}

/// A size as a kernel's `int`.
///
/// # Errors
/// More than an `int` holds.
pub fn int(n: usize) -> Result<Arg> {
    i32::try_from(n)
        .map(Arg::I32)
        .map_err(|_| Error::rule(format!("a kernel cannot count to {n}")))
}

/// Blocks, threads in each, and bytes of dynamic shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub shared: u32,
}

impl Grid {
    /// `blocks` blocks of `threads` threads in a row.
    pub fn line(blocks: usize, threads: u32) -> Grid {
        Grid {
            blocks: [blocks as u32, 1, 1],
            threads: [threads, 1, 1],
            shared: 0,
        }
    }

    /// A thread for each of `n` elements, in blocks of 256.
    pub fn each(n: usize) -> Grid {
        Grid::line(n.div_ceil(256), 256)
    }

    /// With this much dynamic shared memory.
    pub fn shared(mut self, bytes: usize) -> Grid {
        self.shared = bytes as u32;
        self
    }
}

/// Starts kernels in the order in which they are asked for.
pub trait Launch {
    /// Starts `kernel`; it may run later, but before what is started after it.
    ///
    /// # Errors
    /// No such kernel, a grid that the device refuses, a device that failed.
    fn launch(&self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()>;
}

/// What values a buffer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Float {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    Bf16,
}

impl Float {
    /// As kernels' names end.
    pub fn suffix(self) -> &'static str {
        match self {
            Float::F32 => "f32",
            Float::Bf16 => "bf16",
        }
    }

    /// Of one value.
    pub fn bytes(self) -> usize {
        match self {
            Float::F32 => 4,
            Float::Bf16 => 2,
        }
    }
}
