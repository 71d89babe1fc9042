//! Clocks: wall time, or the CPU time of all threads of this process.
//!
//! On a machine that is shared, only the second measures the code.

use std::time::{Duration, Instant};

use criterion::{
    Criterion,
    measurement::{Measurement, ValueFormatter, WallTime},
};

/// Criterion with the clock that `RANDORI_BENCH_CLOCK` asks for: `wall` (the default) or `cpu`.
pub fn criterion() -> Criterion<Clock> {
    let cpu = match std::env::var("RANDORI_BENCH_CLOCK").as_deref() {
        Err(_) | Ok("wall") => false,
        Ok("cpu") => true,
        Ok(other) => panic!("RANDORI_BENCH_CLOCK is {other:?}; it must be wall or cpu"),
    };
    Criterion::default().with_measurement(Clock {
        cpu,
        begin: Instant::now(),
    })
}

/// A clock chosen at run time.
pub struct Clock {
    cpu: bool,
    begin: Instant,
}

impl Clock {
    fn now(&self) -> Duration {
        match self.cpu {
            true => spent(),
            false => self.begin.elapsed(),
        }
    }
}

/// CPU time of all threads since the process began.
#[cfg(unix)]
fn spent() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn spent() -> Duration {
    panic!("RANDORI_BENCH_CLOCK=cpu needs a Unix system")
}

impl Measurement for Clock {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        self.now()
    }
    fn end(&self, start: Duration) -> Duration {
        self.now() - start
    }
    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }
    fn zero(&self) -> Duration {
        Duration::ZERO
    }
    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }
    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}
