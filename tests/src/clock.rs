//! A wall clock that a scenario steps, for one process: a small library that the dynamic linker puts before the C library's own.

use std::path::PathBuf;
use std::process::Command;

use crate::sandbox::Sandbox;

/// The clock of whoever is started by [`Clock::words`]. Only what the time of day is changes; time that is measured does not.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    step: PathBuf,
}

impl Clock {
    /// A right one. `None`, with a word, where there is no C compiler to make it.
    pub fn new(sandbox: &Sandbox) -> Option<Self> {
        let source = sandbox.write("clock.c", SOURCE);
        let library = sandbox.path().join("clock.so");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source);
        if !compiler.status().is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: `cc` makes no library on this machine");
            return None;
        }
        let clock = Self { library, step: sandbox.path().join("clock.step") };
        clock.step(0);
        Some(clock)
    }

    /// What a program is started under.
    pub fn words(&self) -> Vec<String> {
        let preload = format!("LD_PRELOAD={}", self.library.display());
        vec!["env".into(), preload, format!("CLOCK_STEP_FILE={}", self.step.display())]
    }

    /// From now on, the time of day is so many seconds later than it is.
    ///
    /// # Panics
    /// When that cannot be written down.
    pub fn step(&self, seconds: i64) {
        // Moved into place: nobody reads half of it.
        let next = self.step.with_extension("next");
        std::fs::write(&next, seconds.to_string()).expect("a file in the sandbox");
        std::fs::rename(&next, &self.step).expect("a file in the sandbox");
    }
}

const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long long step(void) {
    char text[32] = {0};
    const char *path = getenv("CLOCK_STEP_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return 0;
    if (read(file, text, sizeof text - 1) < 0) text[0] = 0;
    close(file);
    return atoll(text);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *)) dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (result == 0 && id == CLOCK_REALTIME) now->tv_sec += step();
    return result;
}
"#;
