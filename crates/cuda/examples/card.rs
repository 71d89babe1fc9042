//! Prints the GPU's name and memory, or what is missing: `cargo run --release -p randori-cuda
//! --features cuda --example card`.
use randori_cuda::gpu::Gpu;

fn main() {
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    match Gpu::open().and_then(|gpu| Ok((gpu.name(), gpu.memory()?))) {
        Ok((name, (free, all))) => {
            println!("{name}: {:.1} of {:.1} GiB free", gib(free), gib(all));
        }
        Err(e) => println!("no GPU: {e}"),
    }
}
