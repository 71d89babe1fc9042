//! A plugin in the working directory is refused, however it is named. It is the only test of its
//! program, since it changes the directory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test may

mod recorder;

use std::{env, fs, path::PathBuf};

use recorder::{library, only};

#[test]
fn the_working_directory_is_refused() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("working directory");
    fs::create_dir_all(&dir).unwrap();
    let name = PathBuf::from(library("misbehave").file_name().unwrap());
    fs::copy(library("misbehave"), dir.join(&name)).unwrap();
    only(&[dir.join(&name)]).unwrap();
    env::set_current_dir(&dir).unwrap();
    for file in [
        dir.join(&name),
        name.clone(),
        PathBuf::from(".").join(&name),
    ] {
        let error = only(&[file]).err().expect("it was loaded").to_string();
        let says = "plugins are never loaded from the working directory; move it";
        assert!(error.contains(says), "{error}");
    }
    // a folder inside the working directory is allowed, since somebody named it
    fs::create_dir_all("mine").unwrap();
    let inside = PathBuf::from("mine").join(&name);
    fs::copy(&name, &inside).unwrap();
    only(&[inside]).unwrap();
}
