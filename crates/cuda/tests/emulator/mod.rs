//! Builds the kernels for the CPU and launches them there: see kernels/emulate.hpp. Built with the
//! feature `cuda`, a test program runs the same tests on a GPU when `RANDORI_TEST_GPU` is set, with
//! buffers in memory visible to both sides. `RANDORI_TEST_SEED` changes every test's random input.
#![allow(dead_code)] // every test program uses a part

use std::{
    ffi::{CString, c_char, c_int, c_void},
    hash::{Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, OnceLock},
};

use half::bf16;
use libloading::Library;
use randori_cuda::{Arg, Error, Float, Grid, Launch, Ptr, Result};

type Run =
    unsafe extern "C" fn(*const c_char, *const u32, *const u32, u32, *mut *mut c_void) -> c_int;

/// Launches kernels on the emulator or the GPU, one at a time.
pub struct Emulator {
    on: On,
    turn: Mutex<()>,
}

enum On {
    Host(Library),
    #[cfg(feature = "cuda")]
    Gpu(&'static randori_cuda::gpu::Gpu),
}

/// The GPU, if the tests are to run there.
#[cfg(feature = "cuda")]
fn gpu() -> Option<&'static randori_cuda::gpu::Gpu> {
    std::env::var_os("RANDORI_TEST_GPU")?;
    Some(randori_cuda::gpu::Gpu::open().expect("a GPU, since RANDORI_TEST_GPU is set"))
}

/// The emulator with every kernel, built once per test program; without a C++ compiler `None`, with
/// a message.
pub fn emulator() -> Option<&'static Emulator> {
    static ONE: OnceLock<Option<Emulator>> = OnceLock::new();
    #[cfg(feature = "cuda")]
    if let Some(gpu) = gpu() {
        let there = || {
            Some(Emulator {
                on: On::Gpu(gpu),
                turn: Mutex::new(()),
            })
        };
        return ONE.get_or_init(there).as_ref();
    }
    ONE.get_or_init(build).as_ref()
}

