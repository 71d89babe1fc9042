//! One GPU: its memory, its queue, this crate's kernels and cuBLAS's products on candle's CUDA
//! tensors.
#[cfg(feature = "flash-attn")]
pub mod flash;
pub mod host;
mod libraries;
pub mod product;

use std::{
    collections::HashMap,
    ffi::c_void,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use candle_core::{
    CudaDevice, DType, Device, Storage, Tensor,
    cuda_backend::{
        CudaStorageSlice,
        cudarc::driver::{CudaFunction, CudaModule, DevicePtr, result, sys},
    },
};

use crate::{Arg, Error, Float, Grid, Launch, Ptr, Result};

/// Every kernel, compiled: a fat binary for each source.
const IMAGES: &[&[u8]] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The open GPU; there is one per process.
pub struct Gpu {
    device: CudaDevice,
    modules: Vec<Arc<CudaModule>>,
    /// Kernels by name, with the dynamic shared memory that each may use.
    kernels: Mutex<HashMap<String, Kernel>>,
}

#[derive(Clone)]
struct Kernel {
    function: CudaFunction,
    shared: u32,
}

/// Bytes of dynamic shared memory that a kernel may use by default.
const SHARED: u32 = 48 << 10;

impl Gpu {
    /// The process's GPU: number `RANDORI_GPU`, or 0.
    ///
    /// # Errors
    /// What is missing: a library, a driver, a card, kernels for this card.
    pub fn open() -> Result<&'static Gpu> {
        static ONE: OnceLock<std::result::Result<Gpu, String>> = OnceLock::new();
        ONE.get_or_init(|| Gpu::new().map_err(|e| e.to_string()))
            .as_ref()
            .map_err(|e| Error::rule(e.clone()))
    }

    fn new() -> Result<Gpu> {
        libraries::load()?;
        let number = std::env::var("RANDORI_GPU").unwrap_or_else(|_| "0".into());
        let number: usize = number.parse().map_err(|_| {
            Error::rule(format!(
                "RANDORI_GPU must be a GPU's number, not {number:?}"
            ))
        })?;
        // one queue for all threads: candle's default device has one for each thread, which are not
        // ordered with each other
        let device = CudaDevice::new_with_stream(number)
            .map_err(|e| Error::rule(format!("GPU {number} does not open: {}", plain(&e))))?;
        // SAFETY: everything runs on one queue, in order, so that nothing is read before it is
        // written.
        unsafe { device.disable_event_tracking() };
        keep_memory(&device);
        let context = device.cuda_stream().context().clone();
        let modules = IMAGES
            .iter()
            .map(|image| {
                let binary = candle_core::cuda_backend::cudarc::nvrtc::Ptx::from_binary(image.to_vec());
                context.load_module(binary)
            })
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(|e| {
                let card = context.compute_capability().map_or_else(|_| "?".into(), |(a, b)| format!("{a}.{b}"));
                Error::rule(format!(
                    "the kernels in this program do not fit this card (compute capability {card}): {e}; build with RANDORI_CUDA_ARCHS naming it"
                ))
            })?;
        Ok(Gpu {
            device,
            modules,
            kernels: Mutex::default(),
        })
    }

    /// The GPU as a candle device.
    pub fn device(&self) -> Device {
        Device::Cuda(self.device.clone())
    }

    /// The card's name, as its driver gives it.
    pub fn name(&self) -> String {
        self.device
            .cuda_stream()
            .context()
            .name()
            .unwrap_or_else(|_| "an NVIDIA GPU".into())
    }

    /// Free and total memory in bytes.
    ///
    /// # Errors
    /// A device that failed.
    pub fn memory(&self) -> Result<(usize, usize)> {
        self.device
            .cuda_stream()
            .context()
            .mem_get_info()
            .map_err(driver)
    }

    /// Peak memory of tensors in bytes, since the start or [`Gpu::forget_peak`].
    ///
    /// # Errors
    /// A driver that does not report it.
    pub fn peak(&self) -> Result<u64> {
        let silent = || Error::rule("this driver does not tell how much memory was used");
        let pool = pool(&self.device).ok_or_else(silent)?;
        let mut most = 0u64;
        let what = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: the pool is the device's, and the attribute a u64.
        let done = unsafe { sys::cuMemPoolGetAttribute(pool, what, (&raw mut most).cast()) };
        match done {
            sys::CUresult::CUDA_SUCCESS => Ok(most),
            _ => Err(silent()),
        }
    }

    /// Resets [`Gpu::peak`] to the memory in use now.
    ///
    /// # Errors
    /// A driver that does not support it.
    pub fn forget_peak(&self) -> Result<()> {
        let silent = || Error::rule("this driver does not count how much memory is used");
        let pool = pool(&self.device).ok_or_else(silent)?;
        let mut zero = 0u64; // the only value that the driver takes
        let what = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        // SAFETY: the pool is the device's, and the attribute a u64.
        let done = unsafe { sys::cuMemPoolSetAttribute(pool, what, (&raw mut zero).cast()) };
        match done {
            sys::CUresult::CUDA_SUCCESS => Ok(()),
            _ => Err(silent()),
        }
    }

    /// Waits for all queued work.
    ///
    /// # Errors
    /// An error in that work.
    pub fn synchronise(&self) -> Result<()> {
        self.device.cuda_stream().synchronize().map_err(driver)
    }

    /// An uninitialised tensor: every value must be written before it is read.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn room(&self, dims: &[usize], dtype: DType) -> Result<Tensor> {
        // SAFETY: plain numbers; callers write all of it (each says so).
        unsafe { Tensor::empty(dims, dtype, &self.device()) }.map_err(memory)
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn zeros(&self, dims: &[usize], dtype: DType) -> Result<Tensor> {
        Tensor::zeros(dims, dtype, &self.device()).map_err(memory)
    }

    /// A one-dimensional tensor of these values on the GPU.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn upload<T: candle_core::WithDType>(&self, values: &[T]) -> Result<Tensor> {
        Tensor::from_slice(values, values.len(), &self.device()).map_err(memory)
    }

    /// Managed memory, visible to the host and the GPU, for tests; it is never freed.
    ///
    /// # Errors
    /// Not enough memory.
    pub fn shared(&self, bytes: usize) -> Result<Ptr> {
        use sys::CUmemAttach_flags_enum::CU_MEM_ATTACH_GLOBAL;
        self.device
            .cuda_stream()
            .context()
            .bind_to_thread()
            .map_err(driver)?;
        // SAFETY: plain memory, of which only the address is handed out.
        let at = unsafe { result::malloc_managed(bytes.max(1), CU_MEM_ATTACH_GLOBAL) };
        Ok(Ptr(at.map_err(driver)?))
    }

    /// Copies bytes from one device address to another, in the queue's order.
    ///
    /// # Errors
    /// A device that failed.
    pub fn copy(&self, from: Ptr, to: Ptr, bytes: usize) -> Result<()> {
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().map_err(driver)?;
        // SAFETY: whoever calls has room for as many bytes at both addresses.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, stream.cu_stream()) }
            .map_err(driver)
    }

    fn kernel(&self, name: &str) -> Result<Kernel> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        let function = self
            .modules
            .iter()
            .find_map(|m| m.load_function(name).ok())
            .ok_or_else(|| Error::rule(format!("there is no kernel `{name}`")))?;
        let kernel = Kernel {
            function,
            shared: SHARED,
        };
        kernels.insert(name.into(), kernel.clone());
        Ok(kernel)
    }

    /// Raises a kernel's limit of dynamic shared memory above the default.
    fn widen(&self, name: &str, kernel: &Kernel, bytes: u32) -> Result<()> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as MOST;
        kernel.function.set_attribute(MOST, bytes as i32).map_err(|e| {
            Error::rule(format!("`{name}` wants {bytes} bytes of shared memory, which this card does not have: {e}"))
        })?;
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get_mut(name) {
            kernel.shared = kernel.shared.max(bytes);
        }
        Ok(())
    }
}

