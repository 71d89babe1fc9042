//! Says whether the demo's weights are there to be embedded: `randori sft` makes them, so the first build is without.
fn main() {
    let weights = "../../configs/demo/model/model.safetensors";
    println!("cargo::rustc-check-cfg=cfg(demo_weights)");
    println!("cargo::rerun-if-changed={weights}");
    if std::path::Path::new(weights).exists() {
        println!("cargo::rustc-cfg=demo_weights");
    }
}
