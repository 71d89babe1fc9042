//! Tensors that leave for the host's pinned memory and come back while the GPU computes: a second queue copies them. Who waits for
//! whom is said by events: the copying queue for the main one, to find values (or the room for them) there; the main one for a copy,
//! before it reads what came back or gives the memory of what left to somebody else.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{
    Tensor,
    cuda_backend::cudarc::driver::{CudaEvent, CudaStream, DriverError, result, sys},
};

use super::{Gpu, driver, ptr};
use crate::{Error, Result};

/// Pinned memory that is free at the moment, kept for the next that wants some. Clones share it.
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

    /// At least so many bytes; back in the pool when they are dropped. Where all that are free are too small, one of them goes for
    /// the new ones, so that there are never more than were in use at a time.
    ///
    /// # Errors
    /// A host that pins no more.
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

/// Page-locked memory.
struct Block {
    at: *mut u8,
    bytes: usize,
    /// The queue that copies from and to it.
    copying: Arc<CudaStream>,
}

// SAFETY: plain memory that only the copying queue reads and writes, in its order; nobody on the host does.
unsafe impl Send for Block {}

impl Block {
    fn new(copying: &Arc<CudaStream>, bytes: usize) -> Result<Block> {
        copying.context().bind_to_thread().map_err(driver)?;
        // SAFETY: nothing reads it before a copy has written it.
        let at = unsafe { result::malloc_host(bytes.max(1), 0) };
        // not by the driver's words: "out of memory" would be taken for the card's
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
        // a copy may be under way; a queue that failed copies no more
        let _ = self.copying.synchronize();
        // SAFETY: `malloc_host` gave it, nobody else holds it, and nothing is copied from or to it any more.
        let _ = unsafe { result::free_host(self.at.cast()) };
    }
}

/// Pinned memory on loan. Whoever gets it next has it copied to by the same queue, behind all that was asked for before.
struct Pinned {
    /// `None` only while it is dropped.
    block: Option<Block>,
    pool: PinnedPool,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pool.free().extend(self.block.take());
    }
}

/// A copy under way: when this goes, the main queue waits for it, and only then is the tensor's memory anybody else's.
struct Copying {
    // in this order: what is dropped first
    done: Done,
    tensor: Tensor,
}

/// A copy's event, waited for by the main queue when it is dropped.
struct Done {
    event: CudaEvent,
    main: Arc<CudaStream>,
}

impl Drop for Done {
    fn drop(&mut self) {
        if self.main.wait(&self.event).is_err() {
            let _ = self.event.synchronize(); // the device failed: there is nobody left to wait for
        }
    }
}

impl Copying {
    /// Lets the main queue wait for the copy, and gives the tensor back.
    fn finished(self) -> Tensor {
        let Copying { done, tensor } = self;
        drop(done);
        tensor
    }
}

/// A tensor that is being copied to pinned memory.
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

/// A tensor that is being copied back.
pub struct Coming {
    copy: Copying,
    /// Goes back to its pool with this.
    _pinned: Pinned,
}

impl Leaving {
    /// Copies a contiguous tensor to pinned memory, behind all that the main queue was asked for so far and beside all that it will be.
    ///
    /// # Errors
    /// A host that pins no more memory, a device that failed.
    pub fn of(gpu: &'static Gpu, tensor: &Tensor, pool: &PinnedPool) -> Result<Leaving> {
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        let pinned = pool.take(gpu, bytes)?;
        let copy = gpu.copy_beside(tensor, &pinned, bytes, Way::Down)?;
        let like = (tensor.dims().to_vec(), tensor.dtype(), bytes);
        let away = Away { pinned, like, gpu };
        Ok(Leaving { copy, away })
    }

    /// Lets go of the tensor: what the main queue does next waits for the copy.
    pub fn gone(self) -> Away {
        drop(self.copy.finished());
        self.away
    }
}

impl Away {
    /// Makes room and copies the values back into it, beside all that the main queue will be asked for.
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
    /// The tensor: what the main queue does next waits for the copy.
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
    /// The queue that copies beside the main one; opened when it is first wanted.
    fn copying(&self) -> Result<&Arc<CudaStream>> {
        static ONE: OnceLock<std::result::Result<Arc<CudaStream>, DriverError>> = OnceLock::new();
        let context = self.device.cuda_stream().context().clone();
        let one = ONE.get_or_init(|| context.new_stream());
        one.as_ref().map_err(|e| driver(*e))
    }

    /// Copies between a tensor and pinned memory of at least as many bytes.
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
        // the values are there, or whoever had the memory before is done with it
        copying.join(&main).map_err(driver)?;
        let (host, queue) = (block.at.cast(), copying.cu_stream());
        // SAFETY: the tensor has so many bytes from `at` on, the block no fewer; both are held until the copy is done (`Copying`
        // and `Block` see to it), and nothing else writes to them meanwhile: hidden states never change in place, and fresh room
        // is nobody else's.
        let begun = unsafe {
            match way {
                Way::Down => sys::cuMemcpyDtoHAsync_v2(host, at.0, bytes, queue),
                Way::Up => sys::cuMemcpyHtoDAsync_v2(at.0, host.cast_const(), bytes, queue),
            }
        };
        begun.result().map_err(driver)?;
        // without an event to wait for nothing may be let go before the copy is done
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