impl Launch for Gpu {
    fn launch(&self, name: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        let kernel = self.kernel(name)?;
        if grid.shared > kernel.shared {
            self.widen(name, &kernel, grid.shared)?;
        }
        let stream = self.device.cuda_stream();
        stream.context().bind_to_thread().map_err(driver)?;
        let mut places: Vec<*mut c_void> = args.iter().map(|a| a.address().cast_mut()).collect();
        let ([x, y, z], [a, b, c]) = (grid.blocks, grid.threads);
        // SAFETY: the ops of this crate give every kernel the arguments it declares (tested on the
        // emulator, which runs the same calls); `places` outlives the call, which copies what it
        // points to.
        unsafe {
            result::launch_kernel(
                kernel.function.cu_function(),
                (x, y, z),
                (a, b, c),
                grid.shared,
                stream.cu_stream(),
                &mut places,
            )
        }
        .map_err(|e| Error::rule(format!("the GPU refused `{name}` on {grid:?}: {e}")))
    }
}

/// The type of a tensor's values.
///
/// # Errors
/// Neither f32 nor bf16.
pub fn float(t: &Tensor) -> Result<Float> {
    match t.dtype() {
        DType::F32 => Ok(Float::F32),
        DType::BF16 => Ok(Float::Bf16),
        other => Err(Error::rule(format!(
            "the GPU computes on f32 and bf16, not {other:?}"
        ))),
    }
}

