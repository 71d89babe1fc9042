//! The command line described for other programs: completions for a shell, pages for `man`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::Shell;

/// The script by which a shell completes verbs and options.
pub fn completions(mut command: Command, shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "randori", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Writes `randori.1` and a page for each verb (`randori-run.1`) into a folder, which is made.
pub fn manual(command: Command, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)
        .and_then(|()| clap_mangen::generate_to(command, folder))
        .with_context(|| folder.display().to_string())
}
