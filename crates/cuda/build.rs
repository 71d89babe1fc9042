//! With the feature `cuda`, compiles each kernel source with nvcc into a fat binary for the compute
//! capabilities in `RANDORI_CUDA_ARCHS` (default `80,86,89,90`), with PTX of the last for newer
//! GPUs. nvcc is `NVCC`, or is found under `CUDA_HOME` or `CUDA_PATH`, or in `PATH`.
use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    for variable in ["RANDORI_CUDA_ARCHS", "NVCC", "CUDA_HOME", "CUDA_PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let kernels = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("kernels");
    println!("cargo:rerun-if-changed={}", kernels.display());
    println!("cargo:rerun-if-changed=src/gpu/symbols.txt");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("trampolines.s"), trampolines()?)?;
    let (nvcc, codes) = (nvcc(), codes()?);
    let mut sources: Vec<PathBuf> = fs::read_dir(&kernels)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    sources.sort();
    let jobs: usize = env::var("NUM_JOBS")?.parse()?;
    let mut names = Vec::new();
    for some in sources.chunks(jobs.max(1)) {
        let running: Vec<_> = some
            .iter()
            .map(|source| {
                let to = out.join(
                    source
                        .with_extension("fatbin")
                        .file_name()
                        .unwrap_or_default(),
                );
                start(&nvcc, &codes, source, &to).map(|child| (source, to, child))
            })
            .collect::<Result<_, _>>()?;
        for (source, to, child) in running {
            let done = child.wait_with_output()?;
            if !done.status.success() {
                return Err(format!(
                    "nvcc refused {}:\n{}",
                    source.display(),
                    String::from_utf8_lossy(&done.stderr)
                )
                .into());
            }
            names.push(to);
        }
    }
    let images: String = names
        .iter()
        .map(|n| format!("    include_bytes!({:?}),\n", n.display().to_string()))
        .collect();
    fs::write(out.join("images.rs"), format!("&[\n{images}]\n"))?;
    Ok(())
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = env::var_os("NVCC") {
        return nvcc.into();
    }
    ["CUDA_HOME", "CUDA_PATH"]
        .iter()
        .filter_map(env::var_os)
        .map(|home| Path::new(&home).join("bin/nvcc"))
        .find(|nvcc| nvcc.exists())
        .unwrap_or_else(|| "nvcc".into())
}

/// nvcc's options for the compute capabilities.
fn codes() -> Result<Vec<String>, Box<dyn Error>> {
    let wanted = env::var("RANDORI_CUDA_ARCHS").unwrap_or_else(|_| "80,86,89,90".into());
    let mut options = Vec::new();
    let mut last = None;
    for arch in wanted.split(',').map(str::trim) {
        let number: u32 = arch.parse().map_err(|_| {
            format!("RANDORI_CUDA_ARCHS: `{arch}` is no compute capability such as 86")
        })?;
        if number < 80 {
            return Err(format!(
                "RANDORI_CUDA_ARCHS: {number}: the kernels want bf16 tensor cores, from 80 on"
            )
            .into());
        }
        options.push(format!("-gencode=arch=compute_{number},code=sm_{number}"));
        last = last.max(Some(number));
    }
    if let Some(last) = last {
        options.push(format!("-gencode=arch=compute_{last},code=compute_{last}"));
    }
    Ok(options)
}

fn start(
    nvcc: &Path,
    codes: &[String],
    source: &Path,
    to: &Path,
) -> Result<std::process::Child, Box<dyn Error>> {
    Command::new(nvcc)
        .args(["-std=c++17", "-O3", "-fatbin", "-lineinfo"])
        .args(codes)
        .arg("-o")
        .arg(to)
        .arg(source)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .map_err(|e| {
            format!("the feature `cuda` wants NVIDIA's compiler: {} does not start ({e}); set CUDA_HOME or NVCC", nvcc.display()).into()
        })
}

/// Assembly with a jump for every CUDA function through a table, `randori_cuda_slots`, so that the
/// program starts without the libraries. src/gpu/libraries.rs fills the table when it loads them;
/// until then, and always for cudart's functions, a jump leads to `randori_cuda_missing`.
fn trampolines() -> Result<String, Box<dyn Error>> {
    let names = fs::read_to_string("src/gpu/symbols.txt")?;
    let arch = env::var("CARGO_CFG_TARGET_ARCH")?;
    // candle-flash-attn launches its kernels through cudart, which is then linked
    let flash = env::var_os("CARGO_FEATURE_FLASH_ATTN").is_some();
    let (mut code, mut table) = (String::from(".text\n"), String::new());
    for (i, line) in names.lines().filter(|l| !l.starts_with('#')).enumerate() {
        let (library, name) = line
            .split_once(' ')
            .ok_or("symbols.txt: a line is `library function`")?;
        table += "    .quad randori_cuda_missing\n";
        if flash && library == "cudart" {
            continue;
        }
        let jump = match arch.as_str() {
            "x86_64" => format!("    jmp *randori_cuda_slots+{}(%rip)\n", 8 * i),
            "aarch64" => format!(
                "    adrp x16, randori_cuda_slots+{0}\n    ldr x16, [x16, :lo12:randori_cuda_slots+{0}]\n    br x16\n",
                8 * i
            ),
            other => {
                return Err(
                    format!("the feature `cuda` knows x86_64 and aarch64, not {other}").into(),
                );
            }
        };
        code += &format!(
            ".globl {name}\n.hidden {name}\n.type {name}, %function\n.p2align 4\n{name}:\n{jump}"
        );
    }
    Ok(format!(
        "{code}.data\n.p2align 3\n.globl randori_cuda_slots\n.hidden randori_cuda_slots\nrandori_cuda_slots:\n{table}.text\n"
    ))
}
