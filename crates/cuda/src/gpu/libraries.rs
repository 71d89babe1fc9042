//! Loads CUDA's libraries at their first use. candle and cudarc link them, so a program built with
//! them would not start where one is missing. Here every function that they may call is a jump
//! through a table that [`load`] fills (`build.rs` writes the jumps), so that nothing is left for
//! the linker to take from the libraries.

use std::{
    ffi::{CString, c_void},
    sync::OnceLock,
};

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::{Error, Result};

const SYMBOLS: &str = include_str!("symbols.txt");

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    include_str!(concat!(env!("OUT_DIR"), "/trampolines.s")),
    options(att_syntax)
);
#[cfg(not(target_arch = "x86_64"))]
std::arch::global_asm!(include_str!(concat!(env!("OUT_DIR"), "/trampolines.s")));

unsafe extern "C" {
    static mut randori_cuda_slots: [*const c_void; 0];
}

/// Stands for every function whose library is missing, and returns CUDA_ERROR_NO_DEVICE, which is
/// an error for cublas, curand, nvrtc and cudart as well. The start-up code of candle's kernels
/// calls it as cudart before `main`, without effect.
#[unsafe(no_mangle)]
extern "C" fn randori_cuda_missing() -> i32 {
    100
}

/// The libraries by their names in symbols.txt, with the files to try. cudart is not among them:
/// kernels registered with it before `main` went to [`randori_cuda_missing`], so it must not be
/// called.
const LIBRARIES: [(&str, &[&str]); 5] = [
    ("cuda", &["libcuda.so.1", "libcuda.so"]),
    (
        "cublasLt",
        &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
    ),
    (
        "cublas",
        &["libcublas.so.13", "libcublas.so.12", "libcublas.so"],
    ),
    ("curand", &["libcurand.so.10", "libcurand.so"]),
    (
        "nvrtc",
        &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
    ),
];

/// Loads the libraries; only the first call does anything.
///
/// # Errors
/// The missing libraries, and where they were looked for.
pub(super) fn load() -> Result<()> {
    static DONE: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    DONE.get_or_init(find).clone().map_err(Error::Rule)
}

fn find() -> std::result::Result<(), String> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for (name, files) in LIBRARIES {
        match open(files) {
            Ok(library) => found.push((name, library)),
            // only candle's own kernels are compiled at run time, and none of them is used
            Err(_) if name == "nvrtc" => {}
            Err(why) => missing.push(format!("{}: {why}", files[0])),
        }
    }
    if !missing.is_empty() {
        return Err(format!(
            "this machine cannot compute on an NVIDIA GPU. Missing: {}. The first comes with NVIDIA's driver, the others with the CUDA toolkit, 12 or 13; if they are installed, name their folder in LD_LIBRARY_PATH",
            missing.join("; ")
        ));
    }
    for (i, line) in SYMBOLS.lines().filter(|l| !l.starts_with('#')).enumerate() {
        let Some((library, name)) = line.split_once(' ') else {
            continue;
        };
        let Some((_, library)) = found.iter().find(|(n, _)| *n == library) else {
            continue;
        };
        let Ok(name) = CString::new(name) else {
            continue;
        };
        // SAFETY: only the address is taken. Functions that this version lacks keep returning
        // CUDA_ERROR_NO_DEVICE.
        let address = unsafe { library.get::<*const c_void>(name.as_bytes_with_nul()) };
        if let Ok(address) = address {
            // SAFETY: the table has a slot for every line of symbols.txt, in their order; it is
            // written here alone, once, before any function of the libraries is called.
            unsafe {
                let slots = (&raw mut randori_cuda_slots).cast::<*const c_void>();
                slots.add(i).write(address.as_raw_ptr().cast_const());
            }
        }
    }
    for (_, library) in found {
        std::mem::forget(library); // the table points into it until the process ends
    }
    Ok(())
}

fn open(files: &[&str]) -> std::result::Result<Library, String> {
    let mut first = None;
    for file in files {
        // SAFETY: NVIDIA's libraries may be loaded by anyone at any time.
        match unsafe { Library::open(Some(*file), RTLD_NOW | RTLD_LOCAL) } {
            Ok(library) => return Ok(library),
            Err(e) => first = first.or(Some(e.to_string())),
        }
    }
    Err(first.unwrap_or_default())
}
