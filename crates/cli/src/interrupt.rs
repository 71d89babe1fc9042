//! Ctrl-C, a hang-up and the request to end (SIGTERM) that schedulers send: the first lets a
//! training that runs end its step and be saved, says what is saved and how to go on, and ends the
//! program; a second ends it at once. Nothing has to be finished for that: whatever is saved is
//! whole at every moment, and what is half written is removed.

use std::process::exit;
use std::thread;

use crate::progress::{Console, INTERRUPTED};

/// Answers Ctrl-C from now on. A process that was started deaf to it stays so.
pub fn answer(console: &Console) {
    let console = console.clone();
    let mut is_first = true;
    // where there can be no handler, Ctrl-C ends the program as ever
    let _ = ctrlc::try_set_handler(move || {
        if !std::mem::take(&mut is_first) {
            exit(INTERRUPTED);
        }
        let console = console.clone();
        // apart: reading what is saved could take its time, and the second must not wait for it
        thread::spawn(move || {
            if !console.asks_to_stop() {
                console.end();
            }
        });
    });
}
