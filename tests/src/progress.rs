//! Steps with their times on standard output, for people who watch.

use std::time::{Duration, Instant};

use anyhow::Result;

/// Prints numbered steps and what each took, and remembers the times for a summary.
pub struct Progress {
    start: Instant,
    steps: Vec<(String, Duration)>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { start: Instant::now(), steps: Vec::new() }
    }
}

impl Progress {
    /// Runs one step: prints `title` before it and its time after it.
    ///
    /// # Errors
    /// Those of `work`, after saying which step it was.
    pub fn step<T>(&mut self, title: &str, work: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        println!("\n[{:>6.1} s] {}. {title}", self.seconds(), self.steps.len() + 1);
        let begin = Instant::now();
        let result = work(self);
        let took = begin.elapsed();
        self.steps.push((title.to_owned(), took));
        match &result {
            Ok(_) => println!("[{:>6.1} s]    done in {:.1} s", self.seconds(), took.as_secs_f64()),
            Err(error) => {
                println!("[{:>6.1} s]    FAILED after {:.1} s: {error:#}", self.seconds(), took.as_secs_f64())
            }
        }
        result
    }

    /// A line below the current step.
    pub fn note(&self, text: &str) {
        for line in text.lines() {
            println!("[{:>6.1} s]    {line}", self.seconds());
        }
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.start.elapsed().as_secs_f64()
    }

    /// The steps so far with their times.
    pub fn steps(&self) -> &[(String, Duration)] {
        &self.steps
    }
}