fn build() -> Option<Emulator> {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    if Command::new(&compiler).arg("--version").output().is_err() {
        eprintln!(
            "SKIPPED: no C++ compiler `{compiler}`: the CUDA kernels were not run in the emulator"
        );
        return None;
    }
    let kernels = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let mut sources: Vec<PathBuf> = std::fs::read_dir(&kernels)
        .expect("kernels")
        .map(|f| f.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    // one translation unit: the emulator's state is one
    let all: String = sources
        .iter()
        .map(|s| format!("#include \"{}\"\n", s.display()))
        .collect();
    // one build for all test programs: its name is of what it was made from
    let mut hash = std::hash::DefaultHasher::new();
    include_str!("mod.rs").hash(&mut hash); // which has the options
    for file in std::fs::read_dir(&kernels).expect("kernels") {
        let path = file.expect("entry").path();
        (path.file_name(), std::fs::read(&path).expect("kernel")).hash(&mut hash);
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let ready = folder.join(format!("emulated-{:016x}.so", hash.finish()));
    if !ready.exists() {
        compile(&compiler, &kernels, &all, &ready);
    }
    // SAFETY: our own library, which runs nothing at load but the registration of kernels.
    let library = unsafe { Library::new(&ready) }.expect("the emulated kernels");
    Some(Emulator {
        on: On::Host(library),
        turn: Mutex::new(()),
    })
}

/// Compiles the kernels under a name of this process, then renames the result: another process may
/// be doing the same. Includes the watcher of races and misaligned accesses (kernels/watch.cpp),
/// unless the compiler lacks the instrumentation, with a message.
fn compile(compiler: &str, kernels: &Path, all: &str, ready: &Path) {
    let to = ready.with_extension(format!("{}.so", std::process::id()));
    let (unit, object) = (to.with_extension("cpp"), to.with_extension("o"));
    std::fs::write(&unit, all).expect("unit");
    let run = |args: &[&str], more: &[&Path]| {
        let out = Command::new(compiler)
            .args(["-std=c++17", "-O2", "-g1", "-fPIC", "-w"])
            .args(["-fno-strict-aliasing", "-ffp-contract=off"])
            .args(["-DRANDORI_EMULATE", "-I"])
            .arg(kernels)
            .args(args)
            .args(more)
            .output()
            .expect("compiler");
        if out.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let watched = run(
        &[
            "-DRANDORI_WATCH",
            "-fsanitize=thread,alignment",
            "-fno-sanitize-recover=alignment",
            "-c",
        ],
        &[&unit, Path::new("-o"), &object],
    )
    .and_then(|()| {
        let watcher = kernels.join("watch.cpp");
        run(
            &["-DRANDORI_WATCH", "-shared", "-Wl,-z,defs"],
            &[&object, &watcher, Path::new("-o"), &to],
        )
    });
    if let Err(why) = watched {
        eprintln!("SKIPPED: the search for races and misaligned accesses in kernels: {why}");
        run(&["-shared"], &[&unit, Path::new("-o"), &to])
            .unwrap_or_else(|e| panic!("the kernels do not compile for the emulator:\n{e}"));
    }
    std::fs::rename(&to, ready).expect("renamed");
    let _ = (std::fs::remove_file(unit), std::fs::remove_file(object));
}

impl Launch for Emulator {
    fn launch(&self, kernel: &str, grid: Grid, args: &[Arg]) -> Result<()> {
        let turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        #[allow(
            clippy::infallible_destructuring_match,
            reason = "with a GPU there are two"
        )]
        let library = match &self.on {
            On::Host(library) => library,
            #[cfg(feature = "cuda")]
            On::Gpu(gpu) => {
                gpu.launch(kernel, grid, args)?;
                return gpu.synchronise(); // the host looks at the result next
            }
        };
        let name = CString::new(kernel).expect("name");
        let mut places: Vec<*mut c_void> = args.iter().map(|a| a.address().cast_mut()).collect();
        // SAFETY: the emulator's entry point; arguments live until it returns.
        let code = unsafe {
            let run = library.get::<Run>(b"randori_emulate").expect("entry");
            run(
                name.as_ptr(),
                grid.blocks.as_ptr(),
                grid.threads.as_ptr(),
                grid.shared,
                places.as_mut_ptr(),
            )
        };
        drop(turn);
        match code {
            0 => Ok(()),
            code => Err(Error::Rule(format!(
                "`{kernel}` was not launched on {grid:?}: {code}"
            ))),
        }
    }
}

/// Memory for kernels, with a guard behind it.
pub struct Buffer<T: Copy + 'static> {
    values: Values<T>,
    len: usize,
    guard: T,
}

enum Values<T: Copy + 'static> {
    Host(Vec<T>),
    /// Never freed: a test program ends soon.
    #[cfg(feature = "cuda")]
    Shared(&'static [T]),
}

impl<T: Copy> Values<T> {
    fn new(v: Vec<T>) -> Values<T> {
        #[cfg(feature = "cuda")]
        if let Some(gpu) = gpu() {
            let at = gpu.shared(std::mem::size_of_val(&v[..])).expect("memory");
            let to = at.0 as *mut T;
            // SAFETY: fresh memory of that many values, which the host may write as well as the
            // GPU.
            let values = unsafe {
                std::ptr::copy_nonoverlapping(v.as_ptr(), to, v.len());
                std::slice::from_raw_parts(to, v.len())
            };
            return Values::Shared(values);
        }
        Values::Host(v)
    }
}

impl<T: Copy> std::ops::Deref for Values<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match self {
            Values::Host(v) => v,
            #[cfg(feature = "cuda")]
            Values::Shared(v) => v,
        }
    }
}

const GUARD: usize = 64;