/// The device address of a contiguous tensor, valid for launches as long as the tensor lives:
/// memory is freed in the queue's order.
///
/// # Errors
/// A tensor that does not lie on the GPU, or is not contiguous.
pub fn ptr(t: &Tensor) -> Result<Ptr> {
    let (storage, layout) = t.storage_and_layout();
    let Some((start, _)) = layout.contiguous_offsets() else {
        return Err(Error::rule(format!(
            "a kernel wants contiguous values, not {:?}",
            layout
        )));
    };
    let Storage::Cuda(cuda) = &*storage else {
        return Err(Error::rule(
            "a kernel wants values on the GPU; these are in the machine's memory",
        ));
    };
    let stream = cuda.device.cuda_stream();
    macro_rules! address {
        ($($kind:ident),*) => {
            match &cuda.slice {
                $(CudaStorageSlice::$kind(s) => s.device_ptr(&stream).0,)*
                _ => return Err(Error::rule(format!("no kernel takes {:?}", t.dtype()))),
            }
        };
    }
    let base = address!(U8, U32, I32, I64, BF16, F16, F32, F64);
    Ok(Ptr(base).offset(start * t.dtype().size_in_bytes()))
}

/// The device's memory pool, unless the driver has none.
fn pool(device: &CudaDevice) -> Option<sys::CUmemoryPool> {
    let context = device.cuda_stream().context().clone();
    if !context.has_async_alloc() {
        return None;
    }
    let mut pool = std::ptr::null_mut();
    // SAFETY: the device is open, and the pool lives as long as it.
    let done = unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, context.cu_device()) };
    (done == sys::CUresult::CUDA_SUCCESS).then_some(pool)
}

/// Makes the pool keep freed memory: returning it to the system and allocating it anew would wait
/// for the GPU every time.
fn keep_memory(device: &CudaDevice) {
    let Some(pool) = pool(device) else {
        return;
    };
    let mut most = u64::MAX;
    // SAFETY: the pool is the device's; a driver that refuses leaves its default, which is only
    // slower.
    unsafe {
        let what = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        let _ = sys::cuMemPoolSetAttribute(pool, what, (&raw mut most).cast());
    }
}

fn driver(e: candle_core::cuda_backend::cudarc::driver::DriverError) -> Error {
    Error::rule(format!("the GPU failed: {e}"))
}

/// Sorts out-of-memory errors from the others: their caller may retry with less.
fn memory(e: candle_core::Error) -> Error {
    let text = e.to_string();
    if text.contains("OUT_OF_MEMORY") || text.contains("out of memory") {
        return Error::OutOfMemory(plain(&e));
    }
    Error::Candle(e)
}

/// An error's first line: candle appends a backtrace.
fn plain(e: &candle_core::Error) -> String {
    e.to_string().lines().next().unwrap_or_default().to_string()
}
