//! How the kernel programs come to the time.
//!
//! A call of the clock costs a program as much as finding a flow; the number of the kernel's timer tick, the jiffy, is
//! one load. Jiffies are counted off the monotonic clock, so the time is `jiffies * period + base`, within a jiffy of the
//! coarse clock, which moves by as much. The period is what the coarse clock resolves; the base is found once, by a
//! program that reads both.

use std::io;
use std::thread;
use std::time::Duration;

use aya::Ebpf;
use aya::programs::{TestRun as _, TestRunOptions};
use flowhop_flow::record::Config;

use super::KernelError;
use super::attach::classifier;
use super::run::{Program, load_program};

/// How often both are read. A jiffy is counted just before the clock is moved on: what is read between the two gives a
/// base that is a period too low, and the highest one counts.
const READINGS: usize = 3;
const BETWEEN: Duration = Duration::from_micros(300);

/// Has the programs go by jiffies.
pub(super) fn set_clock(ebpf: &mut Ebpf, config: &Config) -> Result<(), KernelError> {
    load_program(ebpf, Program::Clock)?;
    // Until the base is there they call the clock; who has read the period before this finds the old base.
    config.jiffy.store(0);
    let period = period()?;
    // Jiffies do not begin at 0, so it may be below 0.
    let mut base = i64::MIN;
    for _ in 0..READINGS {
        let result = classifier(ebpf, Program::Clock)?.test_run(TestRunOptions {
            // As long as a frame has to be; the program does not look at it.
            data_in: Some(&[0; 64]),
            ..TestRunOptions::default()
        });
        result.map_err(|error| KernelError::of_program(Program::Clock.name(), error))?;
        let jiffies = config.jiffies_read.load();
        base = base.max(config.clock_read.load().wrapping_sub(jiffies.wrapping_mul(period)) as i64);
        thread::sleep(BETWEEN);
    }
    config.clock_base.store(base as u64);
    config.jiffy.store(period as u32);
    Ok(())
}

/// Nanoseconds of a jiffy: what the coarse clock resolves.
fn period() -> Result<u64, KernelError> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call fills in a `timespec`.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) } != 0 {
        return Err(KernelError::System { call: "clock_getres", error: io::Error::last_os_error() });
    }
    Ok(time.tv_nsec as u64)
}