impl<T: Copy + PartialEq + 'static> Buffer<T> {
    /// A buffer of these values, with `guard` behind them.
    pub fn of(values: &[T], guard: T) -> Self {
        let mut v = values.to_vec();
        v.extend(std::iter::repeat_n(guard, GUARD));
        Buffer {
            values: Values::new(v),
            len: values.len(),
            guard,
        }
    }
    /// Its address.
    pub fn ptr(&self) -> Ptr {
        Ptr(self.values.as_ptr() as u64)
    }
    /// The values; panics if the guard was overwritten.
    pub fn get(&self) -> &[T] {
        assert!(
            self.values[self.len..].iter().all(|v| *v == self.guard),
            "a kernel wrote past the end of its buffer"
        );
        &self.values[..self.len]
    }
}

/// A buffer of f32 values.
pub fn floats(values: &[f32]) -> Buffer<f32> {
    Buffer::of(values, 12345.0)
}
/// A buffer for `n` f32 values, filled with NaN.
pub fn room(n: usize) -> Buffer<f32> {
    floats(&vec![f32::from_bits(0x7f80_0001 | 1 << 22); n])
}
/// A buffer of bf16 values, rounded from f32.
pub fn halves(values: &[f32]) -> Buffer<bf16> {
    let v: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
    Buffer::of(&v, bf16::from_f32(12345.0))
}
/// A buffer for `n` bf16 values, filled with NaN.
pub fn half_room(n: usize) -> Buffer<bf16> {
    halves(&vec![f32::NAN; n])
}
/// The values as f64.
pub fn widened(values: &[bf16]) -> Vec<f64> {
    values.iter().map(|v| v.to_f64()).collect()
}

/// Seed of all random input.
fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    *SEED.get_or_init(|| {
        let set = std::env::var("RANDORI_TEST_SEED").ok();
        set.map_or(0, |s| s.parse().expect("RANDORI_TEST_SEED is a number"))
    })
}

/// A buffer of either type.
pub enum Any {
    /// f32
    F32(Buffer<f32>),
    /// bf16
    Bf16(Buffer<bf16>),
}

impl Any {
    /// A buffer of these values, rounded.
    pub fn of(float: Float, v: &[f32]) -> Any {
        match float {
            Float::F32 => Any::F32(floats(v)),
            Float::Bf16 => Any::Bf16(halves(v)),
        }
    }
    /// A buffer for `n` values, filled with NaN.
    pub fn room(float: Float, n: usize) -> Any {
        Any::of(float, &vec![f32::NAN; n])
    }
    /// Its address.
    pub fn ptr(&self) -> Ptr {
        match self {
            Any::F32(b) => b.ptr(),
            Any::Bf16(b) => b.ptr(),
        }
    }
    /// The values.
    pub fn get(&self) -> Vec<f64> {
        match self {
            Any::F32(b) => b.get().iter().map(|v| f64::from(*v)).collect(),
            Any::Bf16(b) => widened(b.get()),
        }
    }
}

/// A reproducible random number generator.
pub struct Dice(pub u64);

impl Dice {
    /// The next word (splitmix64).
    pub fn word(&mut self) -> u64 {
        if self.0 < 1 << 32 {
            self.0 = self.0.wrapping_add(seed() << 32);
        }
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    /// A uniform number in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// An approximately normal number.
    pub fn normal(&mut self) -> f32 {
        ((0..12).map(|_| self.unit()).sum::<f64>() - 6.0) as f32
    }
    /// `n` approximately normal numbers.
    pub fn normals(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }
    /// A whole number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.word() % n as u64) as usize
    }
}

/// Largest difference, relative to the reference's root mean square.
pub fn apart(got: impl IntoIterator<Item = f64>, want: &[f64]) -> f64 {
    let got: Vec<f64> = got.into_iter().collect();
    assert_eq!(got.len(), want.len());
    let rms = (want.iter().map(|w| w * w).sum::<f64>() / want.len().max(1) as f64)
        .sqrt()
        .max(1e-30);
    got.iter()
        .zip(want)
        .map(|(g, w)| {
            if g.is_finite() {
                (g - w).abs() / rms
            } else {
                f64::INFINITY
            }
        })
        .fold(0.0, f64::max)
}
