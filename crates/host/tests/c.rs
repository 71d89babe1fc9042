//! A loss plugin written in C against the generated header: compiled, loaded, its slopes checked,
//! evaluated.
#![cfg(unix)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::recorder::{library, only, stock};
use randori_host::Host;
use randori_sdk::seam::{GENERATED, REAL, Rows, Value};

/// Compiles `loss.c`; `None`, loudly, where there is no C compiler.
fn compile(folder: &str, flags: &[&str]) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(folder);
    fs::create_dir_all(&dir).unwrap();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = dir.join(library("c_loss").file_name().unwrap());
    let output = Command::new("cc")
        .args([
            "-shared",
            "-fPIC",
            "-O2",
            "-std=c11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pedantic",
        ])
        .args(flags)
        .arg("-I")
        .arg(here.join("../sdk/include"))
        .arg(here.join("tests/loss.c"))
        .arg("-o")
        .arg(&out)
        .arg("-lm")
        .output();
    let Ok(output) = output else {
        eprintln!("SKIPPED: there is no C compiler `cc` here");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    Some(out)
}

fn beta(host: &Host, name: &str, beta: f64) -> Result<f64, String> {
    let options = [("beta".to_owned(), Value::Float(beta))];
    let loss = host.loss(name, &options).map_err(|e| e.to_string())?;
    let out = loss.eval(&Rows {
        groups: 2,
        group: &[0, 1, 1, 0],
        role: &[REAL, GENERATED, REAL, GENERATED],
        logp: &[-10.0, -12.0, -8.0, -20.0],
        ref_logp: &[-11.0, -12.5, -9.0, -17.0],
        len: &[4, 5, 6, 7],
        reward: None,
        progress: 0.0,
    })?;
    if name == "spin_in_c" {
        assert_eq!(out.metrics, [("margin".to_owned(), (4.0 + 0.5) / 2.0)]);
    }
    Ok(out.loss.iter().sum::<f64>() + 10.0 * out.d_logp.iter().map(|d| d * d).sum::<f64>())
}

#[test]
fn a_loss_in_c_is_the_loss_in_rust() {
    let Some(file) = compile("c", &[]) else {
        return;
    };
    let host = only(&[file]).unwrap();
    let plugin = &host.plugins()[0];
    assert_eq!(
        (plugin.name.as_str(), plugin.version.as_str()),
        ("c-loss", "1.0.0")
    );
    assert_eq!(plugin.items[0].options[0].default, Value::Float(0.1));
    for b in [0.1, 1.0, 30.0] {
        let (c, rust) = (beta(&host, "spin_in_c", b), beta(&stock(), "spin", b));
        let (c, rust) = (c.unwrap(), rust.unwrap());
        assert!(
            (c - rust).abs() < 1e-12 * rust.abs(),
            "beta {b}: {c} {rust}"
        );
    }
    let error = host.loss("spin_in_c", &[("betta".to_owned(), Value::Float(0.1))]);
    let error = error.err().unwrap().to_string();
    assert_eq!(error, "spin_in_c has no option `betta`; it has: beta");
}

#[test]
fn a_loss_in_c_with_wrong_slopes_is_refused() {
    let Some(file) = compile("wrong c", &["-DWRONG"]) else {
        return;
    };
    let error = beta(&only(&[file]).unwrap(), "spin_in_c", 1.0).unwrap_err();
    assert!(
        error.starts_with("loss spin_in_c: its slope to a log-prob is "),
        "{error}"
    );
}

#[test]
fn the_header_is_also_cxx() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("c++")
        .args(["-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-x", "c++"])
        .arg(here.join("../sdk/include/randori_plugin.h"))
        .output();
    match output {
        Ok(output) => assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        ),
        Err(_) => eprintln!("SKIPPED: there is no C++ compiler `c++` here"),
    }
}
