//! Offloading tensors to the host's pinned memory and back while the GPU computes, by a second
//! queue that copies. Events order the two queues: the copying one waits for the main one until a
//! tensor's values (or its memory) are ready; the main one waits for a copy before it reads a
//! tensor that came back or reuses the memory of one that left.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{
    Tensor,
    cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DriverError, result, sys},
};

use super::{Gpu, driver, ptr};
use crate::{Error, Result};

/// A pool of free pinned memory, for reuse. Clones share it.
#[derive(Clone, Default)]
pub struct PinnedPool(Arc<Mutex<Vec<Block>>>);

impl std::fmt::Debug for PinnedPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let free: Vec<usize> = self.free().iter().map(|b| b.bytes).collect();
        f.debug_tuple("PinnedPool").field(&free).finish()
    }
}

impl PinnedPool {
    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Block>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a block of at least `bytes` bytes, which returns to the pool when it is dropped. If
    /// all free blocks are too small, one of them is freed and a new one allocated, so that there
    /// are never more blocks than were in use at once.
    ///
    /// # Errors
    /// The host refuses to pin more.
    fn take(&self, gpu: &'static Gpu, bytes: usize) -> Result<Pinned> {
        let mut free = self.free();
        let enough = free.iter().position(|b| b.bytes >= bytes);
        let block = match enough {
            Some(i) => free.swap_remove(i),
            None => {
                drop(free.pop());
                drop(free);
                Block::new(gpu.copying()?, bytes)?
            }
        };
        Ok(Pinned {
            block: Some(block),
            pool: self.clone(),
        })
    }
}

/// A block of pinned (page-locked) host memory.
struct Block {
    at: *mut u8,
    bytes: usize,
    /// The queue that copies from and to it.
    copying: Arc<CudaStream>,
}

// SAFETY: plain memory that only the copying queue reads and writes, in its order; nobody on the
// host does.
unsafe impl Send for Block {}

impl Block {
    fn new(copying: &Arc<CudaStream>, bytes: usize) -> Result<Block> {
        copying.context().bind_to_thread().map_err(driver)?;
        // SAFETY: nothing reads it before a copy has written it.
        let at = unsafe { result::malloc_host(bytes.max(1), 0) };
        // without the driver's text: its "out of memory" would be taken for the GPU's
        let at = at.map_err(|e| {
            Error::rule(format!(
                "the host pins no {bytes} bytes more for the GPU to copy to (the driver's error {})",
                e.0 as u32
            ))
        })?;
        Ok(Block {
            at: at.cast(),
            bytes,
            copying: copying.clone(),
        })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // a copy may be in flight; a failed queue copies no more
        let _ = self.copying.synchronize();
        // SAFETY: `malloc_host` gave it, nobody else holds it, and nothing is copied from or to it
        // any more.
        let _ = unsafe { result::free_host(self.at.cast()) };
    }
}

/// A pinned block in use, returned to its pool on drop. Its next user's copies are queued behind
/// this one's on the same queue.
struct Pinned {
    /// `None` only during drop.
    block: Option<Block>,
    pool: PinnedPool,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pool.free().extend(self.block.take());
    }
}

/// A copy in flight. On drop the main queue waits for it, and only then can the tensor's memory be
/// reused.
struct Copying {
    // in the order in which they must be dropped
    done: Done,
    tensor: Tensor,
}

/// A copy's event; on drop the main queue waits for it.
struct Done {
    event: CudaEvent,
    main: Arc<CudaStream>,
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.main.wait(&self.event).is_err() {
            let _ = self.event.synchronize(); // the device failed: no queue runs any more
        }
    }
}

impl Copying {
    /// Makes the main queue wait for the copy, and returns the tensor.
    fn finished(self) -> Tensor {
        let Copying { done, tensor } = self;
        drop(done);
        tensor
    }
}

/// A tensor being copied to pinned memory.
pub struct Leaving {
    copy: Copying,
    away: Away,
}

