//! Says which GPU there is, or what is missing.
fn main() {
    match randori_cuda::gpu::Gpu::open() {
        Ok(gpu) => println!("{}: {:?} bytes free, of", gpu.name(), gpu.memory()),
        Err(e) => println!("no GPU: {e}"),
    }
}
