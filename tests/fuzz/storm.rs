//! Runs one reader on ten thousand damaged files: each must be an error or a valid load, with
//! bounded time and memory.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, Once},
    time::{Duration, Instant},
};

use super::mutate::{Kind, Rng, mutate};

/// Memory that a case may hold at once: a buffer or two, and a multiple of the file.
const BUFFERS: usize = 64 << 20;
const TIMES_THE_FILE: usize = 40;
/// A case takes milliseconds; a loop over a number in the file takes for ever.
const SLOW: Duration = Duration::from_secs(5);
const HANGS: Duration = Duration::from_secs(60);

/// An allocator that counts each thread's bytes.
pub struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
    static READING: Cell<bool> = const { Cell::new(false) };
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

fn grow(bytes: usize) {
    let held = HELD.get().saturating_add(bytes);
    HELD.set(held);
    PEAK.set(PEAK.get().max(held));
}

// SAFETY: every call is passed on as it is; the counters are plain cells of the thread, without
// destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        grow(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.set(HELD.get().saturating_sub(layout.size()));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The cases that run now: thread's name, case, since when.
static RUNNING: Mutex<Vec<(String, u64, Instant)>> = Mutex::new(Vec::new());
static WATCH: Once = Once::new();

fn note(name: &str, case: Option<u64>) {
    let mut running = RUNNING.lock().unwrap();
    running.retain(|(n, ..)| n != name);
    running.extend(case.map(|case| (name.to_string(), case, Instant::now())));
}

fn watch() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| match READING.get() {
        true => PANIC.set(format!("{info}")),
        false => usual(info),
    }));
    std::thread::spawn(|| {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let running = RUNNING.lock().unwrap();
            if let Some((name, case, _)) =
                running.iter().find(|(.., since)| since.elapsed() > HANGS)
            {
                eprintln!("{name}: case {case} hangs");
                std::process::abort();
            }
        }
    });
}

/// How many cases: `RANDORI_FUZZ_CASES` for more, `RANDORI_FUZZ_CASE` for one.
fn cases(usual: u64) -> std::ops::Range<u64> {
    let number = |key: &str| std::env::var(key).ok().and_then(|v| v.parse::<u64>().ok());
    match number("RANDORI_FUZZ_CASE") {
        Some(one) => one..one + 1,
        None => 0..number("RANDORI_FUZZ_CASES").unwrap_or(usual),
    }
}

/// Saves a case's file where `RANDORI_FUZZ_KEEP` says.
fn keep(name: &str, case: u64, damaged: &[u8]) {
    if let Ok(dir) = std::env::var("RANDORI_FUZZ_KEEP") {
        let file = format!("{}-{case}", name.replace(' ', "-"));
        std::fs::write(std::path::Path::new(&dir).join(file), damaged).unwrap();
    }
}

/// Damages each of `inputs` in turn, `count` times in all, and gives it to `read`, which answers
/// whether it was valid.
pub fn storm(
    name: &str,
    kind: Kind,
    inputs: &[Vec<u8>],
    count: u64,
    read: &mut dyn FnMut(&[u8]) -> bool,
) {
    WATCH.call_once(watch);
    for input in inputs {
        assert!(read(input), "{name}: the undamaged file must be read");
    }
    let (mut faults, mut valid, mut refused) = (Vec::new(), 0, 0);
    let begun = Instant::now();
    for case in cases(count) {
        let mut rng = Rng::new(name, case);
        let input = &inputs[(case % inputs.len() as u64) as usize];
        let damaged = mutate(&mut rng, kind, input);
        note(name, Some(case));
        if std::env::var("RANDORI_FUZZ_CASE").is_ok() {
            keep(name, case, &damaged);
        }
        let (start, held) = (Instant::now(), HELD.get());
        PEAK.set(held);
        READING.set(true);
        let result = catch_unwind(AssertUnwindSafe(|| read(&damaged)));
        READING.set(false);
        let (took, peak) = (start.elapsed(), PEAK.get().saturating_sub(held));
        let fault = match result {
            Err(_) => Some(format!("panics: {}", PANIC.take())),
            Ok(_) if took > SLOW => Some(format!("takes {took:?}")),
            Ok(_) if peak > BUFFERS + TIMES_THE_FILE * damaged.len() => Some(format!(
                "takes {} MiB for {} bytes",
                peak >> 20,
                damaged.len()
            )),
            Ok(true) => {
                valid += 1;
                None
            }
            Ok(false) => {
                refused += 1;
                None
            }
        };
        if let Some(what) = fault {
            keep(name, case, &damaged);
            faults.push(format!("case {case}: {what}"));
        }
    }
    note(name, None);
    println!(
        "{name}: {valid} valid, {refused} refused, {:?}",
        begun.elapsed()
    );
    assert!(
        faults.is_empty(),
        "{name}: {} faults\n{}",
        faults.len(),
        faults[..faults.len().min(12)].join("\n")
    );
    assert!(
        refused > 0 || count < 100,
        "{name}: nothing was refused, so nothing was damaged"
    );
}