/// A tensor's values in pinned memory.
pub struct Away {
    pinned: Pinned,
    like: (Vec<usize>, candle_core::DType, usize),
    gpu: &'static Gpu,
}

/// A tensor being copied back to the GPU.
pub struct Coming {
    copy: Copying,
    /// Returned to its pool when this is dropped.
    _pinned: Pinned,
}

impl Leaving {
    /// Starts to copy a contiguous tensor to pinned memory, after the work queued on the main queue
    /// so far and concurrently with later work.
    ///
    /// # Errors
    /// The host refuses to pin more memory, the device failed.
    pub fn of(gpu: &'static Gpu, tensor: &Tensor, pool: &PinnedPool) -> Result<Leaving> {
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        let pinned = pool.take(gpu, bytes)?;
        let copy = gpu.copy_beside(tensor, &pinned, bytes, Way::Down)?;
        let like = (tensor.dims().to_vec(), tensor.dtype(), bytes);
        let away = Away { pinned, like, gpu };
        Ok(Leaving { copy, away })
    }

    /// Frees the tensor on the GPU: later work on the main queue waits for the copy.
    pub fn gone(self) -> Away {
        drop(self.copy.finished());
        self.away
    }
}

impl Away {
    /// Allocates a tensor and starts to copy the values back into it, concurrently with later work
    /// on the main queue.
    ///
    /// # Errors
    /// Not enough memory on the card, a device that failed.
    pub fn fetch(self) -> Result<Coming> {
        let Away { pinned, like, gpu } = self;
        let (dims, dtype, bytes) = like;
        let tensor = gpu.room(&dims, dtype)?; // the copy writes all of it
        let copy = gpu.copy_beside(&tensor, &pinned, bytes, Way::Up)?;
        let _pinned = pinned;
        Ok(Coming { copy, _pinned })
    }
}

impl Coming {
    /// The tensor: later work on the main queue waits for the copy.
    pub fn here(self) -> Tensor {
        self.copy.finished()
    }
}

#[derive(Clone, Copy)]
enum Way {
    Down,
    Up,
}

impl Gpu {
    /// The copying queue, created at its first use.
    fn copying(&self) -> Result<&Arc<CudaStream>> {
        static ONE: OnceLock<std::result::Result<Arc<CudaStream>, DriverError>> = OnceLock::new();
        let context = self.device.cuda_stream().context().clone();
        let one = ONE.get_or_init(|| context.new_stream());
        one.as_ref().map_err(|e| driver(*e))
    }

    /// Starts a copy between a tensor and pinned memory of at least as many bytes, on the copying
    /// queue.
    fn copy_beside(
        &self,
        tensor: &Tensor,
        pinned: &Pinned,
        bytes: usize,
        way: Way,
    ) -> Result<Copying> {
        let (main, copying) = (self.device.cuda_stream(), self.copying()?);
        let at = ptr(tensor)?;
        let Some(block) = &pinned.block else {
            return Err(Error::rule("pinned memory was given back already"));
        };
        // the values are ready, or the memory's previous user has finished
        copying.join(&main).map_err(driver)?;
        let (host, queue) = (block.at.cast(), copying.cu_stream());
        // SAFETY: the tensor has so many bytes from `at` on, the block no fewer; both are held
        // until the copy is done (`Copying` and `Block` see to it), and nothing else writes to them
        // meanwhile: hidden states never change in place, and fresh room is nobody else's.
        let begun = unsafe {
            match way {
                Way::Down => sys::cuMemcpyDtoHAsync_v2(host, at.0, bytes, queue),
                Way::Up => sys::cuMemcpyHtoDAsync_v2(at.0, host.cast_const(), bytes, queue),
            }
        };
        begun.result().map_err(driver)?;
        // without an event nothing may be freed before the copy is done
        let event = copying.record_event(None);
        let event = event.or_else(|e| copying.synchronize().and(Err(e)));
        Ok(Copying {
            done: Done {
                event: event.map_err(driver)?,
                main,
            },
            tensor: tensor.clone(),
        })
    }
}
